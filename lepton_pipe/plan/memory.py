"""What one task needs at its worst moment, followed step by step as the worker will run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod

from lepton_pipe.geometry import Blocks, Grid, Region
from lepton_pipe.plan.model import InputInfo, Read, Stage, StoredArray
from lepton_pipe.plan.regions import (
    block_regions,
    input_regions,
    place_of,
    region_bytes,
    slab_regions,
    sweep_source,
    written_region,
)
from lepton_pipe.spec import ImageType, Spec, Step

# A task decodes and encodes one chunk (or shard) at a time; it then exists in both forms.
CODEC_COPIES = 2


def last_use(spec: Spec, stage: Stage) -> dict[str, int]:
    """Return, for each image of a stage, the position of the last step that reads it.

    Positions count `Stage.steps`. A result is written as soon as it is computed. The worker frees
    an array after its last use, and the estimate assumes just that.
    """
    return {
        image: position
        for position, step in enumerate(stage.steps)
        for image in spec.image_inputs(spec[step])
    }


def task_bytes(
    spec: Spec,
    stage: Stage,
    arrays: Mapping[str, StoredArray],
    inputs: Mapping[str, InputInfo],
) -> int:
    """Return the most bytes that the task of a full-sized block holds at once."""
    if stage.sweep is not None:
        return _sweep_bytes(spec, stage, typical_block(stage), arrays, inputs)
    regions = widest_regions(spec, stage)
    held = _walk(spec, stage, regions, stage.steps)
    return held + _codec_bytes(stage, arrays, inputs, spec)


def typical_block(stage: Stage) -> Region:
    """Return the block nearest the middle; none is larger."""
    blocks = Blocks(stage.grid.shape, stage.block)
    middle = tuple((c - 1) // 2 for c in blocks.counts)
    return blocks.region(blocks.index(middle))


def widest_regions(spec: Spec, stage: Stage) -> dict[str, Region]:
    """Return the regions of the block that reads most.

    It is the one nearest the middle, unless a kernel looks further to one side than to the other.
    """
    if all(low == high for s in stage.steps for low, high in spec[s].depth):
        return block_regions(spec, stage, typical_block(stage))
    blocks = stage.blocks
    places = product(*({0, (c - 1) // 2, c - 1} for c in blocks.counts))
    found = (block_regions(spec, stage, blocks.region(blocks.index(p))) for p in places)
    return max(found, key=lambda regions: _total_bytes(spec, regions))


def _total_bytes(spec: Spec, regions: Mapping[str, Region]) -> int:
    return sum(region_bytes(spec.image_type(i), r) for i, r in regions.items())


def _walk(spec: Spec, stage: Stage, regions: Mapping[str, Region], steps: Sequence[str]) -> int:
    last = last_use(spec, stage)
    held = {
        r.step: region_bytes(spec.image_type(r.step), regions[r.step])
        for r in stage.reads
        if r.step in regions
    }
    peak = sum(held.values())
    for position, step_id in enumerate(steps):
        step = spec[step_id]
        result, moment = step_bytes(spec, step, _region_of(stage, step, regions))
        peak = max(peak, sum(held.values()) + result + moment)
        if isinstance(step.type, ImageType):
            held[step_id] = result
        # What is written is first cut to a contiguous copy.
        peak = max(peak, sum(held.values()) + _written_bytes(spec, stage, step_id))
        for image in [i for i in held if last.get(i, -1) <= position]:
            del held[image]
    return peak


def _written_bytes(spec: Spec, stage: Stage, step_id: str) -> int:
    block = typical_block(stage)
    return max(
        (
            region_bytes(spec.image_type(w.step), written_region(w, block))
            for w in stage.writes
            if w.step == step_id
        ),
        default=0,
    )


def _region_of(stage: Stage, step: Step, regions: Mapping[str, Region]) -> Region:
    return regions[step.id] if step.id in regions else typical_block(stage)


def step_bytes(spec: Spec, step: Step, region: Region) -> tuple[int, int]:
    """Return the bytes of a step's result before it is trimmed, and what it needs besides."""
    read = place_of(spec, step, region).read
    made = region if step.kernel is not None and step.kernel.role == "resample" else read
    result = region_bytes(step.type, made) if isinstance(step.type, ImageType) else 0
    # An image read over a wider region than this step needs is cut to a contiguous copy.
    cut = sum(
        region_bytes(spec.image_type(i), r) for i, r in input_regions(spec, step, region).items()
    )
    return result, int(step.scratch * read.size) + (
        cut if step.depth and any(map(any, step.depth)) else 0
    )


def _sweep_bytes(
    spec: Spec,
    stage: Stage,
    block: Region,
    arrays: Mapping[str, StoredArray],
    inputs: Mapping[str, InputInfo],
) -> int:
    assert stage.sweep is not None
    step = spec[stage.sweep.step]
    slab = (0, stage.sweep.thickness)
    regions = slab_regions(spec, stage, block, slab)
    steps = [s for s in stage.steps if s != step.id]
    source = sweep_source(spec, stage, block, slab)
    fold = 4 * block.size * 8  # the running fold, one partial, the result and its cast
    return (
        _walk(spec, stage, regions, steps)
        + fold
        + int(step.scratch * source.size)
        + _codec_bytes(stage, arrays, inputs, spec)
    )


def _codec_bytes(
    stage: Stage,
    arrays: Mapping[str, StoredArray],
    inputs: Mapping[str, InputInfo],
    spec: Spec,
) -> int:
    sizes = [_chunk_bytes(read, arrays, inputs, spec) for read in stage.reads]
    for write in stage.writes:
        unit = arrays[write.array].levels[write.level].unit
        sizes.append(CODEC_COPIES * prod(unit) * spec.image_type(write.step).dtype.itemsize)
    return max(sizes, default=0)


def _chunk_bytes(
    read: Read, arrays: Mapping[str, StoredArray], inputs: Mapping[str, InputInfo], spec: Spec
) -> int:
    if read.array is None:
        chunks = inputs[read.step].chunks
    else:
        chunks = arrays[read.array].levels[read.level].chunks
    return CODEC_COPIES * prod(chunks) * spec.image_type(read.step).dtype.itemsize


def traffic(spec: Spec, stage: Stage) -> tuple[int, int]:
    """Return the bytes a stage reads (overlap included) and writes, before compression.

    Regions of blocks are products of ranges along each axis, so sums over all blocks are products
    of sums along each axis; blocks are followed along one axis at a time.
    """
    written = sum(
        spec.image_type(w.step).grid.size * spec.image_type(w.step).dtype.itemsize
        for w in stage.writes
    )
    return sum(_read_bytes(spec, stage, read.step) for read in stage.reads), written


def _read_bytes(spec: Spec, stage: Stage, image: str) -> int:
    type_ = spec.image_type(image)
    blocks = stage.blocks
    lengths = [0] * type_.grid.ndim
    shared = [1] * type_.grid.ndim
    for axis, count in enumerate(blocks.counts):
        for i in range(count):
            position = tuple(i if a == axis else 0 for a in range(len(blocks.counts)))
            region = _image_region(spec, stage, blocks.region(blocks.index(position)), image)
            for k in _image_axes(stage, type_.grid, axis):
                lengths[k] += region.shape[k]
                shared[k] = 0
    first = _image_region(spec, stage, blocks.region(0), image)
    repeats = prod(c for a, c in enumerate(blocks.counts) if not _image_axes(stage, type_.grid, a))
    total = [
        n if not s else first.shape[k] for k, (n, s) in enumerate(zip(lengths, shared, strict=True))
    ]
    return prod(total) * repeats * type_.dtype.itemsize


def _image_axes(stage: Stage, grid: Grid, axis: int) -> list[int]:
    name = stage.grid.axes[axis]
    return (
        [grid.axes.index(name)]
        if name in grid.axes and grid.shape[grid.axes.index(name)] > 1
        else []
    )


def _image_region(spec: Spec, stage: Stage, block: Region, image: str) -> Region:
    if stage.sweep is None:
        return block_regions(spec, stage, block)[image]
    length = spec.image_type(spec.image_inputs(spec[stage.sweep.step])[0]).grid.shape[
        stage.sweep.axis
    ]
    return slab_regions(spec, stage, block, (0, length))[image]
