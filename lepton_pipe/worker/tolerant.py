"""A block's task that goes on past what cannot be read or computed, and says what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_pipe.errors import KernelError, LeptonError
from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import Group
from lepton_pipe.plan.model import Write, is_scale_level
from lepton_pipe.plan.regions import place_of, sweep_source, written_region
from lepton_pipe.spec import ImageType, Step, blamed
from lepton_pipe.store import copy_block
from lepton_pipe.store.chunked import touched
from lepton_pipe.store.source import Source
from lepton_pipe.worker.block import Task
from lepton_pipe.worker.faults import Fault, Lack, fill_of, merged, reached, read_around, without


class TolerantTask(Task):
    """A `Task` under ``skip`` or ``fill``, see `lepton_pipe.worker.faults`.

    What was computed from what is known is what a task without faults computes, bit by bit.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.bad: dict[str, list[Region]] = {}
        # Images of which nothing is known, since what makes them failed.
        self.lost: set[str] = set()

    def _lacks(self) -> Lack:
        self.result.lack = self.result.lack or Lack()
        return self.result.lack

    def _fault(self, error: BaseException, kind: str, step: str, path: str, region: Region) -> None:
        error.__context__ = None
        known = {"kind": kind, "step": step, "path": path, "region": region}
        stage, block = self.stage.name, self.index
        self._lacks().faults.append(Fault.of(error, stage=stage, block=block, **known))

    # -- reading ----------------------------------------------------------------------------

    def run(self, steps: Sequence[str], regions: Mapping[str, Region]) -> None:
        """Read the images, then compute step after step."""
        self.bad, self.lost = {}, set()
        super().run(steps, regions)

    def _read(self, image: str, region: Region) -> None:
        known = (box.intersect(region) for box in self.program.bad.get(image, ()))
        self._is_bad(image, [box for box in known if box.size])
        super()._read(image, region)

    def _unread(self, image: str, region: Region, error: LeptonError) -> Any:
        """Read around what cannot be read of an input; raise what is wrong with our own arrays."""
        source: Any = self.program.sources[image]
        if image not in self.program.inputs:
            return super()._unread(image, region, error)
        array, failed = read_around(source, region)
        for chunk, why in failed:
            self._fault(why, "input", image, _file_of(source, chunk), chunk)
        self._is_bad(image, [chunk.intersect(region) for chunk, _ in failed])
        for write in self.stage.writes:
            if write.step == image and self._is_copy(write):
                self._copy_around(source, write, region, array)
        return array

    def _copy_around(self, source: Source, write: Write, region: Region, array: Any) -> None:
        """Copy the units of a block in which nothing is bad, and write the others."""
        block = written_region(write, self.block)
        target: Any = self.program.targets[write.array, write.level]
        for unit in _units(block, target.opened().unit):
            if any(unit.intersect(box).size for box in self.bad[write.step]):
                written = target.write(unit, np.ascontiguousarray(array[unit.inside(region)]))
            else:
                written = copy_block(source, target, unit)[1]
            self._wrote(write, written)

    def _is_bad(self, image: str, boxes: list[Region]) -> None:
        if boxes:
            self.bad.setdefault(image, []).extend(boxes)

    # -- computing --------------------------------------------------------------------------

    def _together(self, group: Group) -> Sequence[Group]:
        # Where some of the block is bad, steps run one by one: the same bits, told apart.
        return [Group((s,)) for s in group.steps] if self.bad else (group,)

    def _run_group(self, group: Group, regions: Mapping[str, Region]) -> None:
        if len(group.steps) > 1 and self.lost:
            self._one_by_one(group, regions)
            return
        step = self.spec[group.steps[0]]
        if self._is_lost(step, regions):
            self._lose(step, regions)
            return
        counts = dict(self.result.counts)
        try:
            super()._run_group(group, regions)
        except KernelError as error:
            self.result.counts = counts  # what is run again is counted then
            if len(group.steps) > 1:
                self._one_by_one(group, regions)
                return
            self._fault(error, "kernel", step.id, "", self.block)
            self._lose(step, regions)
            return
        if self.bad:
            self._spread(step, regions)

    def _one_by_one(self, group: Group, regions: Mapping[str, Region]) -> None:
        """Run the steps of a group by themselves, to lose no more than those that fail."""
        for step_id in group.steps:
            self._run_group(Group((step_id,)), regions)

    def _is_lost(self, step: Step, regions: Mapping[str, Region]) -> bool:
        """Tell whether nothing of a step's result would be kept, so that it need not run."""
        if not (self.bad or self.lost) or is_scale_level(step.id):
            return False
        if any(i in self.lost for i in self.spec.image_inputs(step)):
            return True
        if self.program.on_error == "fill" or not isinstance(step.type, ImageType):
            return False
        return regions[step.id] in reached(self.spec, step, regions[step.id], self.bad)

    def _lose(self, step: Step, regions: Mapping[str, Region]) -> None:
        """Put the fill value in place of what a step makes; leave out what it contributes."""
        if not isinstance(step.type, ImageType):
            self._lose_partial(step)
            return
        region = regions[step.id]
        self.lost.add(step.id)
        self.bad[step.id] = [region]
        self.held[step.id] = region, self._filled(step, region)

    def _filled(self, step: Step, region: Region) -> Any:
        dtype = self.spec.image_type(step.id).dtype
        return np.full(region.shape, fill_of(dtype), dtype)

    def _spread(self, step: Step, regions: Mapping[str, Region]) -> None:
        """Find out what of a result depends on bad voxels; with ``skip``, it is not kept."""
        if not isinstance(step.type, ImageType) or is_scale_level(step.id):
            return
        boxes = reached(self.spec, step, regions[step.id], self.bad)
        self._is_bad(step.id, boxes)
        if boxes and self.program.on_error == "skip":
            region, array = self.held[step.id]
            array = array.copy()
            for box in boxes:
                array[box.inside(region)] = fill_of(array.dtype)
            self.held[step.id] = region, array

    # -- statistics -------------------------------------------------------------------------

    def _own_regions(self, step: Step) -> list[Region]:
        """Leave out what is bad: it says nothing of the image."""
        owned = self.owned[step.id]
        return without(owned, reached(self.spec, step, owned, self.bad)) if self.bad else [owned]

    def _reduce(self, step: Step) -> None:
        """Return what the good voxels of the block contribute."""
        boxes = reached(self.spec, step, self.block, self.bad) if self.bad else []
        kernel = step.kernel
        assert kernel is not None and kernel.combine is not None
        if not boxes or kernel.absent is not None:
            super()._reduce(step)
            return
        parts, fold = without(self.block, boxes), None
        self._leave_out(step, self.block.size - sum(part.size for part in parts))
        with self._timed("compute_seconds"):
            for part in parts:
                partial = self._partial(step, part)
                with blamed(step, self.where):
                    fold = partial if fold is None else kernel.combine(fold, partial)
        if fold is not None:
            self.result.partials[step.id] = fold

    def _lose_partial(self, step: Step) -> None:
        self._leave_out(step, self.block.size)
        if step.kernel is not None and step.kernel.absent is not None:
            place = place_of(self.spec, step, self.block)
            self.result.partials[step.id] = step.kernel.absent(place)

    def _leave_out(self, step: Step, voxels: int) -> None:
        left_out = self._lacks().left_out
        left_out[step.id] = left_out.get(step.id, 0) + voxels

    def _fold_slab(self, step: Step, fold: Any, source: str, slab: tuple[int, int]) -> Any:
        """Return the fold of the slabs so far, and of the good planes of one more."""
        assert self.stage.sweep is not None
        axis = self.stage.sweep.axis
        bad = [(box.start[axis], box.stop[axis]) for box in self.bad.get(source, ())]
        for part in merged(bad, *slab):
            try:
                fold = super()._fold_slab(step, fold, source, part)
            except KernelError as error:
                self._fault(error, "kernel", step.id, "", self.block)
                bad.append(part)
        if bad:
            planes = slab[1] - slab[0] - sum(b - a for a, b in merged(bad, *slab))
            region = sweep_source(self.spec, self.stage, self.block, (0, planes))
            self._leave_out(step, region.size)
        return fold

    def _finish_sweep(self, step: Step, fold: Any) -> Any:
        self.bad.pop(step.id, None)
        try:
            if fold is not None:
                return super()._finish_sweep(step, fold)
        except KernelError as error:
            self._fault(error, "kernel", step.id, "", self.block)
        self.bad[step.id] = [self.block]
        return self._filled(step, self.block)

    # -- writing ----------------------------------------------------------------------------

    def _known_parts(self, step_id: str, region: Region) -> list[Region]:
        return without(region, self.bad.get(step_id, ()))

    def _write(self, step_id: str) -> None:
        super()._write(step_id)
        if step_id in self.bad:
            self._note_bad(step_id, self.bad[step_id])

    def _note_bad(self, step_id: str, boxes: Iterable[Region]) -> None:
        """Note what of the written arrays is bad, for who reads them later."""
        for write in self.stage.writes:
            if write.step == step_id and not is_scale_level(step_id):
                region = written_region(write, self.block)
                common = [box.intersect(region) for box in boxes]
                noted = self._lacks().bad.setdefault(step_id, [])
                noted += [box for box in common if box.size and box not in noted]

    def give_up(self, error: BaseException) -> None:
        """Write the fill value wherever the block writes; it contributes nothing."""
        self._fault(error, "process", self.stage.name, "", self.block)
        for write in self.stage.writes:
            region = written_region(write, self.block)
            target = self.program.targets[write.array, write.level]
            dtype = self.spec.image_type(write.step).dtype
            filled = np.full(region.shape, fill_of(dtype), dtype)
            self._wrote(write, target.write(region, filled))
            self._note_bad(write.step, [region])
        for step_id in self.stage.reduces:
            self._lose_partial(self.spec[step_id])


def _file_of(source: Any, region: Region) -> str:
    try:
        return str(source.file_of(region))
    except (LeptonError, OSError):  # what tells where chunks lie cannot be read either
        return str(source.uri)


def _units(block: Region, unit: Sequence[int]) -> Iterator[Region]:
    """Yield the units of storage of a block, in C order."""
    for index in touched(block, tuple(unit)):
        start = tuple(i * u for i, u in zip(index, unit, strict=True))
        yield Region.whole(unit).shift(start).intersect(block)
