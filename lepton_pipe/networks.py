"""Programs on rows of voxels: which rows to compare so that medians and extremes come out.

A filter computes a tile of neighbouring rows at a time. It loads the source rows that their
windows touch and then follows a fixed list of steps, each of which takes the smaller or larger
values of two rows. A step does the same to hundreds of voxels at once, whatever their values, and
what two rows of the tile have in common is computed once.

A median is found by merging: the voxels of a window's row are sorted, sorted lists are merged, and
ranks that cannot hold the median any more are dropped. The rows of a tile are split in halves
again and again; what the windows of a half have in common is merged before the half is split.

References
----------
K. E. Batcher (1968), Sorting networks and their applications. AFIPS Spring Joint Computer
Conference (the odd-even merge).
A. Adams (2021), Fast median filters using separable sorting networks. ACM Transactions on
Graphics 40(4) (sorting parts shared by neighbouring windows, and dropping ranks).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

SMALLER, LARGER, BOTH, COPY = range(4)
_SOURCE = -1

Cells = np.ndarray[Any, np.dtype[np.bool_]]
Run = tuple[int, int, int, int]
"""Neighbouring voxels of a row: z and y of the row in the tile, first x, and their number."""
Rows = tuple[int, ...]
"""Numbers of computed rows; for a median the first holds the smallest of each place."""
Output = tuple[int, int]
"""z and y of a result in its tile."""


@dataclass(frozen=True)
class Program:
    """Steps that make the rows of a tile of results from the source rows below them.

    Attributes
    ----------
    tile
        Rows of a tile along z and y.
    window
        Extent of the window along z, y and x. A tile is made from ``tile + window - 1`` source
        rows along z and y.
    slots
        Computed rows that must be held at a time.
    steps
        ``(n, 3)``: what to do, and the slots of the smaller and of the larger result. A copy
        goes to the z and y of a result instead. No step overwrites its own arguments.
    arguments
        ``(n, 2, 4)``: of both arguments 1 for a source row and its z, y and x; or 0, and in
        the last place a slot.
    """

    tile: tuple[int, int]
    window: tuple[int, int, int]
    slots: int
    steps: np.ndarray[Any, np.dtype[np.int64]]
    arguments: np.ndarray[Any, np.dtype[np.int64]]


def median_program(cells: Cells) -> Program:
    """Return the program of the median of a window ``(z, y, x)``, the upper of two middle values.

    It is the value of rank ``n // 2`` of the window's `n` voxels, counted from 0.
    """
    return _cached("median", cells.shape, cells.tobytes())


def extreme_program(cells: Cells, *, largest: bool) -> Program:
    """Return the program of the smallest or largest value in a window ``(z, y, x)``."""
    return _cached("largest" if largest else "smallest", cells.shape, cells.tobytes())


@lru_cache(maxsize=64)
def _cached(what: str, shape: tuple[int, int, int], data: bytes) -> Program:
    cells = np.frombuffer(data, bool).reshape(shape)
    return build(what, cells, _tile(shape))


def _tile(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return a tile that shares much and holds rows that fit the second cache (measured)."""
    if 1 in shape[:2]:
        return 8 if shape[0] > 1 else 1, 8 if shape[1] > 1 else 1
    return 4 if prod(shape) <= 400 else 2, 4


def build(what: str, cells: Cells, tile: tuple[int, int]) -> Program:
    """Write the program of a filter for a tile of results."""
    shape = cells.shape
    steps = _Steps()
    many = int(np.count_nonzero(cells))
    if what == "median":
        filtering: _Sorting | _Extreme = _Sorting(steps, many, many // 2)
    else:
        filtering = _Extreme(steps, LARGER if what == "largest" else SMALLER)
    results = _Sharing(filtering, _runs(cells), tile).results()
    slots, made, arguments = steps.in_slots(results)
    return Program(tile, shape, slots, made, arguments)


def _runs(cells: Cells) -> list[Run]:
    runs = []
    for z, y in np.ndindex(*cells.shape[:2]):
        x = 0
        for inside, group in itertools.groupby(cells[z, y].tolist()):
            length = len(list(group))
            if inside:
                runs.append((z, y, x, length))
            x += length
    return runs


# -- steps --------------------------------------------------------------------------------------


class _Steps:
    """Rows in the order they were asked for; what is asked for again is not made again."""

    def __init__(self) -> None:
        self.made: list[tuple[int, ...]] = []
        self.known: dict[tuple[int, ...], int] = {}

    def _row(self, *key: int) -> int:
        if key not in self.known:
            self.known[key] = len(self.made)
            self.made.append(key)
        return self.known[key]

    def voxel(self, z: int, y: int, x: int) -> int:
        """Return a source row, shifted along x."""
        return self._row(_SOURCE, z, y, x)

    def pick(self, what: int, a: int, b: int) -> int:
        """Return the row of the smaller or of the larger values of two rows."""
        return a if a == b else self._row(what, min(a, b), max(a, b))

    def pair(self, a: int, b: int) -> tuple[int, int]:
        """Return the row of the smaller and that of the larger values."""
        return self.pick(SMALLER, a, b), self.pick(LARGER, a, b)

    def in_slots(self, results: Mapping[Output, int]) -> tuple[int, Any, Any]:
        """Keep what the results need, and give each row a slot for as long as it is needed."""
        order = self._fused(self._needed(results.values()))
        uses = self._uses(order, results.values())
        slots = _Slots()
        place = {r: key[1:] for r, key in enumerate(self.made) if key[0] == _SOURCE}
        steps, arguments = [], []
        for what, rows, a, b in order:
            outs = [slots.take() for _ in rows]
            steps.append((what, outs[0], outs[-1]))
            arguments.append([_argument(place[r]) for r in (a, b)])
            place.update({r: (s,) for r, s in zip(rows, outs, strict=True)})
            for row in (a, b):
                uses[row] -= 1
                if not uses[row] and len(place[row]) == 1:
                    slots.give(place[row][0])
        for at, row in results.items():
            steps.append((COPY, *at))
            arguments.append([_argument(place[row])] * 2)
        return slots.most, np.array(steps), np.array(arguments)

    def _needed(self, results: Iterable[int]) -> list[int]:
        """Return the computed rows that the results are made from, in order."""
        needed = set(results)
        for row in range(len(self.made) - 1, -1, -1):
            if row in needed and self.made[row][0] != _SOURCE:
                needed.update(self.made[row][1:])
        return sorted(r for r in needed if self.made[r][0] != _SOURCE)

    def _fused(self, rows: Sequence[int]) -> list[tuple[int, tuple[int, ...], int, int]]:
        """Take the smaller and the larger of two rows in one step, at the place of the first."""
        order: list[tuple[int, tuple[int, ...], int, int]] = []
        wanted, done = set(rows), set()
        for row in rows:
            what, a, b = self.made[row]
            if row in done:
                continue
            other = self.known.get((LARGER if what == SMALLER else SMALLER, a, b))
            if other in wanted:
                done.add(other)
                both = (row, other) if what == SMALLER else (other, row)
                order.append((BOTH, both, a, b))
            else:
                order.append((what, (row,), a, b))
        return order

    def _uses(self, order: Sequence[Any], results: Iterable[int]) -> list[int]:
        uses = [0] * len(self.made)
        for row in (*results, *(r for _, _, a, b in order for r in (a, b))):
            uses[row] += 1
        return uses


def _argument(place: tuple[int, ...]) -> tuple[int, ...]:
    return (0, 0, 0, *place) if len(place) == 1 else (1, *place)


class _Slots:
    """Numbers of slots; the one given back last is taken first, as it is still in the cache."""

    def __init__(self) -> None:
        self.most = 0
        self.free: list[int] = []

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        self.most += 1
        return self.most - 1

    def give(self, slot: int) -> None:
        self.free.append(slot)


# -- what is shared in a tile -------------------------------------------------------------------


@dataclass(frozen=True)
class _Core:
    """What is known of windows that share some voxels.

    Attributes
    ----------
    rows
        Those of the shared voxels, sorted, that may still be the result.
    left
        Voxels of a window that may be, the others included.
    rank
        Rank of the result among them.
    """

    rows: Rows
    left: int
    rank: int


class _Sorting:
    """Finding the value of a rank."""

    def __init__(self, steps: _Steps, many: int, rank: int) -> None:
        self.steps = steps
        self.start = _Core((), many, rank)

    def run(self, run: Run) -> Rows:
        z, y, x, length = run
        if length == 1:
            return (self.steps.voxel(z, y, x),)
        half = length // 2
        return self.join(self.run((z, y, x, half)), self.run((z, y, x + half, length - half)))

    def join(self, a: Rows, b: Rows) -> Rows:
        """Merge two sorted lists (Batcher's odd-even merge)."""
        if not a or not b:
            return a or b
        if len(a) == len(b) == 1:
            return self.steps.pair(a[0], b[0])
        even, odd = self.join(a[::2], b[::2]), self.join(a[1::2], b[1::2])
        merged = [even[0]]
        for i in range(max(len(odd), len(even) - 1)):
            if i < len(odd) and i + 1 < len(even):
                merged += self.steps.pair(odd[i], even[i + 1])
            else:
                merged.append(odd[i] if i < len(odd) else even[i + 1])
        return tuple(merged)

    def add(self, core: _Core, rows: Rows) -> _Core:
        """Merge more voxels in, and drop those with too many below or above them."""
        merged = self.join(core.rows, rows)
        low = max(0, len(merged) - core.left + core.rank)
        high = min(len(merged), core.rank + 1)
        dropped = len(merged) - (high - low)
        return _Core(merged[low:high], core.left - dropped, core.rank - low)

    def finish(self, core: _Core, rows: Rows) -> int:
        """Return the value of the rank: the least, over all splits, of the larger of two ends."""
        a, b, ahead = core.rows, rows, core.rank + 1
        ends = []
        for i in range(max(0, ahead - len(b)), min(ahead, len(a)) + 1):
            pair = ([a[i - 1]] if i else []) + ([b[ahead - i - 1]] if ahead > i else [])
            ends.append(self.steps.pick(LARGER, pair[0], pair[-1]))
        return _reduced(ends, lambda p, q: self.steps.pick(SMALLER, p, q))


class _Extreme:
    """Finding the smallest or largest value."""

    def __init__(self, steps: _Steps, what: int) -> None:
        self.steps, self.what = steps, what
        self.start = _Core((), 0, 0)

    def run(self, run: Run) -> Rows:
        z, y, x, length = run
        ends = self._of(self.steps.voxel(z, y, x), self.steps.voxel(z, y, x + length - 1))
        if length <= 2:
            return (ends,)
        # Shorter runs around the same centre, of other rows of the window, are parts of this one.
        (inner,) = self.run((z, y, x + 1, length - 2))
        return (self._of(inner, ends),)

    def _of(self, a: int, b: int) -> int:
        return self.steps.pick(self.what, a, b)

    def join(self, a: Rows, b: Rows) -> Rows:
        return (self._of(a[0], b[0]),) if a and b else a or b

    def add(self, core: _Core, rows: Rows) -> _Core:
        return _Core(self.join(core.rows, rows), 0, 0)

    def finish(self, core: _Core, rows: Rows) -> int:
        return self.join(core.rows, rows)[0]


def _reduced(rows: Sequence[int], fold: Callable[[int, int], int]) -> int:
    while len(rows) > 1:
        pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
        rows = [fold(*p) if len(p) == 2 else p[0] for p in pairs]
    return rows[0]


class _Sharing:
    """Computing what the windows of a tile have in common once."""

    def __init__(
        self, filtering: _Sorting | _Extreme, runs: Sequence[Run], tile: tuple[int, int]
    ) -> None:
        self.filtering = filtering
        self.tile = tile
        self.windows = {
            (z, y): frozenset((z + dz, y + dy, x, n) for dz, dy, x, n in runs)
            for z, y in np.ndindex(*tile)
        }
        self.joined: dict[frozenset[Run], Rows] = {}

    def results(self) -> dict[Output, int]:
        """Return the row of each result."""
        return dict(self._share(list(self.windows), frozenset(), self.filtering.start))

    def _share(
        self, tile: list[Output], have: frozenset[Run], core: _Core
    ) -> list[tuple[Output, int]]:
        common = frozenset.intersection(*(self.windows[o] for o in tile)) - have
        if len(tile) == 1:
            return [(tile[0], self._finish(core, common))]
        if common:
            core = self.filtering.add(core, self._join(common))
        halves = _halves(tile)
        return [r for half in halves for r in self._share(half, have | common, core)]

    def _finish(self, core: _Core, rest: frozenset[Run]) -> int:
        if not core.rows and len(rest) > 1:
            first, rest = _split(rest)
            core = self.filtering.add(core, self._join(first))
        return self.filtering.finish(core, self._join(rest))

    def _join(self, runs: frozenset[Run]) -> Rows:
        if runs not in self.joined:
            parts = _split(runs) if len(runs) > 1 else ()
            self.joined[runs] = (
                self.filtering.join(*(self._join(p) for p in parts))
                if parts
                else self.filtering.run(next(iter(runs)))
            )
        return self.joined[runs]


def _halves(tile: list[Output]) -> tuple[list[Output], list[Output]]:
    axis = 0 if len({z for z, _ in tile}) > len({y for _, y in tile}) else 1
    places = sorted({o[axis] for o in tile})
    middle = places[len(places) // 2]
    return [o for o in tile if o[axis] < middle], [o for o in tile if o[axis] >= middle]


def _split(runs: frozenset[Run]) -> tuple[frozenset[Run], frozenset[Run]]:
    """Split runs along their longest axis at a multiple of the largest power of two.

    Runs of several windows that were split at the same places have parts in common.
    """
    extents = [max(r[i] for r in runs) - min(r[i] for r in runs) for i in (0, 1, 2)]
    axis = extents.index(max(extents))
    least, most = min(r[axis] for r in runs), max(r[axis] for r in runs)
    bit = (least ^ most).bit_length() - 1
    border = most >> bit << bit
    low = frozenset(r for r in runs if r[axis] < border)
    return low, runs - low
