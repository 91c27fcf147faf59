"""Fit stages to the memory: block shapes, blocks at once, scale levels made in passing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.plan.layout import choose_layout
from lepton_pipe.plan.levels import Levels
from lepton_pipe.plan.memory import task_bytes, traffic, typical_block
from lepton_pipe.plan.model import (
    Estimate,
    InputInfo,
    Read,
    Stage,
    StoredArray,
    Sweep,
    Write,
    chunk_hint,
    level_step,
)
from lepton_pipe.plan.regions import block_regions, slab_regions, sweep_source
from lepton_pipe.plan.shape import choose_block, common_unit
from lepton_pipe.plan.stages import DECODE_NS
from lepton_pipe.spec import Spec, ValueType

# Allocators keep some of what was freed; estimates of tasks are raised by this share.
ALLOCATOR_SLACK = 1.15
ENCODE_NS = 3.0
SLAB_VOXELS = 2**21
_SLAB_BYTES_PER_VOXEL = 64


@dataclass
class Fitter:
    """Chooses block shapes under one budget of memory."""

    spec: Spec
    arrays: Mapping[str, StoredArray]
    inputs: Mapping[str, InputInfo]
    budget: int
    slots: int
    tiling: Mapping[str, int] | None = None

    def fit(self, skeletons: Sequence[Stage], levels: Levels) -> list[Stage]:
        """Return the stages with block shapes; those bound to each other by a join share one.

        Raises
        ------
        MemoryRefusedError
            When a stage does not fit even with the smallest block.
        """
        fitted: dict[int, Stage] = {}
        for group in _groups(self.spec, skeletons, levels):
            block, at_once = self._shape([skeletons[i] for i in group])
            for i in group:
                stage = self._with_block(skeletons[i], block)
                fitted[i] = self._finish(self._with_scale_levels(stage, at_once), at_once)
        return [fitted[i] for i in range(len(skeletons))]

    def fit_scale(self, stage: Stage, unit: tuple[int, ...]) -> Stage:
        """Return a stage that only makes scale levels, with its block shape chosen."""
        block, at_once = self._choose([stage], unit)
        stage = self._with_block(stage, block)
        return self._finish(self._with_scale_levels(stage, at_once), at_once)

    def _shape(self, stages: Sequence[Stage]) -> tuple[tuple[int, ...], int]:
        unit = self._unit(stages)
        best = self._choose(stages, unit)
        for wanted in [] if self.tiling else self._units_with_scale_levels(stages, unit):
            try:
                wide = self._choose(stages, wanted)
            except MemoryRefusedError:
                continue
            if wide[1] >= best[1]:
                best = wide
        return best

    def _choose(
        self, stages: Sequence[Stage], unit: tuple[int, ...]
    ) -> tuple[tuple[int, ...], int]:
        def need(block: tuple[int, ...]) -> int:
            return max(self._task_bytes(self._with_block(s, block)) for s in stages)

        name = " and ".join(s.name for s in stages)
        return choose_block(
            stages[0].grid,
            unit,
            need,
            self.budget,
            self.slots,
            name,
            single=self.tiling is not None,
        )

    def _unit(self, stages: Sequence[Stage]) -> tuple[int, ...]:
        """Return the smallest block: whole units of what is written, or would be."""
        grid = stages[0].grid
        if self.tiling is not None:
            return choose_layout(grid, None, self.tiling).unit
        units = [self.arrays[w.array].levels[0].unit for s in stages for w in s.writes]
        units.append(choose_layout(grid, chunk_hint(self.inputs, grid)).unit)
        return common_unit(units, grid)

    def _read_chunks(self, read: Read) -> tuple[int, ...]:
        if read.array is None:
            return self.inputs[read.step].chunks
        return self.arrays[read.array].levels[read.level].chunks

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
        if stage.sweep is None:
            return replace(stage, block=block)
        (source,) = self.spec.image_inputs(self.spec[stage.sweep.step])
        axis = stage.sweep.axis
        length = self.spec.image_type(source).grid.shape[axis]
        voxels = min(SLAB_VOXELS, self.budget // self.slots // _SLAB_BYTES_PER_VOXEL)
        thickness = max(1, min(length, voxels // prod(block)))
        chunk = self._read_chunks(stage.reads[0])[axis]
        if thickness > chunk:
            thickness -= thickness % chunk
        return replace(stage, block=block, sweep=Sweep(stage.sweep.step, axis, thickness))

    def _with_scale_levels(self, stage: Stage, at_once: int) -> Stage:
        """Add the coarser levels that each block makes whole units of, as far as they fit."""
        for write in stage.writes:
            for extra in self.coarser(write, stage):
                wider = replace(
                    stage,
                    steps=(*stage.steps, extra.step)
                    if extra.step not in stage.steps
                    else stage.steps,
                    writes=(*stage.writes, extra),
                )
                if at_once * self._task_bytes(wider) > self.budget:
                    return stage
                stage = wider
        return stage

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
        return task_bytes(self.spec, stage, self.arrays, self.inputs)

    def _finish(self, stage: Stage, at_once: int) -> Stage:
        bytes_read, bytes_written = traffic(self.spec, stage)
        seconds = self._compute_seconds(stage)
        seconds += (bytes_read * DECODE_NS + bytes_written * ENCODE_NS) / 1e9
        estimate = Estimate(self._task_bytes(stage), bytes_read, bytes_written, seconds)
        slots = min(at_once, max(1, self.budget // max(1, estimate.task_bytes)))
        return replace(stage, estimate=estimate, slots=slots)

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
        ns = sum(self.spec[s].cost * regions[s].size for s in stage.steps if s in regions)
        ns += sum(self.spec[s].cost * block.size for s in stage.reduces)
        return ns * repeats * stage.grid.size / max(1, block.size) / 1e9


def _covers(stage: Stage, factors: tuple[int, ...], unit: tuple[int, ...]) -> bool:
    """Tell whether every block makes whole units of a level that is `factors` coarser."""
    return all(
        b >= n or b % (f * u) == 0
        for b, n, f, u in zip(stage.block, stage.grid.shape, factors, unit, strict=True)
    )


def _groups(spec: Spec, stages: Sequence[Stage], levels: Levels) -> list[list[int]]:
    """Return the numbers of stages that must have the same blocks, group by group."""
    groups: list[tuple[set[str], list[int]]] = []
    for i, stage in enumerate(stages):
        joins = {s for s in stage.reduces if _per_block(spec, s)}
        bound = joins | {levels.pinned[s] for s in stage.steps if s in levels.pinned}
        bound |= {v for v in stage.values if _per_block(spec, v)}
        members = [i]
        for other in [g for g in groups if g[0] & bound]:
            groups.remove(other)
            bound, members = bound | other[0], other[1] + members
        groups.append((bound, members))
    return [members for _, members in groups]


def _per_block(spec: Spec, step: str) -> bool:
    type_ = spec[step].type
    return isinstance(type_, ValueType) and type_.per_block


def scale_stages(fitter: Fitter, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages that make the scale levels no other stage makes in passing.

    Each reads the coarsest level there is so far and writes as many more as its blocks cover.
    """
    made: list[Stage] = []
    for name, array in fitter.arrays.items():
        if not array.output:
            continue
        level = max(w.level for s in stages for w in s.writes if w.array == name)
        while level + 1 < len(array.levels):
            stage = _scale_stage(fitter, name, level)
            made.append(stage)
            level = max(w.level for w in stage.writes)
    return made


def _scale_stage(fitter: Fitter, name: str, level: int) -> Stage:
    array = fitter.arrays[name]
    grid = array.levels[level].grid
    factors = tuple(fitter.spec[level_step(array.step, level + 1)].args["factor"])
    first = Write(level_step(array.step, level + 1), name, level + 1, factors)
    stage = Stage(
        index=0,
        name=f"scale-{name}",
        grid=grid,
        block=grid.shape,
        reads=(Read(level_step(array.step, level), name, level),),
        steps=(first.step,),
        reduces=(),
        writes=(first,),
        values=(),
    )
    unit = [u * f for u, f in zip(array.levels[level + 1].unit, factors, strict=True)]
    return fitter.fit_scale(stage, common_unit([unit], grid))
