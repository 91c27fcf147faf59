"""The hand-written limit: connected components of runs along x, and sums over labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Columns of the sums: voxels, positions z y x, intensity; then box: lowest and highest z y x.
SUMS, BOX = 5, 6


@njit(nogil=True, cache=True)
def _root(parent, i):  # type: ignore[no-untyped-def]
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _unite(parent, a, b):  # type: ignore[no-untyped-def]
    a, b = _root(parent, a), _root(parent, b)
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@njit(nogil=True, cache=True)
def _touch(parent, ends, a, a1, b, b1):  # type: ignore[no-untyped-def]
    """Unite runs a..a1 of one row with those of the row b..b1 that overlap them."""
    while a < a1 and b < b1:
        if ends[a, 0] < ends[b, 1] and ends[b, 0] < ends[a, 1]:
            _unite(parent, a, b)
        if ends[a, 1] < ends[b, 1]:
            a += 1
        else:
            b += 1


@njit(nogil=True, cache=True)
def find_runs(image, threshold):  # type: ignore[no-untyped-def]
    """Return ends of all runs above a threshold, and the first run of each row."""
    nz, ny, nx = image.shape
    first = np.zeros(nz * ny + 1, np.int64)
    ends = np.empty((max(1024, image.size // 32), 2), np.int32)
    n = 0
    for row in range(nz * ny):
        line = image[row // ny, row % ny]
        inside = False
        for x in range(nx):
            bright = line[x] > threshold
            if bright == inside:
                continue
            if bright:
                if n == len(ends):
                    more = np.empty((2 * n, 2), np.int32)
                    more[:n] = ends
                    ends = more
                ends[n, 0] = x
            else:
                ends[n, 1] = x
                n += 1
            inside = bright
        if inside:
            ends[n, 1] = nx
            n += 1
        first[row + 1] = n
    return ends[:n].copy(), first


@njit(nogil=True, cache=True)
def label_runs(ends, first, nz, ny):  # type: ignore[no-untyped-def]
    """Return a number from 0 for each run, the same for runs of one object, and their count."""
    parent = np.arange(len(ends))
    for row in range(nz * ny):
        if row % ny:
            _touch(parent, ends, first[row], first[row + 1], first[row - 1], first[row])
        if row >= ny:
            above = row - ny
            _touch(parent, ends, first[row], first[row + 1], first[above], first[above + 1])
    number = np.empty(len(ends), np.int64)
    count = 0
    for i in range(len(ends)):
        if parent[i] == i:
            number[i] = count
            count += 1
        else:
            number[i] = number[_root(parent, i)]
    return number, count


@njit(nogil=True, cache=True)
def paint(ends, first, value, ny, out):  # type: ignore[no-untyped-def]
    """Paint every run with its value."""
    out[:] = 0
    for row in range(len(first) - 1):
        line = out[row // ny, row % ny]
        for i in range(first[row], first[row + 1]):
            line[ends[i, 0] : ends[i, 1]] = value[i]


@njit(nogil=True, cache=True)
def measure_runs(image, ends, first, number, count, corner):  # type: ignore[no-untyped-def]
    """Return sums and boxes of all objects of a chunk that starts at `corner`."""
    sums = np.zeros((count, SUMS), np.int64)
    box = np.empty((count, BOX), np.int64)
    box[:, :3] = 1 << 40
    box[:, 3:] = -1
    ny = image.shape[1]
    for row in range(len(first) - 1):
        line = image[row // ny, row % ny]
        z, y = row // ny + corner[0], row % ny + corner[1]
        for i in range(first[row], first[row + 1]):
            a, b, k = ends[i, 0], ends[i, 1], number[i]
            light = 0
            for x in range(a, b):
                light += line[x]
            add(sums[k], box[k], z, y, a + corner[2], b + corner[2], light)
    return sums, box


@njit(nogil=True, cache=True)
def add(sums, box, z, y, a, b, light):  # type: ignore[no-untyped-def]
    """Add a run a..b of the row z, y to an object's sums and box."""
    n = b - a
    sums[0] += n
    sums[1] += n * z
    sums[2] += n * y
    sums[3] += n * (a + b - 1) // 2
    sums[4] += light
    box[0], box[3] = min(box[0], z), max(box[3], z)
    box[1], box[4] = min(box[1], y), max(box[4], y)
    box[2], box[5] = min(box[2], a), max(box[5], b - 1)


@njit(nogil=True, cache=True)
def measure_labels(labels, image, corner, sums, box):  # type: ignore[no-untyped-def]
    """Add the objects of a chunk of given labels to tables indexed by label."""
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            line, light = labels[z, y], image[z, y]
            x = 0
            while x < nx:
                k = line[x]
                if k == 0:
                    x += 1
                    continue
                start, total = x, 0
                while x < nx and line[x] == k:
                    total += light[x]
                    x += 1
                at = (start + corner[2], x + corner[2])
                add(sums[k], box[k], z + corner[0], y + corner[1], at[0], at[1], total)


@njit(nogil=True, cache=True)
def join_faces(parent, a, b):  # type: ignore[no-untyped-def]
    """Unite the objects that touch where two chunks meet; 0 is background, numbers from 1."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            if a[i, j] and b[i, j]:
                _unite(parent, a[i, j], b[i, j])


@njit(nogil=True, cache=True)
def roots(parent):  # type: ignore[no-untyped-def]
    """Return the final number of every object, from 1 on, and how many there are."""
    number = np.zeros(len(parent), np.int64)
    count = 0
    for i in range(1, len(parent)):
        if parent[i] == i:
            count += 1
            number[i] = count
        else:
            number[i] = number[_root(parent, i)]
    return number, count


def empty_tables(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return tables of sums and boxes for labels below `count`."""
    box = np.empty((count, BOX), np.int64)
    box[:, :3], box[:, 3:] = 1 << 40, -1
    return np.zeros((count, SUMS), np.int64), box


def columns(sums: NDArray[np.int64], box: NDArray[np.int64]) -> dict[str, Any]:
    """Return the table of all labels that have voxels."""
    label = np.flatnonzero(sums[:, 0])
    n = sums[label, 0]
    table: dict[str, Any] = {"label": label, "area": n, "intensity_mean": sums[label, 4] / n}
    for i, axis in enumerate("zyx"):
        table[f"centroid-{axis}"] = sums[label, 1 + i] / n
        table[f"bbox_min-{axis}"] = box[label, i]
        table[f"bbox_max-{axis}"] = box[label, 3 + i] + 1
    return table
