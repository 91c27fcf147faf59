"""Correlation along one axis with more weights than the strips of `separable` hold.

The axis lies across rows of `_LANES` voxels side by side, so that a row at a time is weighed.
Weights are taken in parts of `_PART`: what weighs in stays in the processor's cache, and the sums
of parts are added in double precision, so that rounding does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.extending import register_jitable

from lepton_pipe.compiled import jit
from lepton_pipe.compiled.strip_taps import add_row, as_taps

Array = np.ndarray[Any, np.dtype[Any]]

_LANES = 256
_PART = 128
_ROWS = 128


def correlate_axis(block: Array, axis: int, weights: Sequence[float] | Array, part: slice) -> Array:
    """Correlate an array with weights along one axis, mirroring it at both ends.

    Parameters
    ----------
    block
        Array of any dtype that float64 can hold.
    weights
        Voxel ``i`` is made of voxels ``i - n // 2`` to ``i + (n - 1) // 2``, as
        `scipy.ndimage.correlate1d` does it.
    part
        Which voxels along the axis are wanted; a slice of step 1.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), as long as `part` along the axis.
        Every voxel is made by the same operations in the same order wherever it lies.
    """
    if block.ndim == 1:
        out: Array = correlate_axis(block[None], 1, weights, part)[0]
        return out
    kind = np.promote_types(block.dtype, np.float32)
    taps = as_taps(weights, kind)
    length = block.shape[axis]
    start, stop, _ = part.indices(length)
    out = np.empty((*block.shape[:axis], stop - start, *block.shape[axis + 1 :]), kind)
    beside = block.ndim - 1 if axis < block.ndim - 1 else axis - 1
    source, target = (np.moveaxis(a, (axis, beside), (-2, -1)) for a in (block, out))
    rows = _mirrored(np.arange(start - taps.size // 2, stop + (taps.size - 1) // 2), length)
    first, last = int(rows.min(initial=length)), int(rows.max(initial=-1)) + 1
    for index in np.ndindex(source.shape[:-2]):
        for lane in range(0, source.shape[-1], _LANES):
            lanes = slice(lane, lane + _LANES)
            lines = np.ascontiguousarray(source[index][first:last, lanes], kind)
            _weigh_lines(lines, rows - first, taps, target[index][:, lanes])
    return out


def _mirrored(places: Array, length: int) -> Array:
    """Return which voxels of ``d c b a | a b c d | d c b a`` lie at places beyond the ends."""
    around = places % (2 * length)
    mirrored: Array = np.minimum(around, 2 * length - 1 - around)
    return mirrored


def _weigh_lines(lines: Array, rows: Array, taps: Array, out: Array) -> None:
    """Set ``out[i] = sum(taps[k] * lines[rows[i + k]])``."""
    for top in range(0, out.shape[0], _ROWS):
        count = min(_ROWS, out.shape[0] - top)
        total = np.zeros((count, out.shape[1]))
        for begin in range(0, taps.size, _PART):
            some = taps[begin : begin + _PART]
            read = lines[rows[top + begin : top + begin + count + some.size - 1]]
            _add_weighed(read.ravel(), some, total.ravel(), out.shape[1])
        out[top : top + count] = total


# -- rows: row `r` of `rows` is the `n` floats from element `r * n` on -----------------------------
# Elements are counted in unsigned numbers, for which Numba does not look whether they are negative.


@register_jitable
def _weigh_four_rows(part: Any, rows: Any, r: int, w: Any, n: int) -> None:
    """Add several weights to each of four rows: what is read once serves them all."""
    for x in range(n):
        a, b = part[np.uintp(x)], part[np.uintp(x + n)]
        c, d = part[np.uintp(x + 2 * n)], part[np.uintp(x + 3 * n)]
        for k in range(len(w)):
            a += w[k] * rows[np.uintp(r + x + k * n)]
            b += w[k] * rows[np.uintp(r + x + (k + 1) * n)]
            c += w[k] * rows[np.uintp(r + x + (k + 2) * n)]
            d += w[k] * rows[np.uintp(r + x + (k + 3) * n)]
        part[np.uintp(x)], part[np.uintp(x + n)] = a, b
        part[np.uintp(x + 2 * n)], part[np.uintp(x + 3 * n)] = c, d


@jit
def _add_weighed(rows: Any, taps: Any, total: Any, n: int) -> None:
    """Add ``sum(taps[k] * rows[i + k])`` to each row of `total`; a row is made tap after tap."""
    part = np.empty(4 * n, rows.dtype)
    count = total.size // n
    for i in range(0, count, 4):
        part[:] = 0
        several = min(4, count - i)
        k = 0
        while several == 4 and k + 8 <= taps.size:
            w = taps[k : k + 8]
            eight = (w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7])
            _weigh_four_rows(part, rows, (i + k) * n, eight, n)
            k += 8
        for j in range(k, taps.size):
            for q in range(several):
                add_row(part, q * n, rows, (i + j + q) * n, taps[j], n)
        for x in range(several * n):
            total[np.uintp(i * n + x)] += part[np.uintp(x)]
