"""Means of cells of voxels, in one pass over the array.

The rows of the cells that make one row of the result are added up into one row of sums, which
stays in the core's own cache; then the sums of a cell along x are added and divided. Voxels are
added in the order of the NumPy form (z, then y, then x), so that floats have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.compiled import jit

_SUMS = {
    "b1": np.int32,
    "u1": np.int32,
    "i1": np.int32,
    "u2": np.int32,
    "i2": np.int32,
    "u4": np.int64,
    "i4": np.int64,
    "f4": np.float64,
    "f8": np.float64,
}
# Two rows of sums so wide stay in a core's fastest cache, whatever the width of the array.
_COLUMNS = 2048


def mean(array: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """Return the mean of each cell of ``factors`` voxels; the last along an axis may be cut.

    Parameters
    ----------
    array
        Array of any number of axes, that starts at the edge of a cell: booleans, integers of up
        to 32 bits, float32 or float64, in the machine's byte order.
    factors
        Voxels of a cell along each axis, at most 2**15 in all; 1 but for the last three axes.

    Returns
    -------
    array
        Of the array's dtype. Means of integers are rounded to nearest, halves to even; those of
        booleans are the majority, False for a draw; floats are summed in float64.
    """
    result = np.empty([-(-n // f) for n, f in zip(array.shape, factors, strict=True)], array.dtype)
    if result.size == 0:
        return result
    cell = (1, 1, *factors)[-3:]
    width = min(array.shape[-1], max(1, _COLUMNS // cell[2]) * cell[2])
    sums = np.empty((2, width), _SUMS[array.dtype.str[1:]])
    loop = _float_means if array.dtype.kind == "f" else _integer_means
    for index in np.ndindex(array.shape[:-3]):
        flat, shape, steps = _rows(array[index])
        volume = result[index].reshape((1, 1, *result.shape)[-3:])
        loop(flat, shape, steps, cell, sums, volume.view(flat.dtype))
    return result


def _rows(volume: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...], tuple[int, int]]:
    """Return the memory that a volume of up to three axes spans, its shape, and steps in z and y.

    As it is always flat, contiguous and read-only, loops are compiled once for each dtype.
    """
    volume = volume[(None,) * (3 - volume.ndim)]
    if volume.dtype.kind == "b":
        volume = volume.view(np.uint8)
    size = volume.itemsize
    if volume.strides[2] != size or any(s < 0 or s % size for s in volume.strides[:2]):
        volume = np.ascontiguousarray(volume)
    steps = [s // size for s in volume.strides]
    span = 1 + sum((n - 1) * s for n, s in zip(volume.shape, steps, strict=True))
    flat = np.lib.stride_tricks.as_strided(volume, (span,), (size,), writeable=False)
    return flat, volume.shape, (steps[0], steps[1])


@jit
def _integer_means(flat: Any, shape: Any, steps: Any, cell: Any, sums: Any, result: Any) -> None:
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            for x in range(0, shape[2], sums.shape[1]):
                n, each, last = _sum_cells(flat, shape, steps, cell, (i, j, x), sums)
                row = result[i, j, x // cell[2] : x // cell[2] + n]
                _divide(sums[1, : n - 1], each, row[: n - 1])
                _divide(sums[1, n - 1 : n], last, row[n - 1 :])


@jit
def _float_means(flat: Any, shape: Any, steps: Any, cell: Any, sums: Any, result: Any) -> None:
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            for x in range(0, shape[2], sums.shape[1]):
                n, each, last = _sum_cells(flat, shape, steps, cell, (i, j, x), sums)
                row = result[i, j, x // cell[2] : x // cell[2] + n]
                for k in range(n - 1):
                    row[k] = sums[1, k] / each
                row[n - 1] = sums[1, n - 1] / last


@jit
def _divide(sums: Any, count: int, means: Any) -> None:
    """Divide by `count`, rounding to nearest and halves to even."""
    shift = 0
    while 1 << shift < count:
        shift += 1
    # A sum just below the middle must not reach the next number; one in the middle must, from odd.
    almost_half, even = (count - 1) // 2, 1 - count % 2
    if 1 << shift == count:
        for i in range(len(means)):
            means[i] = (sums[i] + almost_half + (sums[i] >> shift & even)) >> shift
    else:
        for i in range(len(means)):
            means[i] = (sums[i] + almost_half + (sums[i] // count & even)) // count


@jit
def _sum_cells(flat: Any, shape: Any, steps: Any, cell: Any, at: Any, sums: Any) -> Any:
    """Add the voxels of each cell of one row of cells, from column ``at[2]`` on.

    Returns
    -------
    cells, each, last
        How many sums there are in ``sums[1]``, and how many voxels each cell has; and the last.
    """
    i, j, x = at
    depth = min(cell[0], shape[0] - i * cell[0])
    height = min(cell[1], shape[1] - j * cell[1])
    width = min(sums.shape[1], shape[2] - x)
    total, part = sums[0, :width], sums[1, :width]
    start = i * cell[0] * steps[0] + j * cell[1] * steps[1] + x
    _add_rows(flat, start, steps[0], depth, total)
    for y in range(1, height):
        _add_rows(flat, start + y * steps[1], steps[0], depth, part)
        for k in range(width):
            total[k] += part[k]
    last = _fold_along_x(total, cell[2], part)
    cells = -(-width // cell[2])
    return cells, depth * height * cell[2], depth * height * last


@jit
def _add_rows(flat: Any, start: int, step: int, count: int, sums: Any) -> None:
    """Add `count` rows that lie `step` apart."""
    width = len(sums)
    row = flat[start : start + width]
    if count == 1:
        for x in range(width):
            sums[x] = row[x]
        return
    other = flat[start + step : start + step + width]
    for x in range(width):
        sums[x] = sums.dtype.type(row[x]) + sums.dtype.type(other[x])
    for k in range(2, count):
        row = flat[start + k * step : start + k * step + width]
        for x in range(width):
            sums[x] += row[x]


@jit
def _fold_along_x(row: Any, factor: int, folded: Any) -> int:
    """Add the columns of each cell; return how many columns the last cell has."""
    whole = len(row) // factor
    if factor == 1:
        folded[:whole] = row
    elif factor == 2:
        for i in range(whole):
            folded[i] = row[2 * i] + row[2 * i + 1]
    else:
        for i in range(whole):
            folded[i] = _sum(row, factor * i, factor)
    rest = len(row) - whole * factor
    if rest:
        folded[whole] = _sum(row, factor * whole, rest)
        return rest
    return factor


@jit
def _sum(row: Any, start: int, count: int) -> Any:
    total = row[start]
    for k in range(start + 1, start + count):
        total += row[k]
    return total
