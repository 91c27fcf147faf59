"""What a stage moves: bytes read with their overlap, chunks decoded, bytes written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from lepton_pipe.geometry import Grid, Region
from lepton_pipe.plan.model import InputInfo, Read, Stage, StoredArray, Write
from lepton_pipe.plan.regions import block_regions, for_image, slab_regions
from lepton_pipe.plan.reuse import Cached, cache_sizes, touches
from lepton_pipe.spec import Spec


def write_bytes(spec: Spec, write: Write) -> int:
    """Return the bytes of an array that a stage writes, before compression."""
    type_ = spec.image_type(write.step)
    return type_.grid.size * type_.dtype.itemsize


def bytes_written(spec: Spec, stage: Stage) -> int:
    """Return the bytes a stage writes, before compression."""
    return sum(write_bytes(spec, w) for w in stage.writes)


def bytes_read(spec: Spec, stage: Stage) -> int:
    """Return the bytes a stage reads, overlap included.

    Regions of blocks are products of ranges along each axis, so sums over all blocks are products
    of sums along each axis; blocks are followed along one axis at a time.
    """
    images = [read.step for read in stage.reads]
    return sum(_read_bytes(spec, for_image(spec, stage, image), image) for image in images)


def _read_bytes(spec: Spec, stage: Stage, image: str) -> int:
    type_ = spec.image_type(image)
    followed = followed_axes(stage, type_.grid)
    lengths = list(region_of(spec, stage, stage.blocks.region(0), image).shape)
    repeats = 1
    for axis, count in enumerate(stage.blocks.counts):
        along = followed[axis]
        if along < 0:
            repeats *= count
        else:
            rows = row(stage, axis)
            lengths[along] = sum(region_of(spec, stage, b, image).shape[along] for b in rows)
    return prod(lengths) * repeats * type_.dtype.itemsize


def row(stage: Stage, axis: int) -> Iterator[Region]:
    """Yield the blocks along one axis, first in all others."""
    blocks = stage.blocks
    for i in range(blocks.counts[axis]):
        yield blocks.region(
            blocks.index(tuple(i if a == axis else 0 for a in range(stage.grid.ndim)))
        )


def followed_axes(stage: Stage, grid: Grid) -> list[int]:
    """Return, for each axis of a stage, the image's axis that blocks move along; -1 if none."""
    names = [a if n > 1 else "" for a, n in zip(grid.axes, grid.shape, strict=True)]
    return [names.index(a) if a in names else -1 for a in stage.grid.axes]


def region_of(spec: Spec, stage: Stage, block: Region, image: str) -> Region:
    """Return the region that the task of a block reads of an image."""
    if stage.sweep is None:
        return block_regions(spec, stage, block)[image]
    (source,) = spec.image_inputs(spec[stage.sweep.step])
    length = spec.image_type(source).grid.shape[stage.sweep.axis]
    return slab_regions(spec, stage, block, (0, length))[image]


def read_chunks(
    read: Read, arrays: Mapping[str, StoredArray], inputs: Mapping[str, InputInfo]
) -> tuple[int, ...]:
    """Return the chunk shape of what is read."""
    if read.array is None:
        return inputs[read.step].chunks
    return arrays[read.array].levels[read.level].chunks


@dataclass(frozen=True)
class Decoding:
    """Bytes of one decoded chunk of what is read, and what a cache of such chunks saves.

    ``again`` is how often a chunk is decoded for slabs thinner than itself.
    """

    chunk_bytes: int
    sizes: tuple[Cached, ...]
    again: int = 1

    def within(self, cache_bytes: int) -> Cached:
        """Return the largest size worth having that fits."""
        return [s for s in self.sizes if s.chunks * self.chunk_bytes <= cache_bytes][-1]

    def decoded(self, cached: Cached) -> int:
        """Return the bytes that are decoded with a cache of this size."""
        return cached.decodes * self.chunk_bytes * self.again


def decoding(
    spec: Spec,
    stage: Stage,
    read: Read,
    arrays: Mapping[str, StoredArray],
    inputs: Mapping[str, InputInfo],
) -> Decoding:
    """Return how often the chunks of one image are decoded, with caches of several sizes."""
    type_ = spec.image_type(read.step)
    chunks = read_chunks(read, arrays, inputs)
    touched = touches(
        stage,
        chunks,
        lambda block: region_of(spec, stage, block, read.step),
        followed_axes(stage, type_.grid),
    )
    # Axes that no block moves along are read from end to end by each.
    whole = prod(
        -(-n // c)
        for i, (n, c) in enumerate(zip(type_.grid.shape, chunks, strict=True))
        if i not in followed_axes(stage, type_.grid)
    )
    sizes = tuple(
        Cached(c.chunks * whole, c.decodes * whole)
        for c in cache_sizes(stage.order or range(stage.grid.ndim), touched)
    )
    again = 1
    if stage.sweep is not None:
        again = max(1, -(-chunks[stage.sweep.axis] // stage.sweep.thickness))
    return Decoding(prod(chunks) * type_.dtype.itemsize, sizes, again)
