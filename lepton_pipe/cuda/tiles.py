"""Medians and extremes in small windows: a program for each tile of results, in one pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np

from lepton_pipe.cuda import compiled
from lepton_pipe.cuda.chain import indented
from lepton_pipe.cuda.operations import c_type
from lepton_pipe.cuda.words import (
    What,
    are_words,
    index_of,
    per_word,
    source_of_words,
    template,
    word_bytes,
)
from lepton_pipe.networks import BOTH, COPY, LARGER, SMALLER, Cells, Program, build

# Voxels of the largest windows for which programs are tried, and of their boxes.
_MOST_CELLS = {"median": 225, "smallest": 1400, "largest": 1400}
_LARGEST_BOX = 1400
_MOST_STEPS = 6000  # of a program: they take NVRTC some seconds to compile
_WIDEST = 33
_SHARED_BYTES = 48 * 2**10
# Results of a thread along z and y, for windows that reach along both and along one of them.
_TILES = ((4, 4), (2, 4), (2, 2), (1, 2), (1, 1))
_ROWS = (8, 4, 2, 1)
_WARPS = (8, 4, 2)
# Registers for what a program holds at a time, the warps that then fit an SM, and what it costs to
# have so few.
_ROOM = ((36, 32, 1.0), (96, 16, 1.1), (220, 8, 1.4))
# What reading a row of a tile costs a warp, in comparisons.
_ROW_COST = 25


class _Plan(NamedTuple):
    """How a window is gone through.

    Attributes
    ----------
    warps, blocks
        Warps of a block, and blocks that an SM is to hold at a time.
    """

    program: Program
    warps: int
    blocks: int

    @property
    def words(self) -> int:
        """Words that a block reads."""
        return self.rows * (32 + self.program.window[2] - 1)

    @property
    def rows(self) -> int:
        """Rows that a block reads."""
        (tz, ty), (wz, wy, _) = self.program.tile, self.program.window
        return (tz + wz - 1) * (self.warps * ty + wy - 1)


def cost(shape: Sequence[int], dtype: np.dtype[Any], cells: Cells, what: What) -> float:
    """Return about how many instructions a word of the result takes; infinity for no way to it."""
    moving = sum(n > 1 for n in cells.shape[:-1])
    small = cells.size <= _LARGEST_BOX and np.count_nonzero(cells) <= _MOST_CELLS[what]
    small = small and cells.shape[-1] <= _WIDEST
    if not small or moving > 2 or not are_words(shape, dtype):
        return inf
    plan = _cheapest(_key(cells, _axes(cells.shape, shape), dtype, what))
    return inf if plan is None else _cost(plan)


def filtered(image: Any, cells: Cells, low: Sequence[int], what: What) -> Any:
    """Return the median or an extreme in a window.

    Parameters
    ----------
    image
        CuPy array for which `cost` is finite.
    cells
        Which voxels count, with an axis for each of the image's.
    low
        Place in `cells` of the voxel computed.
    what
        For a median the image is mirrored at its edges; of extremes nothing beyond them counts.

    Returns
    -------
    array
        Contiguous, of the image's dtype.
    """
    xp = sys.modules["cupy"]
    source, result = xp.ascontiguousarray(image), xp.empty(image.shape, image.dtype)
    if not image.size:
        return result
    axes = _axes(cells.shape, image.shape)
    key = _key(cells, axes, image.dtype, what)
    plan = _cheapest(key)
    assert plan is not None, "there is no way to it"
    index = index_of(image)
    text = _written(key, image.dtype, _volume(low, axes, 0), index)
    shape = _volume(image.shape, axes, 1)
    strides = _volume([prod(image.shape[a + 1 :]) for a in range(image.ndim)], axes, 0)
    across, (tile_z, tile_y) = 32 * per_word(image.dtype), plan.program.tile
    tiles = (-(-shape[0] // tile_z), -(-shape[1] // (plan.warps * tile_y)), -(-shape[2] // across))
    sizes = (*map(np.int32, shape), *map(index.type, strides[:2]))
    kernel = compiled(text, "tiles")
    for start in _starts(image.shape, axes):
        parts = (a.reshape(-1)[start:] for a in (source, result))
        kernel((prod(tiles),), (32 * plan.warps,), (*parts, *sizes))
    return result


def _axes(window: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Return the axes that make the volume: the last, and two along which there is most to do."""
    lead = range(len(shape) - 1)
    return [*sorted(sorted(lead, key=lambda a: (window[a] > 1, shape[a]))[-2:]), len(shape) - 1]


def _volume(values: Sequence[int], axes: Sequence[int], missing: int) -> tuple[int, ...]:
    """Return what is said of each axis for z, y and x alone."""
    return (missing,) * (3 - len(axes)) + tuple(values[a] for a in axes)


def _starts(shape: Sequence[int], axes: Sequence[int]) -> Any:
    """Return where the volumes of a contiguous array begin."""
    starts = np.zeros(1, np.int64)
    for axis in range(len(shape)):
        if axis not in axes:
            starts = np.add.outer(starts, np.arange(shape[axis]) * prod(shape[axis + 1 :])).ravel()
    return starts.tolist()


# -- choosing a tile ----------------------------------------------------------------------------


class _Key(NamedTuple):
    """What a plan is made for: cells of a window ``(z, y, x)``, and the bytes of a word."""

    cells: bytes
    shape: tuple[int, ...]
    size: int
    what: What


def _key(cells: Cells, axes: Sequence[int], dtype: np.dtype[Any], what: What) -> _Key:
    volume = _volume(cells.shape, axes, 1)
    return _Key(np.ascontiguousarray(cells).tobytes(), volume, word_bytes(dtype), what)


@lru_cache(maxsize=64)
def _cheapest(key: _Key) -> _Plan | None:
    """Return the plan with the least work for a result; None where none has room."""
    data, shape, size, what = key
    cells = np.frombuffer(data, bool).reshape(shape)
    found: list[tuple[float, _Plan]] = []
    for tile in _tiles(shape):
        program = build(what, cells, tile)
        held = (program.slots - prod(tile) + 10) * size // 4
        room = next((r for r in _ROOM if held <= r[0]), None)
        if room is None or len(program.steps) > _MOST_STEPS:
            continue
        for warps in _WARPS:
            plan = _Plan(program, warps, max(1, room[1] // warps))
            if plan.words * size <= _SHARED_BYTES:
                found.append((_cost(plan) * room[2], plan))
                break
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _tiles(window: Sequence[int]) -> Sequence[tuple[int, int]]:
    if window[0] > 1 and window[1] > 1:
        return _TILES
    return [(n, 1) if window[0] > 1 else (1, n) for n in _ROWS]


def _cost(plan: _Plan) -> float:
    """Return about how many instructions a word of the result takes."""
    what, from_source = plan.program.steps[:, 0], plan.program.arguments[..., 0]
    compared = np.count_nonzero(what != COPY) + np.count_nonzero(what == BOTH)
    read = plan.rows / plan.warps * _ROW_COST
    return float(compared + from_source.sum() + read) / prod(plan.program.tile)


# -- writing the source -------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _written(key: _Key, dtype: np.dtype[Any], low: tuple[int, ...], index: np.dtype[Any]) -> str:
    """Return the source of a plan: the same object for the same words, as it may be long."""
    plan = _cheapest(key)
    assert plan is not None
    program = plan.program
    words: dict[str, Any] = {
        "warps": plan.warps,
        "blocks": plan.blocks,
        "mirrored": int(key.what == "median"),
        "index": c_type(index),
        "program": indented(_lines(program), 4),
    }
    for axis, window, reach in zip("zyx", program.window, low, strict=True):
        words[f"window_{axis}"], words[f"low_{axis}"] = window, reach
    words["tile_z"], words["tile_y"] = program.tile
    return source_of_words(dtype, key.what) + template("tiles.cu").substitute(words)


def _lines(program: Program) -> list[str]:
    """Return the steps of a program; each result is written out as soon as it is there."""
    steps = list(zip(program.steps.tolist(), program.arguments.tolist(), strict=True))
    computed = [(s, a) for s, a in steps if s[0] != COPY]
    last = {slot: n for n, (step, _) in enumerate(computed) for slot in _made(step)}
    done: dict[int, list[tuple[int, int, list[int]]]] = {}
    for (what, z, y), (argument, _) in steps:
        if what == COPY:
            done.setdefault(-1 if argument[0] else last[argument[-1]], []).append((z, y, argument))
    names: dict[int, str] = {}
    lines = [f"PUT({z}, {y}, {_value(a, names)})" for z, y, a in done.get(-1, ())]
    for n, (step, arguments) in enumerate(computed):
        a, b = (_value(argument, names) for argument in arguments)
        for slot, function in _made(step).items():
            names[slot] = f"w{len(lines)}"
            lines.append(f"const Word {names[slot]} = {function}({a}, {b});")
        lines += [f"PUT({z}, {y}, {_value(a, names)})" for z, y, a in done.get(n, ())]
    return lines


def _made(step: Sequence[int]) -> dict[int, str]:
    """Return the functions whose results a step puts into slots."""
    what, low, high = step
    made = {}
    if what in (SMALLER, BOTH):
        made[low] = "smaller"
    if what in (LARGER, BOTH):
        made[high] = "larger"
    return made


def _value(argument: Sequence[int], names: dict[int, str]) -> str:
    from_source, z, y, x = argument
    return f"AT({z}, {y}, {x})" if from_source else names[x]
