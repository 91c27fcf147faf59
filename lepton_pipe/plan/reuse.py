"""How often chunks are decoded: the order of blocks, and what a cache of decoded chunks saves.

Read regions of neighbouring blocks overlap in chunks. Blocks run with the last axis of `order`
fastest::

    slow axis  |   o o o o o o      while this row runs, its chunks are needed again by the
               |   o o o x          next row: a cache of about one row decodes each only once
               v   . . . . . .
                 fast axis ->

A smaller cache, of what one block touches times a step along the fast axis, still saves what
neighbours along that axis share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from lepton_pipe.geometry import Grid, Region
from lepton_pipe.plan.model import Stage

Chunks = tuple[int, ...]
LOOK_AT = 12


def block_order(grid: Grid, block: Sequence[int]) -> tuple[int, ...]:
    """Return the axes from the slowest to the fastest, so that what is needed again comes soon.

    Axes that are not spatial come first: blocks share nothing along them. Then those along which
    there are most blocks: a row of the other axes, which a cache has to hold, is then smallest.
    """
    counts = [-(-n // b) for n, b in zip(grid.shape, block, strict=True)]
    return tuple(sorted(range(grid.ndim), key=lambda i: (i in grid.spatial, -counts[i], i)))


@dataclass(frozen=True)
class Touches:
    """Chunks of one image along one axis of a stage's blocks.

    Attributes
    ----------
    every
        Summed over the blocks of a row: what is decoded without a cache.
    once
        Different ones: what is decoded at least.
    most
        Of one block.
    """

    every: int
    once: int
    most: int

    @classmethod
    def of(cls, ranges: Sequence[tuple[int, int]], count: int) -> Touches:
        """Count from the chunk ranges of blocks of a row of `count`, the first and last among them.

        A row of blocks reads its image without gaps.
        """
        lengths = [b - a for a, b in ranges]
        every = -(-sum(lengths) * count // len(lengths))
        return cls(every, max(b for _, b in ranges) - min(a for a, _ in ranges), max(lengths))


def touches(
    stage: Stage, chunks: Chunks, region_of: Callable[[Region], Region], axis_of: Sequence[int]
) -> tuple[Touches, ...]:
    """Return the touches of one image along each axis of the stage.

    Parameters
    ----------
    region_of
        Gives the region of the image that a block reads. Along each axis it depends on the
        block's range along one axis of the stage alone.
    axis_of
        For each axis of the stage the image's axis that follows it; -1 where there is none.
    """
    blocks, found = stage.blocks, []
    for axis, count in enumerate(blocks.counts):
        along = axis_of[axis]
        if along < 0:
            found.append(Touches(count, 1, 1))
            continue
        ranges = []
        for i in _some(count):
            position = tuple(i if a == axis else 0 for a in range(len(blocks.counts)))
            region = region_of(blocks.region(blocks.index(position)))
            start, stop = region.start[along], region.stop[along]
            ranges.append((start // chunks[along], -(-stop // chunks[along])))
        found.append(Touches.of(ranges, count))
    return tuple(found)


def _some(count: int) -> list[int]:
    """Return the places of a row to look at: all, or as many from its start as from its end."""
    if count <= 2 * LOOK_AT:
        return list(range(count))
    return [*range(LOOK_AT), *range(count - LOOK_AT, count)]


@dataclass(frozen=True)
class Cached:
    """What a cache of `chunks` decoded chunks comes to: `decodes` over the whole stage."""

    chunks: int
    decodes: int


def cache_sizes(order: Sequence[int], touched: Sequence[Touches]) -> list[Cached]:
    """Return the sizes of cache worth having, from none to that which decodes everything once.

    With the least recently used dropped first, what is needed again along an axis is still there
    if the cache holds all that is touched in one step along it. Blocks take what is held before
    they decode, so what they decode pushes out nothing that they need themselves.
    """
    axes = [touched[a] for a in order]
    found = [Cached(0, prod(t.every for t in axes))]
    for fast in reversed(range(len(axes))):
        slower, inner = axes[:fast], axes[fast + 1 :]
        held = prod(t.most for t in slower) * axes[fast].most * prod(t.once for t in inner)
        again = prod(t.every for t in slower) * prod(t.once for t in axes[fast:])
        if again < found[-1].decodes:
            most = prod(t.once for t in axes)
            found.append(Cached(min(most, held + _ahead(axes, inner)), again))
    return found


def _ahead(axes: Sequence[Touches], inner: Sequence[Touches]) -> int:
    """Return the chunks of a step along the fastest axis, of those `inner` that blocks move along.

    A block at the start of a row has begun on the next row, while what the row before left at its
    end is still needed; and several blocks are computed at the same time.
    """
    moving = [t.most for t in inner if t.most < t.once]
    return prod(t.most for t in axes) // moving[-1] if moving else 0
