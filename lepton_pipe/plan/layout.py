"""How results are stored: chunk and shard shapes, scale levels. A function of the image alone.

Nothing here looks at memory or workers, so the stored bytes do not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import prod

from lepton_pipe.geometry import Blocks, Grid, Layout

CHUNK_VOXELS = 2**20
# Small images have smaller chunks, so that there are enough of them for every core.
_CHUNKS_AT_LEAST = 32
_SMALLEST_CHUNK = 2**16
_SMALLEST_LEVEL_CHUNK = 2**17
_HINT_VOXELS = (2**15, 2**23)
_SHARD_BELOW = 2**19
_SHARD_FROM_CHUNKS = 1000
_DEFAULT_CHUNKS = {1: (2**20,), 2: (1024, 1024), 3: (64, 128, 128)}
_COARSEST = 256


def choose_layout(
    grid: Grid,
    hint: Sequence[int] | None = None,
    tiling: Mapping[str, int] | None = None,
    wanted: Mapping[str, int] | None = None,
) -> Layout:
    """Choose chunk and shard shapes for an image.

    Parameters
    ----------
    grid
        What is stored.
    hint
        Chunk shape of the input on the same grid; kept when it has a sensible size, so that
        blocks read whole chunks.
    tiling
        Chunk length by axis name, instead of choosing one; never sharded.
    wanted
        Chunk length by axis name, as a user wants it; others are chosen.

    Returns
    -------
    Layout
        Sharded when chunks are so small that their number would burden a file system.
    """
    if tiling is not None:
        return Layout(
            grid, _cut([tiling.get(a, n) for a, n in zip(grid.axes, grid.shape, strict=True)], grid)
        )
    chunks = _from_hint(grid, hint) or _default_chunks(grid)
    if wanted:
        chunks = tuple(wanted.get(a, c) for a, c in zip(grid.axes, chunks, strict=True))
    return _with_shards(grid, _cut(chunks, grid))


def _with_shards(grid: Grid, chunks: tuple[int, ...]) -> Layout:
    small = prod(chunks) < _SHARD_BELOW and len(Blocks(grid.shape, chunks)) > _SHARD_FROM_CHUNKS
    shards = _grow(chunks, grid) if small else chunks
    return Layout(grid, chunks, None if shards == chunks else shards)


def _default_chunks(grid: Grid) -> tuple[int, ...]:
    spatial = grid.spatial
    wanted = [1] * grid.ndim
    for axis, size in zip(spatial, _DEFAULT_CHUNKS.get(len(spatial), ()), strict=True):
        wanted[axis] = size
    target = max(_SMALLEST_CHUNK, grid.size // _CHUNKS_AT_LEAST)
    while prod(_cut(wanted, grid)) > target:
        longest = max(range(grid.ndim), key=lambda i: min(wanted[i], grid.shape[i]))
        wanted[longest] = -(-min(wanted[longest], grid.shape[longest]) // 2)
    return _cut(wanted, grid)


def _from_hint(grid: Grid, hint: Sequence[int] | None) -> tuple[int, ...] | None:
    if hint is None:
        return None
    chunks = _cut(hint, grid)
    low, high = _HINT_VOXELS
    return chunks if min(low, grid.size) <= prod(chunks) <= high else None


def _cut(chunks: Sequence[int], grid: Grid) -> tuple[int, ...]:
    return tuple(max(1, min(c, n)) for c, n in zip(chunks, grid.shape, strict=True))


def _grow(chunks: tuple[int, ...], grid: Grid) -> tuple[int, ...]:
    """Double spatial axes, the shortest first, until a shard holds `CHUNK_VOXELS`.

    Where whole planes or volumes are too small for that, several share a shard: of the channels
    of a time first, then of times.
    """
    shards = list(chunks)
    while prod(shards) < CHUNK_VOXELS:
        long = [i for i in range(grid.ndim) if shards[i] < grid.shape[i]]
        spatial = [i for i in long if i in grid.spatial]
        if not long:
            break
        axis = min(spatial, key=lambda i: shards[i]) if spatial else long[-1]
        shards[axis] *= 2
    return tuple(shards)


def scale_factors(grid: Grid, most: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Return, for each scale level above the first, its factors relative to the one before.

    Each level halves the spatial axes whose voxels are smaller than twice the smallest, so that
    voxels become cubes before they become coarse. Levels end when the image fits one screen, or
    when there are `most` of them, the first among them.
    """
    return tuple(islice(_factors(grid), None if most is None else most - 1))


def _factors(grid: Grid) -> Iterator[tuple[int, ...]]:
    while max((grid.shape[i] for i in grid.spatial), default=0) > _COARSEST:
        long = [i for i in grid.spatial if grid.shape[i] > 1]
        finest = min(grid.scale[i] for i in long)
        factors = tuple(
            2 if i in long and grid.scale[i] < 2 * finest else 1 for i in range(grid.ndim)
        )
        yield factors
        grid = grid.coarsen(factors)


def pyramid(
    grid: Grid,
    hint: Sequence[int] | None = None,
    tiling: Mapping[str, int] | None = None,
    wanted: Mapping[str, int] | None = None,
    most: int | None = None,
) -> tuple[Layout, ...]:
    """Return the layouts of all scale levels of an output image, at most so many, finest first."""
    layouts = [choose_layout(grid, hint, tiling, wanted)]
    for factors in scale_factors(grid, most):
        finer = layouts[-1]
        coarser, chunks = finer.grid.coarsen(factors), _shrink(finer.chunks, factors)
        layouts.append(
            _with_shards(coarser, _cut(chunks, coarser))
            if wanted
            else choose_layout(coarser, chunks, tiling)
        )
    return tuple(layouts)


def _shrink(chunks: tuple[int, ...], factors: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunks of a coarser level: those of one finer chunk, unless too small.

    A block of one chunk thus makes whole chunks of the next level, in passing.
    """
    smaller = tuple(-(-c // f) for c, f in zip(chunks, factors, strict=True))
    exact = all(c % f == 0 or c == 1 for c, f in zip(chunks, factors, strict=True))
    return smaller if exact and prod(smaller) >= _SMALLEST_LEVEL_CHUNK else chunks
