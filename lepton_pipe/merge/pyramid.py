"""Scale levels: cells of voxels made into one, exact and the same for any blocks.

A block whose edges lie on cells' edges gives the same numbers as the whole array: a cell is
reduced from its own voxels alone, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np

from lepton_pipe.device import array_module, loops

Method = Literal["mean", "nearest", "max", "min"]
METHODS: tuple[Method, ...] = ("mean", "nearest", "max", "min")
_LOOP_DTYPES = ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")
_LARGEST_LOOP_CELL = 2**15


def downsample_array(array: Any, factors: Sequence[int], method: Method = "mean") -> Any:
    """Make every cell of ``factors`` voxels into one.

    Parameters
    ----------
    array
        Array of any dtype; it starts at the edge of a cell.
    factors
        Voxels of a cell along each axis. The last cell along an axis is made of the voxels that
        are there.
    method
        ``"mean"``, ``"max"``, ``"min"``, or ``"nearest"`` for the first voxel of the cell.

    Returns
    -------
    array
        Of the array's dtype and ``ceil(n / factor)`` voxels along each axis. The mean of integers
        is exact and rounded once, halves to the even integer; of a mask it is the majority, and
        False for a draw; of floats it is summed in float64. NaN in a cell gives NaN, but for
        ``"nearest"``.
    """
    if method == "nearest":
        return array[tuple(slice(None, None, f) for f in factors)].copy()
    if prod(factors) == 1:
        return array.copy()
    if method != "mean":
        return _folded(array, factors, np.maximum if method == "max" else np.minimum, array.dtype)
    fast = loops("resample", array) if has_loop(array.dtype, factors) else None
    return array_mean(array, factors) if fast is None else fast.mean(array, factors)


def has_loop(dtype: np.dtype[Any], factors: Sequence[int]) -> bool:
    """Tell whether means are made by a compiled loop on the CPU.

    It adds 16-bit values up in 32 bits and knows cells along the last three axes alone.
    """
    return (
        dtype.isnative
        and dtype.str[1:] in _LOOP_DTYPES
        and prod(factors) <= _LARGEST_LOOP_CELL
        and all(f == 1 for f in factors[:-3])
    )


def array_mean(array: Any, factors: Sequence[int]) -> Any:
    """Return the mean of every cell by operations on whole arrays, for NumPy and CuPy."""
    if array.dtype.kind == "f":
        return _float_mean(array, factors)
    if array.dtype.itemsize == 8:
        return _wide_mean(array, factors)
    total = _folded(array, factors, np.add, _sum_dtype(array.dtype, prod(factors)))
    return _rounded(total, _counts(array, factors)).astype(array.dtype)


def scratch_bytes(dtype: np.dtype[Any], factors: Sequence[int], method: Method) -> float:
    """Return the bytes per voxel of the array that `downsample_array` needs besides its result.

    On the CPU; the form for whole arrays, which is that of a device, needs more.
    """
    coarse = [f for f in factors if f > 1]
    if method == "nearest" or not coarse or (method == "mean" and has_loop(dtype, factors)):
        return 0.0
    first, cell = coarse[0], prod(factors)
    integer = method == "mean" and dtype.kind != "f"
    if integer and dtype.itemsize == 8:
        return 8.5 + 24.0 / first + 48.0 / cell
    wide = dtype.itemsize
    if method == "mean":
        wide = _sum_dtype(dtype, cell).itemsize if integer else 8
    along = wide / first * (1.0 + 1.0 / coarse[1] if len(coarse) > 1 else 1.0)
    return 0.5 + along + (5.0 * wide / cell if integer else wide / cell)


def _folded(array: Any, factors: Sequence[int], ufunc: np.ufunc, dtype: np.dtype[Any]) -> Any:
    """Fold the voxels of each cell, axis after axis; the slow axes first, they shrink the rest."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            array = _folded_along(array, axis, factor, ufunc, dtype)
    return array


def _folded_along(array: Any, axis: int, factor: int, ufunc: np.ufunc, dtype: np.dtype[Any]) -> Any:
    lead = (slice(None),) * axis
    result = array[(*lead, slice(None, None, factor))].astype(dtype)
    for k in range(1, min(factor, array.shape[axis])):
        voxels = array[(*lead, slice(k, None, factor))]
        part = result[(*lead, slice(voxels.shape[axis]))]
        ufunc(part, voxels, out=part)
    return result


def _sum_dtype(dtype: np.dtype[Any], count: int) -> np.dtype[Any]:
    """Return the smallest dtype that holds the sum of `count` values."""
    if dtype.kind == "b":
        return np.min_scalar_type(count)
    info = np.iinfo(dtype)
    if info.min == 0:
        return np.min_scalar_type(int(info.max) * count)
    return np.min_scalar_type(int(info.min) * count)


def _counts(array: Any, factors: Sequence[int]) -> Any:
    """Return how many voxels each cell has: a number where it is the same for all of them."""
    if all(n % f == 0 for n, f in zip(array.shape, factors, strict=True)):
        return prod(factors)
    xp = array_module(array)
    counts: Any = 1
    for axis, (n, f) in enumerate(zip(array.shape, factors, strict=True)):
        along = xp.full(-(-n // f), f, dtype=np.int64)
        along[-1] = n - (len(along) - 1) * f
        counts = counts * along.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return counts


def _rounded(total: Any, counts: Any) -> Any:
    """Divide integers and round to nearest, halves to even."""
    if not isinstance(counts, int):
        counts = counts.astype(total.dtype)
    quotient = total // counts
    rest = total - quotient * counts
    # Twice the rest could overflow a sum that just fits its dtype; its complement cannot.
    up = (rest > counts - rest) | ((rest == counts - rest) & (quotient % 2 == 1))
    quotient += up.astype(quotient.dtype)
    return quotient


def _wide_mean(array: Any, factors: Sequence[int]) -> Any:
    # Sums of 64-bit integers overflow: the upper and lower 32 bits are summed apart.
    counts = _counts(array, factors)
    upper = _folded(array >> 32, factors, np.add, array.dtype)
    lower = _folded(array & 0xFFFFFFFF, factors, np.add, array.dtype)
    if not isinstance(counts, int):
        counts = counts.astype(array.dtype)
    quotient = upper // counts
    rest = upper - quotient * counts
    return (quotient << 32) + _rounded((rest << 32) + lower, counts)


def _float_mean(array: Any, factors: Sequence[int]) -> Any:
    total = _folded(array, factors, np.add, np.dtype(np.float64))
    total /= _counts(array, factors)
    return total.astype(array.dtype)
