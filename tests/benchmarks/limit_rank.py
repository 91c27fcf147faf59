"""The hand-written limit: median and opening of 3 x 3 x 3 voxels, by minima and maxima of rows.

A row of voxels is one vector: comparing two rows sorts all their voxels at once. The median comes
from a sorting network (Batcher, 1968, Sorting networks and their applications), of which only the
comparisons are kept that the middle value depends on.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _batcher(n: int) -> list[tuple[int, int]]:
    """Return the comparators of an odd-even merge sort of `n` values."""
    pairs, p = [], 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return pairs


def _kept(pairs: list[tuple[int, int]], wanted: set[int]) -> list[tuple[int, int]]:
    """Return the comparators that the wanted places depend on."""
    kept = []
    for a, b in reversed(pairs):
        if a in wanted or b in wanted:
            wanted |= {a, b}
            kept.append((a, b))
    return kept[::-1]


@cache
def networks() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the network that sorts 9 columns, and the one that takes the median of 3 such."""
    nine = _batcher(9)
    # The three sorted nines are sorted already: each rank's three first, then the whole.
    ranks = [(9 * i + k, 9 * j + k) for k in range(9) for i, j in ((0, 1), (1, 2), (0, 1))]
    order = [9 * i + k for k in range(9) for i in range(3)]
    whole = [(order[a], order[b]) for a, b in _batcher(27)]
    middle = _useful(_kept(ranks + whole, {order[13]}))
    return np.array(nine), np.array([*middle, (order[13], order[13])])


def _useful(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Drop comparators that never exchange anything when each nine comes in sorted.

    By the 0-1 principle it is enough to look at nines of zeros and ones: 10 of each.
    """
    cases = np.array(
        [
            [0] * (9 - a) + [1] * a + [0] * (9 - b) + [1] * b + [0] * (9 - c) + [1] * c
            for a in range(10)
            for b in range(10)
            for c in range(10)
        ],
        np.uint8,
    )
    kept = []
    for a, b in pairs:
        low, high = np.minimum(cases[:, a], cases[:, b]), np.maximum(cases[:, a], cases[:, b])
        if (low != cases[:, a]).any():
            kept.append((a, b))
        cases[:, a], cases[:, b] = low, high
    return kept


@njit(nogil=True, cache=True)
def _sort(rows, pairs, n):  # type: ignore[no-untyped-def]
    """Run a network over rows of `n` values."""
    for i in range(len(pairs)):
        a, b = pairs[i, 0], pairs[i, 1]
        for x in range(n):
            p, q = rows[a, x], rows[b, x]
            rows[a, x] = p if p < q else q
            rows[b, x] = q if p < q else p


@njit(nogil=True, cache=True)
def _median(block, nine, middle, columns, rows, out):  # type: ignore[no-untyped-def]
    nz, ny, nx = out.shape
    last = middle[-1, 0]
    for z in range(nz):
        for y in range(ny):
            for i in range(9):
                for x in range(nx + 2):
                    columns[i, x] = block[z + i // 3, y + i % 3, x]
            _sort(columns, nine, nx + 2)
            for i in range(27):
                for x in range(nx):
                    rows[i, x] = columns[i % 9, i // 9 + x]
            _sort(rows, middle[:-1], nx)
            for x in range(nx):
                out[z, y, x] = rows[last, x]


def median(block: NDArray[Any], out: NDArray[Any]) -> None:
    """Take the median over 3 x 3 x 3 voxels of a chunk that is grown by one."""
    nx = out.shape[2]
    columns = np.empty((9, nx + 2), block.dtype)
    _median(block, *networks(), columns, np.empty((27, nx), block.dtype), out)


@njit(nogil=True, cache=True)
def _box(block, largest, plane, line, out):  # type: ignore[no-untyped-def]
    """Take the extreme of 3 x 3 x 3 voxels; `out` is smaller by one on each side."""
    nz, ny, nx = out.shape
    for z in range(nz):
        for y in range(ny + 2):
            a, b, c, target = block[z, y], block[z + 1, y], block[z + 2, y], plane[y]
            if largest:
                for x in range(nx + 2):
                    target[x] = max(max(a[x], b[x]), c[x])
            else:
                for x in range(nx + 2):
                    target[x] = min(min(a[x], b[x]), c[x])
        for y in range(ny):
            a, b, c, target = plane[y], plane[y + 1], plane[y + 2], out[z, y]
            if largest:
                for x in range(nx + 2):
                    line[x] = max(max(a[x], b[x]), c[x])
                for x in range(nx):
                    target[x] = max(max(line[x], line[x + 1]), line[x + 2])
            else:
                for x in range(nx + 2):
                    line[x] = min(min(a[x], b[x]), c[x])
                for x in range(nx):
                    target[x] = min(min(line[x], line[x + 1]), line[x + 2])


def opening(block: NDArray[Any], eroded: NDArray[Any], out: NDArray[Any]) -> None:
    """Open a chunk that is grown by two; `eroded` is a buffer, grown by one."""
    for source, largest, target in ((block, False, eroded), (eroded, True, out)):
        _, ny, nx = source.shape
        plane, line = np.empty((ny, nx), out.dtype), np.empty(nx, out.dtype)
        _box(source, largest, plane, line, target)
