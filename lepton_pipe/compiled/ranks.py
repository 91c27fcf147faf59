"""Medians, and minima and maxima in windows of any form, computed by programs on rows.

Floats are compared as integers in the order of their values, so that all of them, -0.0 and NaN
among them, have one order, and a voxel's result does not depend on where in a tile it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lepton_pipe.compiled.rows import follow, from_keys, to_keys
from lepton_pipe.networks import (
    COPY,
    Cells,
    Program,
    extreme_program,
    median_program,
)

MOST_CELLS = 1000
"""Voxels of the largest window that is worth a program."""

_ROW = 256  # voxels computed at a time: some dozens of such rows fit the first cache
_SLAB = 1 << 20  # bytes of the image made ready at a time, as long as that is a small part of it


def fits(image: Any, window: Sequence[int]) -> bool:
    """Tell whether `median` and `extreme` can compute an image with a window of this extent."""
    return (
        image.dtype.kind in "biuf"
        and image.dtype.isnative
        and image.dtype.itemsize <= 8
        and sum(n > 1 for n in window[:-1]) <= 2
        and int(np.prod(window)) <= MOST_CELLS
    )


def median(image: Any, cells: Cells) -> Any:
    """Return the value of rank ``n // 2`` of the `n` voxels of a window.

    The image is mirrored at its edges, the first and the last voxel repeated. Where a window
    holds NaN the value is undefined.

    Parameters
    ----------
    image
        Array for which `fits` holds.
    cells
        Which voxels count, with an axis for each of the image's; that at ``shape // 2`` lies on
        the voxel computed.
    """
    return _filtered(image, cells, [n // 2 for n in cells.shape], "median")


def extreme(image: Any, cells: Cells, low: Sequence[int], *, largest: bool) -> Any:
    """Return the smallest or largest value in a window; voxels beyond the edges are left out.

    Parameters
    ----------
    image, cells
        As for `median`.
    low
        Place in `cells` of the voxel computed.

    Returns
    -------
    array
        Of the image's dtype. NaN in the window gives NaN, and a window that lies beyond the
        edges the value that never wins.
    """
    return _filtered(image, cells, low, "largest" if largest else "smallest")


def _filtered(image: Any, cells: Cells, low: Sequence[int], what: str) -> Any:
    result = np.empty(image.shape, image.dtype)
    more = (None,) * (3 - image.ndim)
    axes = _order(cells[more].shape)
    source, out, cells = (a[more].transpose(axes) for a in (_bits(image), _bits(result), cells))
    low = [(*(0,) * len(more), *low)[a] for a in axes]
    cells = np.ascontiguousarray(cells).reshape(cells.shape[-3:])
    if what == "median":
        program = median_program(cells)
    else:
        program = extreme_program(cells, largest=what == "largest")
    if image.size:
        values = _values(image.dtype, source.dtype, what)
        room = _Room(program, source.shape[-3:], source.dtype)
        for part in np.ndindex(source.shape[:-3]):
            _run(room, source[part], out[part], low[-3:], values)
    return result


def _bits(array: Any) -> Any:
    """Return floats and booleans as integers of their size."""
    kinds = {"f": f"i{array.dtype.itemsize}", "b": "u1"}
    return array.view(kinds.get(array.dtype.kind, array.dtype))


def _order(window: Sequence[int]) -> list[int]:
    """Return the order of axes that brings those with an extent into the last three places."""
    lead = range(len(window) - 1)
    moving = sorted(sorted(lead, key=lambda a: (window[a] > 1, a))[-2:])
    return [*(a for a in lead if a not in moving), *moving, len(window) - 1]


class _Values(NamedTuple):
    """How values are compared.

    Attributes
    ----------
    outside
        The value beyond the edges; None to mirror the image there.
    keys
        Of floats: see `to_keys`. Empty for all else.
    """

    outside: Any
    keys: Any


def _values(dtype: np.dtype[Any], bits: np.dtype[Any], what: str) -> _Values:
    if dtype.kind != "f":
        info = np.iinfo(bits)
        most = 1 if dtype.kind == "b" else info.max
        outside = {"smallest": most, "largest": info.min, "median": None}[what]
        return _Values(outside, np.empty(0, bits))
    top = np.iinfo(bits).max
    infinite, minus = np.array([np.inf, -np.inf], dtype).view(bits)
    nan = ~top if what == "smallest" else top  # NaN wins, as in NumPy
    outside = {"smallest": infinite, "largest": minus, "median": None}[what]
    return _Values(outside, np.array([minus ^ top, infinite, nan, top], bits))


def _run(room: _Room, source: Any, result: Any, low: Sequence[int], values: _Values) -> None:
    """Run a program over an image ``(z, y, x)``, some rows at a time."""
    dz, dy = room.result.shape[:2]
    for z in range(0, source.shape[0], dz):
        for y in range(0, source.shape[1], dy):
            part = result[z : z + dz, y : y + dy]
            _grow(source, room.source, [z - low[0], y - low[1], -low[2]], values.outside)
            if values.keys.size:
                to_keys(room.source_memory, values.keys)
            follow(room.steps, room.tiles, np.uint64(room.lanes), room.memory)
            if values.keys.size:
                from_keys(room.result_memory, values.keys[3])
            part[...] = room.result[tuple(slice(n) for n in part.shape)]


class _Room:
    """Memory for some rows of an image, and the places of a program's rows in it.

    Attributes
    ----------
    source, result
        ``(z, y, x)``: rows of the image grown by the window, and of the result.
    memory
        All there is: slots, source and result.
    steps, tiles, lanes
        For `follow`.
    """

    def __init__(self, program: Program, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        pieces = -(-shape[2] // _ROW)
        self.lanes = -(-shape[2] // (pieces * 64)) * 64  # a vector register has up to 64
        width = pieces * self.lanes
        over = [n - 1 for n in program.window]
        line = 64 // dtype.itemsize  # an odd number of cache lines apart, or rows compete for them
        pitch = (-(-(width + over[2]) // line) | 1) * line
        most = min(_SLAB, prod(shape) * dtype.itemsize // 4) // (pitch * dtype.itemsize)
        rows = _rows_at_a_time(program, shape, most)
        grown = (rows[0] + over[0], rows[1] + over[1], pitch)
        made = (*rows, width)
        ends = np.cumsum([program.slots * self.lanes, prod(grown), prod(made)])
        self.memory = np.empty(ends[2], dtype)
        self.source_memory = self.memory[ends[0] : ends[1]]
        self.result_memory = self.memory[ends[1] : ends[2]]
        self.source = self.source_memory.reshape(grown)[:, :, : shape[2] + over[2]]
        self.result = self.result_memory.reshape(made)
        self.steps = _laid_out(program, self.lanes, grown, made)
        tile = (*program.tile, self.lanes)
        z, y, x = np.ogrid[tuple(slice(0, n, t) for n, t in zip(made, tile, strict=True))]
        at = [
            first + (z * rows_of[1] + y) * rows_of[2] + x
            for first, rows_of in zip(ends, (grown, made), strict=False)
        ]
        self.tiles = np.stack(at, axis=-1).reshape(-1, 2).astype(np.uint64)


def _rows_at_a_time(program: Program, shape: Sequence[int], most: int) -> tuple[int, int]:
    """Return rows along z and y, whole tiles, that are made from about as many as `most`."""
    (tz, ty), (wz, wy, _) = program.tile, program.window
    y = max(1, min(-(-shape[1] // ty), (most // (tz + wz - 1) - wy + 1) // ty)) * ty
    z = max(1, min(-(-shape[0] // tz), (most // (y + wy - 1) - wz + 1) // tz)) * tz
    return z, y


def _laid_out(program: Program, lanes: int, grown: Sequence[int], made: Sequence[int]) -> Any:
    """Return the steps of a program as `follow` takes them."""
    what, low, high = program.steps.T
    copies = what == COPY
    places = program.arguments @ [0, grown[1] * grown[2], grown[2], 1]
    from_source = program.arguments[..., 0]
    places = np.where(from_source, places, places * lanes)
    low = np.where(copies, (low * made[1] + high) * made[2], low * lanes)
    return np.column_stack([what, low, high * lanes, places, from_source]).astype(np.uint64)


def _grow(source: Any, slab: Any, start: Sequence[int], outside: Any) -> None:
    """Fill a slab with the voxels from `start` on: beyond the edges mirrored, or a value."""
    places = [np.arange(a, a + n) for a, n in zip(start, slab.shape, strict=True)]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, source.shape, strict=True)]
    first = [max(a, 0) for a in start]
    core = [slice(f, f + int(i.sum())) for f, i in zip(first, inside, strict=True)]
    slab[tuple(slice(c.start - a, c.stop - a) for c, a in zip(core, start, strict=True))] = source[
        tuple(core)
    ]
    for axis in (2, 1, 0):
        lead = (slice(None),) * axis
        edge = ~inside[axis]
        if edge.any() and outside is None:
            back = _mirrored(places[axis][edge], source.shape[axis]) - start[axis]
            slab[(*lead, edge)] = slab[(*lead, np.minimum(back, slab.shape[axis] - 1))]
        elif edge.any():
            slab[(*lead, edge)] = outside


def _mirrored(places: Any, n: int) -> Any:
    places = places % (2 * n)
    return np.minimum(places, 2 * n - 1 - places)
