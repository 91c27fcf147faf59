"""Sums of integers that are exact whatever their number: in limbs of 32 bits.

A limb is an int64 that stands for a multiple of 2**(32 * i). Limbs below the last are brought
into 0 .. 2**32 - 1 by `carry`, so that two billion of them can be added before they overflow. The
sum of the squares of 10**13 voxels of uint16 does not fit 64 bits; floats would make it depend on
the order of addition, and so on how the image is cut into blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MASK = 0xFFFFFFFF
_SAFE = float(2**62)


def limb_count(dtype: np.dtype[Any]) -> int:
    """Return how many limbs hold any sum of values, or of their squares, of an integer dtype."""
    return {1: 2, 2: 2, 4: 3, 8: 5}[dtype.itemsize]


def value_limbs(values: Any) -> list[Any]:
    """Return limbs of every value; at least 2**30 of them can be added up."""
    if values.dtype.itemsize <= 4:
        return [values.astype(np.int64)]
    return [(values & values.dtype.type(_MASK)).astype(np.int64), (values >> 32).astype(np.int64)]


def square_limbs(values: Any) -> list[Any]:
    """Return limbs of the square of every value; at least 2**29 of them can be added up."""
    if values.dtype.itemsize <= 2:
        wide = values.astype(np.int64)
        return [wide * wide]
    size = abs(values.astype(np.int64)) if values.dtype.kind == "i" else values
    size = size.astype(np.uint64)  # the absolute value of -2**63 wraps to itself: right again
    low = _split(size & _MASK, size & _MASK)
    if values.dtype.itemsize == 4:
        return low
    cross, high = _split(size >> 32, size & _MASK), _split(size >> 32, size >> 32)
    return [low[0], low[1] + 2 * cross[0], 2 * cross[1] + high[0], high[1]]


def _split(a: Any, b: Any) -> list[Any]:
    product = a * b
    return [(product & _MASK).astype(np.int64), (product >> 32).astype(np.int64)]


def carry(limbs: list[NDArray[np.int64]], count: int) -> list[NDArray[np.int64]]:
    """Return the same numbers in `count` limbs, all but the last in 0 .. 2**32 - 1."""
    result = [np.array(limb) for limb in limbs]
    result += [np.zeros_like(result[0])] * (count - len(result))
    for i in range(count - 1):
        result[i + 1] = result[i + 1] + (result[i] >> 32)
        result[i] &= _MASK
    return result


def to_int(limbs: list[int]) -> int:
    """Return the number that limbs stand for."""
    return sum(limb << (32 * i) for i, limb in enumerate(limbs))


def to_ints(limbs: list[NDArray[np.int64]]) -> NDArray[np.object_]:
    """Return numbers as Python integers."""
    result = np.empty(limbs[0].size, object)
    result[:] = [to_int(list(row)) for row in zip(*(a.tolist() for a in limbs), strict=True)]
    return result


def to_float(limbs: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return numbers as floats, to about one unit in the last place."""
    total = np.zeros(limbs[0].shape)
    for i in reversed(range(len(limbs))):
        total += np.ldexp(limbs[i].astype(np.float64), 32 * i)
    return total


def to_int64(limbs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return numbers as int64.

    Raises
    ------
    OverflowError
        When one does not fit.
    """
    if np.any(abs(to_float(limbs)) > _SAFE):
        return np.array([int(n) for n in to_ints(limbs)], np.int64)
    # Modulo 2**64, so limbs from the third on count nothing.
    return limbs[0] + (limbs[1] << 32) if len(limbs) > 1 else limbs[0]


def variance(
    count: NDArray[np.int64], sums: list[NDArray[np.int64]], squares: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return variances of integers from exact sums.

    Parameters
    ----------
    count
        How many integers.
    sums, squares
        Limbs of their sums, and of the sums of their squares.
    """
    result = np.empty(count.shape)
    large = count * to_float(squares) > _SAFE
    small = ~large
    n, total = count[small], to_int64([a[small] for a in sums])
    spread = n * to_int64([a[small] for a in squares]) - total * total
    result[small] = spread / n / n
    many, whole = count[large].astype(object), to_ints([a[large] for a in sums])
    exact = many * to_ints([a[large] for a in squares]) - whole * whole
    result[large] = (exact / (many * many)).astype(np.float64)
    return result
