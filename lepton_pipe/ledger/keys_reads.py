"""What the blocks of a stage read: of inputs, and of arrays that blocks of earlier stages wrote.

Along each axis, what a block reads of an image depends on the block's place along one axis of the
stage alone, as long as every resampling keeps axes apart. So the blocks along one edge of the grid
tell of all the others::

    o o o o o o      o  followed through the steps, once
    o . . . . .      .  put together: rows from the first column, columns from the first row
    o . . . . .
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from lepton_pipe.geometry import Blocks, Region
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.plan import Plan, Read, Stage
from lepton_pipe.plan.regions import block_regions, slab_regions
from lepton_pipe.spec import Spec

Position = tuple[int, ...]
"""Place of a block along each axis."""

Range = tuple[int, int]
Box = tuple[slice, ...]

_KEEP_AXES_APART = (crop, downsample)


def positions(blocks: Blocks) -> Iterator[Position]:
    """Return the places of blocks along each axis, in the order of their numbers."""
    order = blocks.order or tuple(range(len(blocks.shape)))
    in_order = product(*(range(blocks.counts[axis]) for axis in order))
    if order == tuple(range(len(order))):
        return in_order
    back = [order.index(axis) for axis in range(len(order))]
    return (tuple([place[i] for i in back]) for place in in_order)


def _region_at(blocks: Blocks, position: Position) -> Region:
    start = tuple([i * b for i, b in zip(position, blocks.block, strict=True)])
    ends = zip(start, blocks.block, blocks.shape, strict=True)
    return Region(start, tuple([min(a + b, n) for a, b, n in ends]))


def read_regions(spec: Spec, stage: Stage, block: Region) -> dict[str, Region]:
    """Return the regions that the task of `block` reads, by the steps of ``stage.reads``.

    For a stage that sweeps, each is the hull of what the slabs read.
    """
    found: dict[str, list[Region]] = {}
    for regions in _task_regions(spec, stage, block):
        for read in stage.reads:
            if read.step in regions:
                found.setdefault(read.step, []).append(regions[read.step])
    return {step: Region.hull(regions) for step, regions in found.items()}


def _task_regions(spec: Spec, stage: Stage, block: Region) -> Iterator[dict[str, Region]]:
    if stage.sweep is None:
        yield block_regions(spec, stage, block)
        return
    (source,) = spec.image_inputs(spec[stage.sweep.step])
    length = spec.image_type(source).grid.shape[stage.sweep.axis]
    thickness = length if _keeps_axes_apart(spec, stage) else stage.sweep.thickness
    for start in range(0, length, thickness):
        yield slab_regions(spec, stage, block, (start, min(length, start + thickness)))


def _keeps_axes_apart(spec: Spec, stage: Stage) -> bool:
    """Tell whether regions are products of ranges; a user's resampling may turn an image."""
    kernels = [spec[step].kernel for step in stage.steps]
    return all(k is None or k.role != "resample" or k in _KEEP_AXES_APART for k in kernels)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of an image: which axis of the stage it follows, and the range for each place."""

    follows: int
    ranges: Sequence[Range]


class Ranges:
    """The ranges that each block of a stage reads of an image, axis by axis."""

    def __init__(self, spec: Spec, stage: Stage) -> None:
        self._spec, self._stage = spec, stage
        self._blocks = stage.blocks
        self._axes = self._tables() if _keeps_axes_apart(spec, stage) else None

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """The images that are read."""
        first = (0,) * len(self._blocks.shape)
        return tuple(self._followed(first))

    def of(self, step: str, position: Position) -> list[Range]:
        """Return the ranges that the block at `position` reads of an image."""
        if self._axes is None:
            return self._followed(position)[step]
        return [axis.ranges[position[axis.follows]] for axis in self._axes[step]]

    def hull(self, step: str) -> list[Range]:
        """Return ranges that hold what all blocks read of an image."""
        if self._axes is None:
            return [(0, n) for n in self._spec.image_type(step).grid.shape]
        return [_hull(axis.ranges) for axis in self._axes[step]]

    def _followed(self, position: Position) -> dict[str, list[Range]]:
        found = read_regions(self._spec, self._stage, _region_at(self._blocks, position))
        return {s: list(zip(r.start, r.stop, strict=True)) for s, r in found.items()}

    def _tables(self) -> dict[str, list[_Axis]]:
        counts = self._blocks.counts
        corner = (0,) * len(counts)
        first = self._followed(corner)
        tables = {s: [_Axis(0, [r] * counts[0]) for r in ranges] for s, ranges in first.items()}
        for axis, count in enumerate(counts):
            row = [self._followed((*corner[:axis], i, *corner[axis + 1 :])) for i in range(count)]
            for step, ranges in first.items():
                for along, same in enumerate(ranges):
                    found = [regions[step][along] for regions in row]
                    if any(r != same for r in found):
                        tables[step][along] = _Axis(axis, found)
        return tables


def _hull(ranges: Sequence[Range]) -> Range:
    return min(start for start, _ in ranges), max(stop for _, stop in ranges)


@dataclass(frozen=True)
class Producer:
    """The stage that wrote an array that a later stage reads.

    Attributes
    ----------
    factors
        How much coarser the array is than the blocks of the stage.
    """

    stage: Stage
    factors: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, read: Read) -> Producer:
        """Return who wrote what is read from a stored array."""
        for stage in plan.stages:
            for write in stage.writes:
                if (write.array, write.level) == (read.array, read.level):
                    return cls(stage, write.factors)
        raise ValueError(
            f"no stage of the plan writes level {read.level} of {read.array!r}, which a stage "
            "reads; the plan is not whole"
        )

    def box(self, ranges: Iterable[Range]) -> Box:
        """Return the places of the blocks that wrote a part of the array."""
        scaled = zip(ranges, self.factors, self.stage.block, strict=True)
        return tuple(
            slice(start * f // b, (stop - 1) * f // b + 1 if stop > start else 0)
            for (start, stop), f, b in scaled
        )

    def numbers(self, box: Box) -> list[int]:
        """Return the numbers of the blocks in a box of places."""
        index = self.stage.blocks.index
        return [index(place) for place in product(*(range(s.start, s.stop) for s in box))]


class Producers:
    """Finds, for the blocks of one stage, the blocks of earlier stages that wrote what they read.

    Made once for many blocks of a stage; `producers` is for one.
    """

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._blocks = stage.blocks
        self._ranges = Ranges(plan.spec, stage)
        self._stored = {
            r.step: Producer.of(plan, r)
            for r in stage.reads
            if r.array is not None and r.step in self._ranges.steps
        }

    def of(self, block: int) -> Mapping[int, tuple[int, ...]]:
        """Return the numbers of the blocks, ascending, by the index of their stage."""
        place = self._blocks.position(block)
        found: dict[int, set[int]] = {}
        for step, producer in self._stored.items():
            numbers = producer.numbers(producer.box(self._ranges.of(step, place)))
            found.setdefault(producer.stage.index, set()).update(numbers)
        return {index: tuple(sorted(numbers)) for index, numbers in found.items()}


def producers(plan: Plan, stage: Stage, block: int) -> Mapping[int, tuple[int, ...]]:
    """Return which blocks of earlier stages wrote what a block reads from stored arrays.

    Returns
    -------
    mapping
        From the index of a stage to the numbers of its blocks, ascending. Empty for a stage that
        reads inputs alone. Block numbers count in the order in which blocks are run.
    """
    return Producers(plan, stage).of(block)
