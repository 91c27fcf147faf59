"""One block's task: read once, compute the whole chain, write whole chunks, return partials."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lepton_pipe.device import frozen, to_host
from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import Group, last_use, reads_before, results_of
from lepton_pipe.plan.counted import owned_regions
from lepton_pipe.plan.fusion import dead_after, fused_groups, tiles
from lepton_pipe.plan.rates import cost_band, measured_name
from lepton_pipe.plan.regions import input_regions, place_of, slab_regions, sweep_source
from lepton_pipe.spec import (
    Absorbing,
    Around,
    ImageType,
    Lost,
    Operation,
    Place,
    Ref,
    Spec,
    Step,
    Tally,
    Voxelwise,
    blamed,
    check_result,
    finish_step,
)
from lepton_pipe.spec.canonical import kernel_name
from lepton_pipe.worker.images import BlockImages
from lepton_pipe.worker.program import Program
from lepton_pipe.worker.running import at_steps


class Task(BlockImages):
    """The steps of a stage, as they are computed of one block."""

    def __init__(self, program: Program, index: int, values: Mapping[str, Any]) -> None:
        super().__init__(program, index)
        self.values = values
        self.last = last_use(self.spec, self.stage)
        self.position = {s: i for i, s in enumerate(self.stage.steps)}
        self.owned: dict[str, Region] = {}
        if self.stage.sweep is None:
            self._own(self.block)

    def _own(self, area: Region) -> None:
        """Note where losses are counted from now on: in what the task owns of `area`."""
        self.owned = owned_regions(self.spec, self.stage, area)

    def run(self, steps: Sequence[str], regions: Mapping[str, Region]) -> None:
        """Compute step after step; read each image before its first use, free it after its last."""
        for step_id in self.owned:
            self.result.count(self.position[step_id], Lost())
        self._compute_all(steps, regions)

    def _compute_all(self, steps: Sequence[str], regions: Mapping[str, Region]) -> None:
        """Compute step after step, and write what is to be written."""
        groups = self._groups(steps, regions)
        *before, rest = reads_before(self.spec, self.stage, groups, regions)
        for group, images in zip(groups, before, strict=True):
            self._read_all(images, regions)
            for part in self._together(group):
                self._do_group(part, regions)
        self._read_all(rest, regions)

    def _do_group(self, group: Group, regions: Mapping[str, Region]) -> None:
        """Compute a group of steps, write what is to be written, free what nobody needs again."""
        self._run_group(group, regions)
        for step_id in group.steps:
            self._write(step_id)
        done = self.position[group.steps[-1]]
        for image in [i for i in self.held if self.last.get(i, -1) <= done]:
            del self.held[image]

    def _read_all(self, images: Sequence[str], regions: Mapping[str, Region]) -> None:
        """Read images, and write those that are outputs as they are."""
        for image in images:
            self._read(image, regions[image])
            self._write(image)
            if image not in self.last:
                del self.held[image]

    def _groups(self, steps: Sequence[str], regions: Mapping[str, Region]) -> list[Group]:
        return fused_groups(self.spec, self.stage, steps, regions)

    def _together(self, group: Group) -> Sequence[Group]:
        """Return what of a group is run together."""
        return (group,)

    def _run_group(self, group: Group, regions: Mapping[str, Region]) -> None:
        first = self.spec[group.steps[0]]
        at_steps(self.position[first.id], self.position[group.steps[-1]])
        if group.filter:
            self._absorb(group, regions[group.filter])
        elif len(group.steps) > 1:
            self._fused(group.steps, regions[first.id])
        elif isinstance(first.type, ImageType):
            self._compute(first, regions[first.id])
        else:
            self._reduce(first)

    def _absorb(self, group: Group, region: Region) -> None:
        """Compute a filter together with the steps next to it."""
        with self._timed("compute_seconds"):
            step, made_as = self.spec[group.filter], self.spec[group.steps[-1]]
            absorb = step.kernel.absorbs(Absorbing) if step.kernel else None
            assert absorb is not None
            place = place_of(self.spec, step, region)
            held = dict(self.held)
            dtype = self.spec.image_type(made_as.id).dtype if group.rounding else None
            with self._spent(group.steps, place):
                before = self._before(group, place.read, held)
                args = self.arguments(step, input_regions(self.spec, step, region), held)
                with blamed(step, self.where):
                    tally = self._tally(made_as, place)
                    made = absorb(args, place, Around(before, dtype, tally))
                    check_result(made_as, made, region.shape)
            if tally is not None:
                self.result.count(self.position[made_as.id], Lost(*tally.lost.tolist()))
            self.held[made_as.id] = region, made

    def _tally(self, step: Step, place: Place) -> Tally | None:
        """Return where a filter counts what a step that it does after itself loses."""
        if step.id not in self.owned:
            return None
        box = self.owned[step.id].intersect(place.write).inside(place.read)
        return Tally(np.zeros(3, np.int64), box)

    def _before(
        self, group: Group, region: Region, held: dict[str, tuple[Region, Any]]
    ) -> tuple[Operation, ...]:
        """Return what a group does to each voxel before the filter.

        Its image is then held in place of what its steps make of it.
        """
        found: list[Operation] = []
        for step in (self.spec[s] for s in group.before):
            absorb = step.kernel.absorbs(Voxelwise) if step.kernel else None
            assert absorb is not None
            args = self.arguments(step, input_regions(self.spec, step, region), held)
            held[step.id] = region, next(iter(args.values()))
            with blamed(step, self.where):
                found += absorb(args, Place(region, region, self.spec.leading_grid(step)))
        return tuple(found)

    def _fused(self, group: tuple[str, ...], region: Region) -> None:
        """Compute pointwise steps tile by tile; keep the results that something else needs."""
        with self._timed("compute_seconds"):
            kept = results_of(self.stage, group, self.last)
            made = {s: np.empty(region.shape, self.spec.image_type(s).dtype) for s in kept}
            dead = dead_after(group, self.stage, self.last)
            for tile in tiles(region):
                held = dict(self.held)
                for step_id, over in zip(group, dead, strict=True):
                    result = self._tile(self.spec[step_id], tile, held)
                    held[step_id] = tile, result
                    if step_id in made:
                        made[step_id][tile.inside(region)] = result
                    for gone in over:
                        del held[gone]
            self.held.update({s: (region, array) for s, array in made.items()})

    def _tile(self, step: Step, tile: Region, held: Mapping[str, tuple[Region, Any]]) -> Any:
        place = Place(tile, tile, self.spec.leading_grid(step))
        made = self._call(step, place, input_regions(self.spec, step, tile), held)
        with blamed(step, self.where):
            check_result(step, made, tile.shape)
        return made

    def _compute(self, step: Step, region: Region) -> None:
        with self._timed("compute_seconds"):
            place = place_of(self.spec, step, region)
            made = self._call(step, place, input_regions(self.spec, step, region), self.held)
            resampled = step.kernel is not None and step.kernel.role == "resample"
            most = region if resampled else place.read
            with blamed(step, self.where):
                check_result(step, made, most.shape, region.shape)
            if made.shape != region.shape:
                made = made[place.inner]
            self.held[step.id] = region, made

    def _reduce(self, step: Step) -> None:
        with self._timed("compute_seconds"):
            self.result.partials[step.id] = self._partial(step, self.block)

    def _partial(self, step: Step, block: Region) -> Any:
        """Return what the voxels of `block` contribute to a reduction."""
        place = place_of(self.spec, step, block)
        return to_host(self._call(step, place, input_regions(self.spec, step, block), self.held))

    def _call(
        self,
        step: Step,
        place: Place,
        regions: Mapping[str, Region],
        held: Mapping[str, tuple[Region, Any]],
    ) -> Any:
        args = self.arguments(step, regions, held)
        with self._spent((step.id,), place), blamed(step, self.where):
            assert step.kernel is not None
            if step.id in self.owned:
                return self._counted(step, args, place)
            return step.kernel.run(args, place)

    def _counted(self, step: Step, args: Mapping[str, Any], place: Place) -> Any:
        """Convert, and count what that loses of the voxels that the task owns."""
        assert step.kernel is not None and step.kernel.counting is not None
        made, lost = step.kernel.counting(args, place, self.counted_boxes(step, place))
        self.result.count(self.position[step.id], lost)
        return made

    def counted_boxes(self, step: Step, place: Place) -> list[tuple[slice, ...]]:
        """Return the parts of what a step is handed in which its losses are counted."""
        parts = [region.intersect(place.write) for region in self._own_regions(step)]
        return [part.inside(place.read) for part in parts if part.size]

    def _own_regions(self, step: Step) -> list[Region]:
        return [self.owned[step.id]]

    @contextmanager
    def _spent(self, steps: Sequence[str], place: Place) -> Iterator[None]:
        """Measure what kernels take, but for the first time in a thread: it loads and compiles."""
        started = time.thread_time()
        yield
        if _is_warm(self.spec, steps):
            name, seconds = measured_name(steps), time.thread_time() - started
            self.result.stats.spend(name, seconds, place.read.size)

    def arguments(
        self, step: Step, regions: Mapping[str, Region], held: Mapping[str, tuple[Region, Any]]
    ) -> dict[str, Any]:
        """Return what a step's kernel is called with, given the images that are held."""
        return {n: self._argument(a, regions, held) for n, a in step.args.items()}

    def _argument(
        self,
        argument: Any,
        regions: Mapping[str, Region],
        held: Mapping[str, tuple[Region, Any]],
    ) -> Any:
        if not isinstance(argument, Ref):
            return argument
        if argument.id in regions:
            covers, array = held[argument.id]
            return frozen(array[regions[argument.id].inside(covers)])
        return frozen(self.values[argument.id])

    def sweep(self) -> None:
        """Fold the slabs of the swept axis, one after the other, and write the result."""
        assert self.stage.sweep is not None
        step = self.spec[self.stage.sweep.step]
        (source,) = self.spec.image_inputs(step)
        steps = [s for s in self.stage.steps if s != step.id]
        fold: Any = None
        for slab in self._slabs(source):
            self.held.clear()
            self._own(sweep_source(self.spec, self.stage, self.block, slab))
            self.run(steps, slab_regions(self.spec, self.stage, self.block, slab))
            fold = self._fold_slab(step, fold, source, slab)
        self.held[step.id] = self.block, self._finish_sweep(step, fold)
        self._write(step.id)

    def _finish_sweep(self, step: Step, fold: Any) -> Any:
        with blamed(step, self.where):
            made = finish_step(self.spec, step, fold, self.values)
            check_result(step, made, self.block.shape)
        return made

    def _slabs(self, source: str) -> Iterator[tuple[int, int]]:
        assert self.stage.sweep is not None
        length = self.spec.image_type(source).grid.shape[self.stage.sweep.axis]
        for start in range(0, length, self.stage.sweep.thickness):
            yield start, min(length, start + self.stage.sweep.thickness)

    def _fold_slab(self, step: Step, fold: Any, source: str, slab: tuple[int, int]) -> Any:
        """Return the fold of the slabs so far, and of one more."""
        assert step.kernel is not None and step.kernel.combine is not None
        with self._timed("compute_seconds"):
            region = sweep_source(self.spec, self.stage, self.block, slab)
            place = Place(region, region, self.spec.image_type(source).grid)
            slabs = self._call(step, place, {source: region}, self.held)
            with blamed(step, self.where):
                return slabs if fold is None else step.kernel.combine(fold, slabs)


_met = threading.local()


def _is_warm(spec: Spec, steps: Sequence[str]) -> bool:
    """Tell whether this thread ran these loops before: first calls load modules and compile.

    A kernel has others for other dtypes, and where it costs several times as much.
    """
    met: set[tuple[Any, ...]] = _met.__dict__.setdefault("loops", set())
    found: list[Any] = []
    for step in (spec[s] for s in steps):
        if step.kernel is not None:
            dtypes = (spec.image_type(i).dtype for i in spec.image_inputs(step))
            found += [kernel_name(step.kernel), cost_band(step.declared), *dtypes]
    loops = tuple(found)
    known = loops in met
    met.add(loops)
    return known
