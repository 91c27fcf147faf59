"""Fit stages to the memory: block shapes, blocks at once, scale levels made in passing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Blocks, Grid, Region
from lepton_pipe.plan.absorb import Group, absorbing_groups, last_use
from lepton_pipe.plan.decoded import Decoded
from lepton_pipe.plan.estimate import Estimate, Shape, Work
from lepton_pipe.plan.layout import choose_layout
from lepton_pipe.plan.levels import Levels
from lepton_pipe.plan.memory import task_bytes, typical_block
from lepton_pipe.plan.model import (
    SCRATCH,
    InputInfo,
    Stage,
    StoredArray,
    Sweep,
    Write,
    chunk_hint,
    is_copied,
    level_step,
)
from lepton_pipe.plan.on_device import Devices
from lepton_pipe.plan.rates import COPY_NS, NOMINAL, Rates
from lepton_pipe.plan.regions import block_regions, place_of, slab_regions, sweep_source
from lepton_pipe.plan.reuse import block_order
from lepton_pipe.plan.shape import LARGE_BLOCK_VOXELS, candidates, choose_block, common_unit
from lepton_pipe.plan.traffic import bytes_read, bytes_written, read_chunks, write_bytes
from lepton_pipe.spec import Spec

# Shapes told to who asks why.
CONSIDERED = 4
# A voxel is read as often as this with its neighbours' blocks: larger blocks are worth a look.
MOSTLY_OVERLAP = 2.0
# Blocks may take this much longer if they make scale levels in passing.
PASSING_IS_WORTH = 1.15
SLAB_VOXELS = 2**22


@dataclass
class Fitter:
    """Chooses block shapes under one budget of memory."""

    spec: Spec
    arrays: Mapping[str, StoredArray]
    inputs: Mapping[str, InputInfo]
    budget: int
    slots: int
    devices: Devices
    rates: Rates = NOMINAL
    tiling: Mapping[str, int] | None = None
    _decoded: Decoded = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no chunks looked at."""
        self._decoded = Decoded(self.spec, self.arrays, self.inputs, self.rates)

    def fit(self, skeletons: Sequence[Stage], levels: Levels) -> list[Stage]:
        """Return the stages with block shapes; those bound to each other by a join share one.

        Raises
        ------
        MemoryRefusedError
            When a stage does not fit even with the smallest block.
        """
        fitted: dict[int, Stage] = {}
        for group in _groups(self.spec, skeletons, levels):
            considered = self._shapes([skeletons[i] for i in group])
            for i in group:
                fitted[i] = self._fitted(skeletons[i], considered)
        return [fitted[i] for i in range(len(skeletons))]

    def fit_scale(self, stage: Stage, unit: tuple[int, ...]) -> Stage:
        """Return a stage that only makes scale levels, with its block shape chosen."""
        return self._fitted(stage, self._choose([stage], unit))

    def _fitted(self, stage: Stage, considered: Sequence[Shape]) -> Stage:
        best = considered[0]
        stage = self._with_block(stage, best.block)
        stage = self._with_scale_levels(stage, best.at_once)
        return replace(self.finish(stage, best.at_once), considered=tuple(considered[:CONSIDERED]))

    def _shapes(self, stages: Sequence[Stage]) -> list[Shape]:
        """Return the block shapes that fit, the one to take first."""
        unit = self._unit(stages)
        shapes = self._choose(stages, unit)
        best = shapes[0]
        for wanted in [] if self.tiling else self._units_with_scale_levels(stages, unit):
            wide = next((s for s in shapes if _whole_units(s.block, wanted, stages[0].grid)), best)
            # Scale levels made in passing need not be read again.
            if wide.at_once >= best.at_once and wide.seconds < PASSING_IS_WORTH * best.seconds:
                best = wide
        return [best, *(s for s in shapes if s is not best)]

    def _choose(self, stages: Sequence[Stage], unit: tuple[int, ...]) -> list[Shape]:
        if self.tiling is not None:
            return self._ranked(stages, [unit])
        grid, whole = stages[0].grid, self._whole_chunks(stages, unit)
        found = self._ranked(stages, candidates(grid, unit, whole))
        if self._overlap(stages, found[0].block) > MOSTLY_OVERLAP:
            found = self._ranked(stages, candidates(grid, unit, whole, LARGE_BLOCK_VOXELS))
        return found

    def _overlap(self, stages: Sequence[Stage], block: tuple[int, ...]) -> float:
        """Return how often a voxel of what is read on the blocks' own grid is read, at most."""
        grid = stages[0].grid
        found = [1.0]
        for stage in (self._with_block(s, block) for s in stages if s.sweep is None):
            regions = block_regions(self.spec, stage, typical_block(stage))
            same = [r for r in stage.reads if self.spec.image_type(r.step).grid.shape == grid.shape]
            found += [regions[r.step].size / prod(block) for r in same]
        return max(found)

    def _ranked(self, stages: Sequence[Stage], shapes: Iterable[tuple[int, ...]]) -> list[Shape]:
        try:
            return self._choose_block(stages, shapes)
        except MemoryRefusedError as error:
            if self._overlap(stages, self._unit(stages)) > MOSTLY_OVERLAP:
                steps = (self.spec[s] for stage in stages for s in stage.steps)
                far = max(max(side) for step in steps for side in step.depth)
                error.remedy = (
                    f"let its filters look less far than {far} voxels (on a coarser scale level, "
                    "too: --input-level): most of that is what lies around the block"
                )
            raise

    def _choose_block(
        self, stages: Sequence[Stage], shapes: Iterable[tuple[int, ...]]
    ) -> list[Shape]:
        grid = stages[0].grid

        def shaped(block: tuple[int, ...]) -> list[Stage]:
            return [self._with_block(s, block) for s in stages]

        return choose_block(
            shapes,
            need=lambda block: max(map(self._task_bytes, shaped(block))),
            work_of=lambda block, left: sum(
                (self._work(s, left) for s in shaped(block)), start=Work()
            ),
            count=lambda block: len(Blocks(grid.shape, block)),
            budget=self.budget,
            slots=self.slots,
            what=" and ".join(s.name for s in stages),
            devices=self.devices,
            need_there=lambda block: self.devices.need(*shaped(block)),
        )

    def _unit(self, stages: Sequence[Stage]) -> tuple[int, ...]:
        """Return the smallest block: whole units of what is written, or would be."""
        grid = stages[0].grid
        if self.tiling is not None:
            return choose_layout(grid, None, self.tiling).unit
        units = [self.arrays[w.array].levels[0].unit for s in stages for w in s.writes]
        return common_unit(units or [choose_layout(grid, chunk_hint(self.inputs, grid)).unit], grid)

    def _whole_chunks(self, stages: Sequence[Stage], unit: tuple[int, ...]) -> tuple[int, ...]:
        """Return the smallest block that reads whole chunks of every image on its own grid."""
        grid = stages[0].grid
        chunks = [
            read_chunks(read, self.arrays, self.inputs)
            for stage in stages
            for read in stage.reads
            if stage.sweep is None and self.spec.image_type(read.step).grid.shape == grid.shape
        ]
        return common_unit([unit, *chunks], grid)

    def _units_with_scale_levels(
        self, stages: Sequence[Stage], unit: tuple[int, ...]
    ) -> Iterable[tuple[int, ...]]:
        """Yield larger units from which one scale level can be made in passing."""
        for stage in stages:
            for write in stage.writes:
                levels = self.arrays[write.array].levels
                if len(levels) > 1 and stage.sweep is None:
                    factors = self._factors(write.array, 1)
                    finer = [u * f for u, f in zip(levels[1].unit, factors, strict=True)]
                    yield common_unit([unit, finer], stage.grid)

    def _factors(self, array: str, level: int) -> tuple[int, ...]:
        """Return how much coarser a scale level is than the one before."""
        factors = self.spec[level_step(self.arrays[array].step, level)].args["factor"]
        return tuple(factors)

    def _with_block(self, stage: Stage, block: tuple[int, ...]) -> Stage:
        stage = replace(stage, block=block, order=block_order(stage.grid, block))
        if stage.sweep is None:
            return stage
        step, axis = stage.sweep.step, stage.sweep.axis
        slabs = [
            (replace(stage, sweep=Sweep(step, axis, thickness)), share)
            for thickness, share in self._thicknesses(stage, step, axis)
        ]
        fitting = (slab for slab, share in slabs if self._task_bytes(slab) <= share)
        return next(fitting, slabs[-1][0])

    def _thicknesses(self, stage: Stage, step: str, axis: int) -> list[tuple[int, int]]:
        """Return how thick slabs might be, the best first, and the bytes that each may take.

        A slab of whole chunks decodes each once; for that, fewer blocks are computed at once.
        """
        (source,) = self.spec.image_inputs(self.spec[step])
        length = self.spec.image_type(source).grid.shape[axis]
        chunk = min(length, read_chunks(stage.reads[0], self.arrays, self.inputs)[axis])
        several = chunk * max(1, SLAB_VOXELS // (chunk * prod(stage.block)))
        each = self.budget // self.slots
        parts = [-(-chunk // 2**k) for k in range(1, chunk.bit_length() + 1)]
        return [
            (min(several, length), each),
            (chunk, each),
            (chunk, self.budget),
            *((part, each) for part in parts),
        ]

    def _with_scale_levels(self, stage: Stage, at_once: int) -> Stage:
        """Add the coarser levels that each block makes whole units of, as far as they fit."""
        for write in stage.writes:
            for extra in self.coarser(write, stage):
                wider = replace(
                    stage,
                    steps=self._with_step(stage, extra.step),
                    writes=(*stage.writes, extra),
                )
                if at_once * self._task_bytes(wider) > self.budget:
                    return stage
                here, there = (self.devices.need(s) for s in (stage, wider))
                if self.devices.lanes(there, at_once) < min(2, self.devices.lanes(here, at_once)):
                    return stage
                stage = wider
        return stage

    def _with_step(self, stage: Stage, level: str) -> tuple[str, ...]:
        """Add a scale level as soon as nothing else needs its image: that is let go then."""
        if level in stage.steps:
            return stage.steps
        (source,) = self.spec.image_inputs(self.spec[level])
        own = [stage.steps.index(source)] if source in stage.steps else []
        after = max([*own, last_use(self.spec, stage).get(source, -1)]) + 1
        return (*stage.steps[:after], level, *stage.steps[after:])

    def coarser(self, write: Write, stage: Stage) -> list[Write]:
        """Return the writes of coarser levels that the blocks of a stage cover exactly."""
        array = self.arrays[write.array]
        found: list[Write] = []
        if stage.sweep is not None or not array.output:
            return found
        factors = write.factors
        for level in range(write.level + 1, len(array.levels)):
            factors = tuple(
                a * b for a, b in zip(factors, self._factors(write.array, level), strict=True)
            )
            if not _covers(stage, factors, array.levels[level].unit):
                break
            found.append(Write(level_step(array.step, level), write.array, level, factors))
        return found

    def _task_bytes(self, stage: Stage) -> int:
        on_device = bool(self.devices)
        return task_bytes(self.spec, stage, self.arrays, self.inputs, on_device=on_device)

    def finish(self, stage: Stage, at_once: int) -> Stage:
        """Return a stage with what its blocks take, and leave for decoded chunks."""
        task = self._task_bytes(stage)
        slots = min(at_once, max(1, self.budget // max(1, task)))
        left = self.budget - slots * task - stage.held_bytes
        estimate = Estimate(
            task_bytes=task,
            bytes_read=bytes_read(self.spec, stage),
            bytes_written=bytes_written(self.spec, stage),
            core_seconds=self._work(stage, left).total,
            device_bytes=self.devices.need(stage),
        )
        lanes = self.devices.lanes(estimate.device_bytes, slots)
        found = replace(stage, estimate=estimate, slots=slots, lanes=lanes)
        return self._decoded.kept_by(found, left)

    def holding(self, stage: Stage, held_bytes: int) -> Stage:
        """Return a finished stage that holds more or less besides its blocks.

        They stay as they are; what is left for decoded chunks changes.
        """
        left = self.budget - stage.slots * stage.estimate.task_bytes
        seconds = stage.estimate.core_seconds
        seconds -= self._decoded.seconds(stage, left - stage.held_bytes)
        seconds += self._decoded.seconds(stage, left - held_bytes)
        estimate = replace(stage.estimate, core_seconds=seconds)
        found = replace(stage, estimate=estimate, held_bytes=held_bytes)
        return self._decoded.kept_by(found, left - held_bytes)

    def _work(self, stage: Stage, left: int) -> Work:
        """Return the work of all blocks, with `left` bytes for decoded chunks."""
        encode = sum(write_bytes(self.spec, w) * self._write_ns(w) for w in stage.writes)
        return Work(
            compute=self._compute_seconds(stage),
            decode=self._decoded.seconds(stage, left),
            encode=encode / 1e9,
            tasks=len(stage.blocks) * self.rates.task_seconds,
        )

    def _write_ns(self, write: Write) -> float:
        if is_copied(self.inputs, self.arrays[write.array], write.level):
            return COPY_NS
        stored = self.arrays[write.array]
        return self.rates.encode_ns if stored.output else self.rates.store_ns

    def _compute_seconds(self, stage: Stage) -> float:
        block = typical_block(stage)
        if stage.sweep is None:
            regions, repeats = block_regions(self.spec, stage, block), 1.0
        else:
            slab = (0, stage.sweep.thickness)
            (source,) = self.spec.image_inputs(self.spec[stage.sweep.step])
            length = self.spec.image_type(source).grid.shape[stage.sweep.axis]
            regions = slab_regions(self.spec, stage, block, slab)
            regions[stage.sweep.step] = sweep_source(self.spec, stage, block, slab)
            repeats = length / stage.sweep.thickness
        steps = [s for s in stage.steps if s in regions]
        ns = sum(self._group_ns(g, regions) for g in absorbing_groups(self.spec, stage, steps))
        ns += sum(self.spec[s].cost * block.size for s in stage.reduces)
        return ns * repeats * stage.grid.size / max(1, block.size) / 1e9

    def _group_ns(self, group: Group, regions: Mapping[str, Region]) -> float:
        if group.filter:
            return self.rates.cost(self.spec, group.steps) * self._handed(group.filter, regions)
        return sum(self.spec[s].cost * self._handed(s, regions) for s in group.steps)

    def _handed(self, step: str, regions: Mapping[str, Region]) -> int:
        """Return the voxels that a kernel is handed, for which its cost is declared."""
        return place_of(self.spec, self.spec[step], regions[step]).read.size


def _covers(stage: Stage, factors: tuple[int, ...], unit: tuple[int, ...]) -> bool:
    """Tell whether every block makes whole units of a level that is `factors` coarser."""
    finer = [f * u for f, u in zip(factors, unit, strict=True)]
    return _whole_units(stage.block, finer, stage.grid)


def _whole_units(block: Sequence[int], unit: Sequence[int], grid: Grid) -> bool:
    """Tell whether every block is made of whole units."""
    return all(b >= n or b % u == 0 for b, u, n in zip(block, unit, grid.shape, strict=True))


def _groups(spec: Spec, stages: Sequence[Stage], levels: Levels) -> list[list[int]]:
    """Return the numbers of stages that must have the same blocks, group by group."""
    groups: list[tuple[set[str], list[int]]] = []
    for i, stage in enumerate(stages):
        joins = {s for s in stage.reduces if spec.is_per_block(s)}
        bound = joins | {levels.pinned[s] for s in stage.steps if s in levels.pinned}
        bound |= {v for v in stage.values if spec.is_per_block(v)}
        members = [i]
        for other in [g for g in groups if g[0] & bound]:
            groups.remove(other)
            bound, members = bound | other[0], other[1] + members
        groups.append((bound, members))
    return [members for _, members in groups]


def written_beside_outputs(spec: Spec, stages: Sequence[Stage], levels: Levels) -> set[str]:
    """Return the steps written by stages that have the same blocks as one that writes an output."""
    found: set[str] = set()
    for group in _groups(spec, stages, levels):
        writes = [w for i in group for w in stages[i].writes]
        if not all(w.array.startswith(SCRATCH) for w in writes):
            found |= {w.step for w in writes}
    return found
