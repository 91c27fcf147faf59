"""What one task needs at its worst moment, followed step by step as the worker will run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np

from lepton_pipe.device.lanes import STAGING_BYTES
from lepton_pipe.geometry import Blocks, Region
from lepton_pipe.plan.absorb import Group, last_use, reads_before, results_of
from lepton_pipe.plan.fusion import dead_after, fused_groups, tiles
from lepton_pipe.plan.model import InputInfo, Stage, StoredArray
from lepton_pipe.plan.regions import (
    block_regions,
    place_of,
    region_bytes,
    slab_regions,
    sweep_source,
    written_region,
)
from lepton_pipe.plan.traffic import read_chunks
from lepton_pipe.spec import ImageType, Spec, Step, TableType, ValueType

# Partials of reductions, indexes of shards, and Python's own objects.
_SMALL_THINGS = 2**20
# Planes that a step before a filter makes, and as the filter takes them.
_PLANES = 4
# A partial as it is counted, as it is returned, and the fold of several.
_PARTIALS = 3


# What was freed leaves gaps in the heap; what blocks take, and decoded chunks, is raised by this.
ALLOCATOR_SLACK = 1.2
# What stays until later stages have read it is raised by less: with images that do not pack the
# heap grew by 3 to 8 percent more than they took.
HELD_SLACK = 1.1
# Bytes for each voxel of an image of which a table is made: objects of some 1,500 voxels, 230
# bytes for each while its row is put together. How many there are shows in the run alone, so tables
# are never why a run is refused: they get no more than this share of the memory.
TABLE_BYTES = 0.15
_TABLE_SHARE = 0.2
# What is known of objects before there is a table, such as which are one: 50 bytes for each.
_BEFORE_TABLES = 0.3


def table_bytes(spec: Spec, left: int) -> int:
    """Return what to set aside for the tables of a pipeline, of the bytes left for arrays."""
    tables = [s for s in spec.steps if isinstance(s.type, TableType)]
    wanted = sum(TABLE_BYTES * spec.leading_grid(s).size for s in tables)
    return int(min(wanted, _TABLE_SHARE * left))


def with_tables(spec: Spec, stages: Sequence[Stage], tables: int) -> Iterator[tuple[Stage, int]]:
    """Yield the stages with what is set aside for tables while each runs, of what they may take."""
    begun = False
    for stage in stages:
        begun = begun or any(isinstance(spec[s].type, TableType) for s in stage.steps)
        yield stage, tables if begun else int(_BEFORE_TABLES * tables)


def task_bytes(
    spec: Spec,
    stage: Stage,
    arrays: Mapping[str, StoredArray],
    inputs: Mapping[str, InputInfo],
    *,
    on_device: bool = False,
) -> int:
    """Return the most bytes of host memory that the task of a full-sized block holds at once.

    Parameters
    ----------
    on_device
        Whether it computes on a GPU, see `lepton_pipe.plan.on_device`.
    """
    codec = Codec.of(spec, stage, arrays, inputs)
    if on_device:
        most = beside_device_bytes(spec, stage, codec)
    elif stage.sweep is not None:
        most = _sweep_bytes(spec, stage, typical_block(stage), codec)
    else:
        most = _walk(spec, stage, widest_regions(spec, stage), stage.steps, codec)
    return most + codec.kept + _SMALL_THINGS


@dataclass(frozen=True)
class Codec:
    """Bytes that a task needs to read its images and to write its results.

    Attributes
    ----------
    reading
        By image: one chunk at a time is there as it is stored, and decoded.
    writing
        By step: a chunk is packed into room of its own size; those of a shard stay until all are
        packed.
    kept
        Where a chunk is put together before it is packed; a thread keeps it.
    """

    reading: Mapping[str, int]
    writing: Mapping[str, int]
    kept: int

    @classmethod
    def of(
        cls,
        spec: Spec,
        stage: Stage,
        arrays: Mapping[str, StoredArray],
        inputs: Mapping[str, InputInfo],
    ) -> Codec:
        """Return what the chunks of a stage's arrays come to."""
        reading = {
            read.step: 2 * _bytes(spec, read.step, read_chunks(read, arrays, inputs))
            for read in stage.reads
        }
        writing: dict[str, int] = {}
        kept = 0
        for write in stage.writes:
            layout = arrays[write.array].levels[write.level]
            chunk = _bytes(spec, write.step, layout.chunks)
            packed = chunk + (_bytes(spec, write.step, layout.shards) if layout.shards else 0)
            writing[write.step] = max(packed, writing.get(write.step, 0))
            kept = max(kept, chunk)
        return cls(reading, writing, kept)


def _bytes(spec: Spec, step: str, shape: Sequence[int]) -> int:
    return prod(shape) * spec.image_type(step).dtype.itemsize


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


def _walk(
    spec: Spec,
    stage: Stage,
    regions: Mapping[str, Region],
    steps: Sequence[str],
    codec: Codec,
) -> int:
    last = last_use(spec, stage)
    position = {s: i for i, s in enumerate(stage.steps)}
    groups = fused_groups(spec, stage, steps, regions)
    holding = _Holding(last)

    def read(images: Sequence[str]) -> None:
        for image in images:
            holding.images[image] = region_bytes(spec.image_type(image), regions[image])
            holding.peak_with(codec.reading[image] + codec.writing.get(image, 0))
            holding.free_if_unused(image)

    *before, rest = reads_before(spec, stage, groups, regions)
    for group, images in zip(groups, before, strict=True):
        read(images)
        results, moment = _group_bytes(spec, stage, group, regions, last)
        holding.images |= results
        writing = max(codec.writing.get(s, 0) for s in group.steps)
        holding.peak_with(max(moment, writing))
        holding.partials += sum(_partial_bytes(spec[s]) // _PARTIALS for s in group.steps)
        holding.free_after(position[group.steps[-1]])
    read(rest)
    return holding.peak


@dataclass
class _Holding:
    """What a task holds at a step, and has held at most: bytes of images, and of partials."""

    last: Mapping[str, int]
    images: dict[str, int] = field(default_factory=dict)
    partials: int = 0
    peak: int = 0

    def peak_with(self, moment: int) -> None:
        """Note what is held, with what is needed besides for a moment."""
        self.peak = max(self.peak, sum(self.images.values()) + self.partials + moment)

    def free_after(self, position: int) -> None:
        """Let go of images that nothing after a step needs."""
        for image in [i for i in self.images if self.last.get(i, -1) <= position]:
            del self.images[image]

    def free_if_unused(self, image: str) -> None:
        """Let go of an image that was read to be written as it is."""
        if image not in self.last:
            del self.images[image]


def _group_bytes(
    spec: Spec,
    stage: Stage,
    group: Group,
    regions: Mapping[str, Region],
    last: Mapping[str, int],
) -> tuple[dict[str, int], int]:
    """Return the bytes of each result that a group leaves, and what it needs besides."""
    steps = group.steps
    if group.filter:
        made = region_bytes(spec.image_type(steps[-1]), regions[steps[-1]])
        return {steps[-1]: made}, _filter_bytes(spec, group, regions[group.filter])
    if len(steps) == 1:
        step = spec[steps[0]]
        result, moment = step_bytes(spec, step, _region_of(stage, step, regions))
        return ({step.id: result} if isinstance(step.type, ImageType) else {}), moment
    kept = results_of(stage, steps, last)
    results = {s: region_bytes(spec.image_type(s), regions[s]) for s in kept}
    tile = next(tiles(regions[steps[0]]))
    return results, _tile_bytes(spec, steps, tile, dead_after(steps, stage, last))


def _filter_bytes(spec: Spec, group: Group, region: Region) -> int:
    """Return what a filter needs that does steps next to it: its own, and planes of factors."""
    step = spec[group.filter]
    read = place_of(spec, step, region).read
    planes = _PLANES * len(group.before) * prod(read.shape[-2:])
    return int(step.scratch * read.size) + planes * spec.image_type(step.id).dtype.itemsize


def _tile_bytes(
    spec: Spec, group: Sequence[str], tile: Region, dead: Sequence[Sequence[str]]
) -> int:
    held: dict[str, int] = {}
    peak = 0
    for step_id, over in zip(group, dead, strict=True):
        held[step_id], moment = step_bytes(spec, spec[step_id], tile)
        peak = max(peak, sum(held.values()) + moment)
        for gone in over:
            del held[gone]
    return peak


def _region_of(stage: Stage, step: Step, regions: Mapping[str, Region]) -> Region:
    return regions[step.id] if step.id in regions else typical_block(stage)


def step_bytes(spec: Spec, step: Step, region: Region) -> tuple[int, int]:
    """Return the bytes of a step's result before it is trimmed, and what it needs besides.

    Images are handed to a kernel as views.
    """
    read = place_of(spec, step, region).read
    made = region if step.kernel is not None and step.kernel.role == "resample" else read
    result = region_bytes(step.type, made) if isinstance(step.type, ImageType) else 0
    return result, int(step.scratch * read.size) + _partial_bytes(step)


def _partial_bytes(step: Step) -> int:
    """Return what a reduction to an array takes while it runs."""
    type_ = step.type
    if not isinstance(type_, ValueType):
        return 0  # how long a table will be, nobody knows
    return _PARTIALS * prod(type_.shape) * np.dtype(type_.dtype).itemsize


def _sweep_bytes(spec: Spec, stage: Stage, block: Region, codec: Codec) -> int:
    assert stage.sweep is not None
    step = spec[stage.sweep.step]
    slab = (0, stage.sweep.thickness)
    regions = slab_regions(spec, stage, block, slab)
    steps = [s for s in stage.steps if s != step.id]
    source = sweep_source(spec, stage, block, slab)
    fold = 4 * block.size * 8  # the running fold, one partial, the result and its cast
    slabs = _walk(spec, stage, regions, steps, codec) + int(step.scratch * source.size)
    return fold + max(slabs, codec.writing.get(step.id, 0))


# -- on a GPU ---------------------------------------------------------------------------------


def regions_of_task(spec: Spec, stage: Stage) -> tuple[Mapping[str, Region], Sequence[str]]:
    """Return the regions of the block that reads most, and the steps that make images of them.

    Of a stage that sweeps they are those of a slab.
    """
    if stage.sweep is None:
        return widest_regions(spec, stage), stage.steps
    slab = (0, stage.sweep.thickness)
    regions = slab_regions(spec, stage, typical_block(stage), slab)
    return regions, [s for s in stage.steps if s != stage.sweep.step]


def written_bytes(spec: Spec, stage: Stage) -> dict[str, int]:
    """Return the bytes of what a block writes, by step."""
    block = typical_block(stage)
    return {
        w.step: region_bytes(spec.image_type(w.step), written_region(w, block))
        for w in stage.writes
    }


def beside_device_bytes(spec: Spec, stage: Stage, codec: Codec) -> int:
    """Return the host bytes of a task that computes on a GPU.

    All that it reads is there until it is on the device, and all that it writes from then on.
    """
    regions, _ = regions_of_task(spec, stage)
    reads = {r.step: regions[r.step] for r in stage.reads if r.step in regions}
    read = sum(region_bytes(spec.image_type(i), r) for i, r in reads.items())
    written = sum(written_bytes(spec, stage).values())
    reading = max((codec.reading[i] for i in reads), default=0)
    writing = max(codec.writing.values(), default=0)
    partials = sum(_partial_bytes(spec[s]) for s in stage.reduces)
    return max(read + reading, read + written + partials + STAGING_BYTES, written + writing)
