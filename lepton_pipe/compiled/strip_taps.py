"""Rows of floats, weighed with the rows beside them or along themselves.

Row `r` of a buffer is the `n` floats from element `r` on, and rows lie `PITCH` apart: the compiler
knows the distance between rows, and computes eight taps of four rows from eleven loads. Elements
are counted in unsigned numbers, for which Numba does not look whether they are negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

# An odd number of cache lines of floats, so that rows above one another do not compete for the
# same places in the cache.
PITCH = 560


def as_taps(weights: Any, kind: np.dtype[Any]) -> Any:
    """Return weights as the loops take them, in the dtype of the rows."""
    exact = np.asarray(weights, np.float64)
    taps = exact.astype(kind)
    # A weight too small for float32 must not become zero: it would make NaN of infinity.
    lost = (taps == 0) & (exact != 0)
    taps[lost] = np.copysign(np.finfo(kind).tiny, exact[lost])
    return taps


@register_jitable
def copy_row(target: Any, t: int, source: Any, s: int, n: int) -> None:
    """Copy a row, which may change its dtype."""
    for x in range(n):
        target[np.uintp(t + x)] = source[np.uintp(s + x)]


@register_jitable
def _set(out: Any, o: int, row: Any, r: int, w: float, n: int) -> None:
    for x in range(n):
        out[np.uintp(o + x)] = w * row[np.uintp(r + x)]


@register_jitable
def add_row(out: Any, o: int, row: Any, r: int, w: float, n: int) -> None:
    """Add a row, weighed, to another."""
    for x in range(n):
        out[np.uintp(o + x)] += w * row[np.uintp(r + x)]


@register_jitable
def _weigh_taps(out: Any, o: int, row: Any, r: int, w: Any, n: int, fresh: bool) -> None:
    for x in range(n):
        a = w[0] * row[np.uintp(r + x)]
        for k in range(1, len(w)):
            a += w[k] * row[np.uintp(r + x + k)]
        out[np.uintp(o + x)] = a if fresh else out[np.uintp(o + x)] + a


@register_jitable
def _weigh_taps_of_rows(out: Any, o: int, rows: Any, r: int, w: Any, n: int, fresh: bool) -> None:
    for x in range(n):
        a = w[0] * rows[np.uintp(r + x)]
        b = w[0] * rows[np.uintp(r + x + PITCH)]
        c = w[0] * rows[np.uintp(r + x + 2 * PITCH)]
        d = w[0] * rows[np.uintp(r + x + 3 * PITCH)]
        for k in range(1, len(w)):
            a += w[k] * rows[np.uintp(r + x + k * PITCH)]
            b += w[k] * rows[np.uintp(r + x + (k + 1) * PITCH)]
            c += w[k] * rows[np.uintp(r + x + (k + 2) * PITCH)]
            d += w[k] * rows[np.uintp(r + x + (k + 3) * PITCH)]
        if not fresh:
            a += out[np.uintp(o + x)]
            b += out[np.uintp(o + x + PITCH)]
            c += out[np.uintp(o + x + 2 * PITCH)]
            d += out[np.uintp(o + x + 3 * PITCH)]
        out[np.uintp(o + x)] = a
        out[np.uintp(o + x + PITCH)] = b
        out[np.uintp(o + x + 2 * PITCH)] = c
        out[np.uintp(o + x + 3 * PITCH)] = d


@register_jitable
def weigh_rows(out: Any, o: int, rows: Any, r: int, w: Any, count: int, n: int) -> None:
    """Set ``out[i] = sum(w[k] * rows[i + k])`` for `count` rows of length `n`.

    Up to three rows more are written, from whatever lies there.
    """
    end = -(-count // 4) * 4 * PITCH
    if w.size > 8:
        nine = (w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8])
        for i in range(0, end, 4 * PITCH):
            _weigh_taps_of_rows(out, o + i, rows, r + i, nine, n, True)
        k = 9
    else:
        for i in range(0, end, PITCH):
            _set(out, o + i, rows, r + i, w[0], n)
        k = 1
    while k + 8 <= w.size:
        eight = (w[k], w[k + 1], w[k + 2], w[k + 3], w[k + 4], w[k + 5], w[k + 6], w[k + 7])
        for i in range(0, end, 4 * PITCH):
            _weigh_taps_of_rows(out, o + i, rows, r + i + k * PITCH, eight, n, False)
        k += 8
    if k + 4 <= w.size:
        four = (w[k], w[k + 1], w[k + 2], w[k + 3])
        for i in range(0, end, 4 * PITCH):
            _weigh_taps_of_rows(out, o + i, rows, r + i + k * PITCH, four, n, False)
        k += 4
    for j in range(k, w.size):
        for i in range(0, end, PITCH):
            add_row(out, o + i, rows, r + i + j * PITCH, w[j], n)


@register_jitable
def weigh_row(out: Any, o: int, row: Any, r: int, w: Any, n: int) -> None:
    """Set ``out[x] = sum(w[k] * row[x + k])`` for `n` voxels."""
    if w.size > 8:
        _weigh_taps(out, o, row, r, (w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]), n, True)
        k = 9
    else:
        _set(out, o, row, r, w[0], n)
        k = 1
    while k + 8 <= w.size:
        eight = (w[k], w[k + 1], w[k + 2], w[k + 3], w[k + 4], w[k + 5], w[k + 6], w[k + 7])
        _weigh_taps(out, o, row, r + k, eight, n, False)
        k += 8
    if k + 4 <= w.size:
        _weigh_taps(out, o, row, r + k, (w[k], w[k + 1], w[k + 2], w[k + 3]), n, False)
        k += 4
    for j in range(k, w.size):
        add_row(out, o, row, r + j, w[j], n)
