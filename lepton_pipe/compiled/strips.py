"""The loops of the separable filter: three 1-D correlations while a strip of the image is in cache.

A strip is some rows (y) by some columns (x) through all planes (z). For each plane its rows are
converted to float, weighed along y, then along x; a window of planes done so far is kept, and
weighed along z. All buffers are rows of floats, see `lepton_pipe.compiled.strip_taps`.

Every voxel is made by the same operations in the same order wherever it lies in a strip or block.
What lies beyond the image is its mirror image (``d c b a | a b c d | d c b a``).

One compiled function serves all dtypes read and written: `Images` has a place for each, and what
lies between is float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable

from lepton_pipe.compiled import jit_borrowing
from lepton_pipe.compiled.strip_rows import operate, round_row, tally
from lepton_pipe.compiled.strip_taps import PITCH, copy_row, weigh_row, weigh_rows

F = TypeVar("F", bound=Callable[..., Any])


def _inlined(function: F) -> F:
    """Copy a function into its caller before that is compiled.

    Numba optimises a compiled function again in each that calls it, so there are few levels.
    """
    return cast("F", numba.njit(inline="always")(function))


class Images(NamedTuple):
    """Elements of an image, from the first voxel to the last, under its dtype; else empty."""

    uint8: Any
    uint16: Any
    int16: Any
    floats: Any


class Before(NamedTuple):
    """What is done to each voxel that is read, one operation after the other.

    Attributes
    ----------
    codes
        The operations: `ADD` and the like.
    starts, rows
        Where in `operands` those of an operation begin, and how far its rows are apart (0 where
        all are the same).
    operands
        Floats.
    """

    codes: Any
    starts: Any
    rows: Any
    operands: Any


class Load(NamedTuple):
    """Where the image is read from.

    Attributes
    ----------
    images, kind
        The image, and its index in `images`.
    start, plane, row
        Voxel (z, y, x) is element ``start + z * plane + y * row + x``.
    shape
        Voxels along (z, y, x).
    before
        What is done to each voxel.
    """

    images: Images
    kind: int
    start: int
    plane: int
    row: int
    shape: tuple[int, int, int]
    before: Before


class Store(NamedTuple):
    """Where the result is written to, as `Load`; if `rounded`, as integers from `low` to `high`.

    Attributes
    ----------
    lost
        NaN, infinite, and finite voxels beyond `low` and `high`, to be counted; empty where not.
    box
        Where they are counted: from and to along (z, y, x).
    """

    images: Images
    kind: int
    start: int
    plane: int
    row: int
    rounded: bool
    low: float
    high: float
    lost: Any
    box: tuple[int, int, int, int, int, int]


class Taps(NamedTuple):
    """Weights along each axis."""

    z: Any
    y: Any
    x: Any


class Buffers(NamedTuple):
    """Rows of floats: as read, weighed along y, the window of `slots` planes, weighed along z."""

    read: Any
    across: Any
    window: Any
    slots: int
    result: Any


@register_jitable
def _mirrored(i: int, n: int) -> int:
    if i < -n or i >= 2 * n:
        i %= 2 * n
    return -1 - i if i < 0 else i if i < n else 2 * n - 1 - i


@_inlined
def _pad(row: Any, r: int, x: int, n: int, first: int, last: int, width: int) -> None:
    """Mirror the ends of a row that starts at column `x` and is known from `first` to `last`."""
    for i in range(first - x):
        row[np.uintp(r + i)] = row[np.uintp(r + _mirrored(x + i, width) - x)]
    for i in range(last - x, n):
        row[np.uintp(r + i)] = row[np.uintp(r + _mirrored(x + i, width) - x)]


# -- rows in and out ------------------------------------------------------------------------


@_inlined
def _tally_row(store: Store, z: int, y: int, x: int, row: Any, r: int, n: int) -> None:
    """Count what lies in the box of a row that begins at voxel (z, y, x)."""
    z0, z1, y0, y1, x0, x1 = store.box
    if z0 <= z < z1 and y0 <= y < y1:
        first, last = max(x, x0), min(x + n, x1)
        if first < last:
            tally(row, r + first - x, store.low, store.high, last - first, store.lost)


@_inlined
def _load_row(load: Load, start: int, row: Any, r: int, n: int) -> None:
    if load.kind == 0:
        copy_row(row, r, load.images.uint8, start, n)
    elif load.kind == 1:
        copy_row(row, r, load.images.uint16, start, n)
    elif load.kind == 2:
        copy_row(row, r, load.images.int16, start, n)
    else:
        copy_row(row, r, load.images.floats, start, n)


@_inlined
def _store_row(store: Store, start: int, row: Any, r: int, n: int) -> None:
    if store.rounded:
        round_row(row, r, store.low, store.high, n)
    if store.kind == 0:
        copy_row(store.images.uint8, start, row, r, n)
    elif store.kind == 1:
        copy_row(store.images.uint16, start, row, r, n)
    elif store.kind == 2:
        copy_row(store.images.int16, start, row, r, n)
    else:
        copy_row(store.images.floats, start, row, r, n)


# -- one strip ------------------------------------------------------------------------------


@_inlined
def _fill_rows(load: Load, y: int, count: int, z: int, x: int, rows: Any, n: int) -> None:
    """Read `count` rows from row `y` on, which may lie beyond the image, as floats."""
    for i in range(count):
        at = _mirrored(y + i, load.shape[1])
        start = load.start + z * load.plane + at * load.row + x
        _load_row(load, start, rows, i * PITCH, n)
        todo = load.before
        for k in range(todo.codes.size):
            first = todo.starts[k] + at * todo.rows[k] + x
            operate(todo.codes[k], rows, i * PITCH, todo.operands, first, n)


@_inlined
def _weigh_plane(load: Load, taps: Taps, buffers: Buffers, box: Any, z: int, slot: int) -> None:
    """Weigh one plane of a strip along y and x, into a slot of every row's window of planes."""
    y, x, rows, columns = box
    width, slots = load.shape[2], buffers.slots
    left = x - taps.x.size // 2
    n = columns + taps.x.size - 1
    first, last = max(left, 0), min(left + n, width)
    top, count = y - taps.y.size // 2, rows + taps.y.size - 1
    _fill_rows(load, top, count, z, first, buffers.read, last - first)
    weigh_rows(buffers.across, first - left, buffers.read, 0, taps.y, rows, last - first)
    for i in range(rows):
        r = i * PITCH
        _pad(buffers.across, r, left, n, first, last, width)
        weigh_row(buffers.window, (i * slots + slot) * PITCH, buffers.across, r, taps.x, columns)


@register_jitable
def _copy_slots(window: Any, slots: int, box: Any, source: int, target: int, count: int) -> None:
    """Copy slots of every row's window, in rising order."""
    _, _, rows, columns = box
    for i in range(rows):
        for k in range(i * slots, i * slots + count):
            copy_row(window, (k + target) * PITCH, window, (k + source) * PITCH, columns)


@_inlined
def _fill_window(
    load: Load, taps: Taps, buffers: Buffers, box: Any, start: int, planes: int, follows: bool
) -> None:
    """Make the window hold the planes that weigh into `planes` planes from `start` on.

    If it `follows`, the window holds what the planes just before were made of.
    """
    depth, reach, slots = load.shape[0], taps.z.size - 1, buffers.slots
    low = start - taps.z.size // 2
    high = low + planes + reach
    fresh = low
    if follows:
        _copy_slots(buffers.window, slots, box, slots - reach, 0, reach)
        fresh = low + reach
    for z in range(max(fresh, 0), min(high, depth)):
        _weigh_plane(load, taps, buffers, box, z, z - low)
    for z in range(fresh, high):
        if z < 0 or z >= depth:
            _copy_slots(buffers.window, slots, box, _mirrored(z, depth) - low, z - low, 1)


@_inlined
def _empty_window(store: Store, taps: Taps, buffers: Buffers, box: Any, z: int, count: int) -> None:
    """Weigh the window along z and store what comes out."""
    y, x, rows, columns = box
    for i in range(rows):
        rows_of_planes, first = buffers.window, i * buffers.slots * PITCH
        if taps.z.size > 1:
            weigh_rows(buffers.result, 0, buffers.window, first, taps.z, count, columns)
            rows_of_planes, first = buffers.result, 0
        for k in range(count):
            start = store.start + (z + k) * store.plane + (y + i) * store.row + x
            if store.lost.size:
                _tally_row(store, z + k, y + i, x, rows_of_planes, first + k * PITCH, columns)
            _store_row(store, start, rows_of_planes, first + k * PITCH, columns)


@jit_borrowing
def filter_volume(
    load: Load, store: Store, taps: Taps, buffers: Buffers, tile: Any, inner: Any
) -> None:
    """Filter a part of a volume strip by strip.

    Parameters
    ----------
    tile
        How many planes, rows and columns are done at a time.
    inner
        Where the part begins and ends along (z, y, x): six numbers. Nothing else is computed,
        and of the volume only what weighs into it is read.
    """
    planes, rows, columns = tile
    first, last, top, bottom, left, right = inner
    for y in range(top, bottom, rows):
        for x in range(left, right, columns):
            box = (y, x, min(rows, bottom - y), min(columns, right - x))
            for z in range(first, last, planes):
                count = min(planes, last - z)
                _fill_window(load, taps, buffers, box, z, count, z > first)
                _empty_window(store, taps, buffers, box, z, count)
