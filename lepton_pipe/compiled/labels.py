"""Connected components of masks, by runs: what costs time is runs, not voxels.

A run is a stretch of foreground in one row, that is along the last axis. Rows are numbered in C
order, and runs with them. `runs_of` finds the runs, `components` joins those that touch,
`measure` and `paint` turn runs into sizes and images. See He, Chao, Suzuki (2008), A run-based
two-scan labeling algorithm, IEEE Transactions on Image Processing 17.

Everywhere here an image has the shape ``(outer, z, y, x)``, with 1 for axes that it lacks; nothing
is joined along `outer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.compiled import jit

Shape = tuple[int, int, int, int]
Stop = tuple[int, int, int]
_FIRST_BITS = np.uint64(0x0101010101010101)
_BYTE_INDEX = np.uint64(0x0001020304050607)
"""Its top byte, when multiplied by the lowest bit of byte `i` of a word, is `i`."""
MOST_VOXELS = 2**31 - 1


class Runs(NamedTuple):
    """The foreground of an image.

    Attributes
    ----------
    edges
        int32: where run `i` starts and stops in its row, at ``2 * i`` and ``2 * i + 1``.
    rows
        int32: row `r` has the runs ``rows[r]`` to ``rows[r + 1]``.
    shape
        Shape of the image.
    """

    edges: NDArray[np.int32]
    rows: NDArray[np.int32]
    shape: Shape


def fits(mask: NDArray[Any]) -> bool:
    """Tell whether indices of the mask's voxels fit the 32 bits that are used here."""
    return 0 < mask.size <= MOST_VOXELS


def padded(shape: Sequence[int], spatial: int) -> Shape:
    """Return a shape whose last `spatial` axes are z, y, x as ``(outer, z, y, x)``."""
    outer, inner = shape[: len(shape) - spatial], shape[len(shape) - spatial :]
    z, y, x = (*(1,) * (3 - spatial), *inner)
    return (prod(outer), z, y, x)


def runs_of(mask: NDArray[Any], spatial: int) -> Runs:
    """Find the runs of a mask, counting them first: their memory is 8 bytes each, and no more.

    Parameters
    ----------
    mask
        Foreground where not zero. Copied, as one byte per voxel, unless it is boolean and in C
        order.
    spatial
        The last `spatial` axes are z, y, x, as far as present.
    """
    shape = padded(mask.shape, spatial)
    flat = np.ascontiguousarray(mask if mask.dtype == np.bool_ else mask != 0)
    flat = _only_read(flat.reshape(-1).view(np.uint8))
    rows = np.zeros(flat.size // shape[3] + 1, np.int32)
    _count(flat, shape[3], rows)
    edges = np.empty(2 * int(rows[-1]), np.int32)
    _find(flat, shape[3], rows, edges)
    return Runs(edges, rows, shape)


@jit
def _count(flat: Any, length: int, rows: Any) -> None:
    for r in range(rows.size - 1):
        row = flat[r * length : (r + 1) * length]
        count = np.uint32(row[0] != 0)
        for x in range(1, length):
            count += np.uint32((row[x] != 0) & (row[x - 1] == 0))
        rows[r + 1] = rows[r] + count


@jit
def _find(flat: Any, length: int, rows: Any, edges: Any) -> None:
    """Find edges, eight voxels at a time: bytes of a word that differ from the one before."""
    k = 0
    for r in range(rows.size - 1):
        if rows[r] == rows[r + 1]:
            continue
        row = flat[r * length : (r + 1) * length]
        last = np.uint64(0)
        for start in range(0, length - 7, 8):
            word = np.uint64(0)
            for i in range(8):
                word |= np.uint64(row[start + i]) << np.uint64(8 * i)
            for shift in (4, 2, 1):  # any bit of a byte counts
                word |= word >> np.uint64(shift)
            word &= _FIRST_BITS
            change = word ^ ((word << np.uint64(8)) | last)
            last = word >> np.uint64(56)
            while change:
                lowest = change & (~change + np.uint64(1))
                edges[k] = start + np.int64((lowest * _BYTE_INDEX) >> np.uint64(56))
                k += 1
                change ^= lowest
        for x in range(length // 8 * 8, length):
            value = np.uint64(row[x] != 0)
            if value != last:
                edges[k] = x
                k += 1
                last = value
        if last:
            edges[k] = length
            k += 1


def components(runs: Runs, spatial: int, connectivity: int) -> tuple[NDArray[np.int32], int]:
    """Label runs, in the order of the components' first voxels.

    Parameters
    ----------
    spatial, connectivity
        Number of spatial axes, and along how many of them at once a step may go.

    Returns
    -------
    labels, count
        int32, 1 to `count` for each run.
    """
    labels = np.arange(runs.edges.size // 2, dtype=np.int32)
    _join_rows(*runs, _around(spatial, connectivity), runs.shape[1:], labels)
    return labels, int(_number(labels))


def split_components(
    runs: Runs, spatial: int, connectivity: int, stop: Stop
) -> tuple[NDArray[np.int32], int, NDArray[np.int32]]:
    """Label runs, and say which of the components fall apart in a box.

    Parameters
    ----------
    stop
        Where the box ends along z, y, x; it begins where the image does.

    Returns
    -------
    labels, count
        As of `components`.
    own
        int32: for each component of the box by itself, numbered from 1, the label in `labels`; 0
        for 0.
    """
    around = _around(spatial, connectivity)
    labels = np.arange(runs.edges.size // 2, dtype=np.int32)
    _join_rows(*runs, around, stop, labels)
    parts = np.zeros_like(labels)
    count = _number_box(*runs, stop, labels, parts)
    _join_shell(*runs, around, stop, labels)
    own = np.zeros(count + 1, np.int32)
    count = int(_number(labels))
    _refine(labels, parts, own)
    return labels, count, own


def _around(spatial: int, connectivity: int) -> NDArray[np.int64]:
    """Return the rows before a row that can touch it: dz, dy, and how far beyond its runs."""
    steps = [
        (dz, dy, int(abs(dz) + abs(dy) < connectivity))
        for dz, dy in ((0, -1), (-1, -1), (-1, 0), (-1, 1))
        if abs(dz) + abs(dy) <= connectivity
        and (dy == 0 or spatial > 1)
        and (dz == 0 or spatial > 2)
    ]
    return np.array(steps, np.int64).reshape(-1, 3)


@jit
def _join_rows(edges: Any, rows: Any, shape: Any, around: Any, stop: Any, parent: Any) -> None:
    """Join the runs of a box that touch: `parent` leads to the first run of a component."""
    outer, depth, height, _ = shape
    for t in range(outer):
        for z in range(stop[0]):
            for y in range(stop[1]):
                r = (t * depth + z) * height + y
                end = _end(edges, rows, r, stop[2])
                if end == rows[r]:
                    continue
                for step in range(around.shape[0]):
                    other_z, other_y = z + around[step, 0], y + around[step, 1]
                    if other_z >= 0 and 0 <= other_y < stop[1]:
                        q = (t * depth + other_z) * height + other_y
                        other_end = _end(edges, rows, q, stop[2])
                        _touch(edges, rows[r], end, rows[q], other_end, around[step, 2], parent)


@jit
def _join_shell(edges: Any, rows: Any, shape: Any, around: Any, stop: Any, parent: Any) -> None:
    """Join what touches beyond the box, after `_join_rows`.

    Two rows of the box touch there only by their last runs, where one of them leaves the box.
    """
    outer, depth, height, _ = shape
    for t in range(outer):
        for z in range(depth):
            for y in range(height):
                r = (t * depth + z) * height + y
                if rows[r + 1] == rows[r]:
                    continue
                for step in range(around.shape[0]):
                    other_z, other_y = z + around[step, 0], y + around[step, 1]
                    if other_z < 0 or not 0 <= other_y < height:
                        continue
                    q = (t * depth + other_z) * height + other_y
                    if rows[q + 1] == rows[q]:
                        continue
                    i, j = rows[r], rows[q]
                    if z < stop[0] and max(y, other_y) < stop[1]:
                        i, j = rows[r + 1] - 1, rows[q + 1] - 1
                        if max(edges[2 * i + 1], edges[2 * j + 1]) <= stop[2]:
                            continue
                    _touch(edges, i, rows[r + 1], j, rows[q + 1], around[step, 2], parent)


@jit
def _number(parent: Any) -> int:
    """Put labels from 1 in the place of what leads to a component's first run."""
    count = 0
    for i in range(parent.size):
        if parent[i] == i:
            count += 1
            parent[i] = count
        else:
            parent[i] = parent[parent[i]]  # an earlier run of the component, so a label by now
    return count


@jit
def _number_box(edges: Any, rows: Any, shape: Any, stop: Any, parent: Any, labels: Any) -> int:
    outer, depth, height, _ = shape
    count = 0
    for t in range(outer):
        for z in range(stop[0]):
            for y in range(stop[1]):
                r = (t * depth + z) * height + y
                for i in range(rows[r], _end(edges, rows, r, stop[2])):
                    if parent[i] == i:
                        count += 1
                        labels[i] = count
                    else:
                        labels[i] = labels[parent[i]]
    return count


@jit
def _refine(coarse: Any, fine: Any, table: Any) -> None:
    for i in range(fine.size):
        if fine[i]:
            table[fine[i]] = coarse[i]


@jit
def _end(edges: Any, rows: Any, r: int, stop: int) -> int:
    """Return the end of the runs of row `r` that begin before `stop`."""
    end: int = rows[r + 1]
    while end > rows[r] and edges[2 * end - 2] >= stop:
        end -= 1
    return end


@jit
def _touch(edges: Any, i: int, i_end: int, j: int, j_end: int, reach: int, parent: Any) -> None:
    """Join the runs of a row, from `i` on, with those of another that they touch."""
    while i < i_end and j < j_end:
        if edges[2 * j + 1] + reach <= edges[2 * i]:
            j += 1
        elif edges[2 * i + 1] + reach <= edges[2 * j]:
            i += 1
        else:
            if parent[i] != parent[j]:
                a, b = _root(parent, i), _root(parent, j)
                parent[max(a, b)] = min(a, b)
            if edges[2 * j + 1] <= edges[2 * i + 1]:
                j += 1
            else:
                i += 1


@jit
def _root(parent: Any, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def measure(
    runs: Runs, labels: NDArray[np.int32], count: int, stop: Stop
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return size and first voxel of each label, 0 among them, in the box that ends at `stop`.

    Returns
    -------
    size, first
        int32: voxels, and the index of the first of them in the flattened box, its size where
        there is none.
    """
    size = np.zeros(count + 1, np.int32)
    first = np.full(count + 1, runs.shape[0] * prod(stop), np.int32)
    _measure(*runs, labels, stop, size, first)
    return size, first


@jit
def _measure(
    edges: Any, rows: Any, shape: Any, labels: Any, stop: Any, size: Any, first: Any
) -> None:
    outer, depth, height, _ = shape
    for t in range(outer):
        for z in range(stop[0]):
            for y in range(stop[1]):
                r = (t * depth + z) * height + y
                origin = ((t * stop[0] + z) * stop[1] + y) * stop[2]
                for i in range(rows[r], _end(edges, rows, r, stop[2])):
                    k = labels[i]
                    size[k] += min(edges[2 * i + 1], stop[2]) - edges[2 * i]
                    first[k] = min(first[k], origin + edges[2 * i])


def paint(
    runs: Runs, labels: NDArray[np.int32], table: NDArray[np.int64], dtype: Any = np.int32
) -> NDArray[Any]:
    """Return an image, ``(outer, z, y, x)``: ``table[k]`` in runs of label `k`, 0 in no run.

    Parameters
    ----------
    dtype
        Of the image; int32 or int64, and the table's numbers must fit it.
    """
    image = np.zeros(runs.shape, dtype)
    _paint(*runs, labels, _only_read(table), (0, 0, 0), image)
    return image


def plane(
    runs: Runs, labels: NDArray[np.int32], count: int, axis: int, index: int
) -> NDArray[np.int32]:
    """Return an image of the labels, 1 to `count`, at an index along the axis 1 to 3."""
    start, shape = [0, 0, 0], list(runs.shape)
    start[axis - 1], shape[axis] = index, 1
    image = np.zeros(shape, np.int32)
    _paint(*runs, labels, _only_read(np.arange(count + 1)), tuple(start), image)
    return image.squeeze(axis)


def _only_read(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written to: one compiled form for those that are and are not."""
    view = array.view()
    view.flags.writeable = False
    return view


@jit
def _paint(
    edges: Any, rows: Any, shape: Any, labels: Any, table: Any, start: Any, image: Any
) -> None:
    """Paint the box of `image`'s shape that begins at `start`."""
    outer, depth, height, _ = shape
    for t in range(outer):
        for z in range(image.shape[1]):
            for y in range(image.shape[2]):
                r = (t * depth + z + start[0]) * height + y + start[1]
                row = image[t, z, y]
                for i in range(rows[r], rows[r + 1]):
                    value = table[labels[i]]
                    if value:
                        first = max(edges[2 * i] - start[2], 0)
                        for x in range(first, min(edges[2 * i + 1] - start[2], row.size)):
                            row[x] = value
