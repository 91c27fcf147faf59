"""Run one block: read once, compute the whole chain, write whole chunks, return partials."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lepton_pipe.device import frozen, to_device, to_host
from lepton_pipe.errors import LeptonError
from lepton_pipe.geometry import Region
from lepton_pipe.plan.memory import last_use
from lepton_pipe.plan.regions import (
    block_regions,
    input_regions,
    place_of,
    slab_regions,
    sweep_source,
    written_region,
)
from lepton_pipe.spec import ImageType, Place, Ref, Step, blamed, check_result, finish_step
from lepton_pipe.worker.program import BlockResult, Program, Stats


def run_block(program: Program, index: int, parts: Mapping[str, Any]) -> BlockResult:
    """Run the task of block `index`.

    Parameters
    ----------
    parts
        The block's own parts of values that have one for each block.

    Raises
    ------
    KernelError
        When a kernel raised or broke its declaration; names kernel, block and the user's line.
    """
    task = _Task(program, index, {**program.values, **parts})
    try:
        if program.stage.sweep is not None:
            task.sweep()
        else:
            task.run(program.stage.steps, block_regions(program.spec, program.stage, task.block))
    except LeptonError as error:
        # What a kernel raised may not survive being pickled; the message holds all of it.
        error.__context__ = None
        raise
    task.result.stats.blocks = 1
    return task.result


class _Task:
    """The arrays that a running task holds, and what it has measured so far."""

    def __init__(self, program: Program, index: int, values: Mapping[str, Any]) -> None:
        self.program = program
        self.spec, self.stage = program.spec, program.stage
        self.block = program.stage.blocks.region(index)
        self.values = values
        self.held: dict[str, tuple[Region, Any]] = {}
        self.last = last_use(self.spec, self.stage)
        self.result = BlockResult()

    @contextmanager
    def _timed(self, what: str) -> Iterator[Stats]:
        start = time.perf_counter()
        try:
            yield self.result.stats
        finally:
            spent = time.perf_counter() - start + getattr(self.result.stats, what)
            setattr(self.result.stats, what, spent)

    def run(self, steps: Sequence[str], regions: Mapping[str, Region]) -> None:
        """Read the images, then compute step after step; free each array after its last use."""
        for read in self.stage.reads:
            if read.step in regions:
                self._read(read.step, regions[read.step])
                self._write(read.step)
        for position, step_id in enumerate(steps):
            step = self.spec[step_id]
            if isinstance(step.type, ImageType):
                self._compute(step, regions[step_id])
                self._write(step_id)
            else:
                self._reduce(step)
            for image in [i for i in self.held if self.last.get(i, -1) <= position]:
                del self.held[image]

    def _read(self, image: str, region: Region) -> None:
        with self._timed("read_seconds") as stats:
            array = self.program.sources[image].read(region)
            stats.bytes_read += array.nbytes
            self.held[image] = region, to_device(array, self.program.device)

    def _compute(self, step: Step, region: Region) -> None:
        with self._timed("compute_seconds"):
            place = place_of(self.spec, step, region)
            made = self._call(step, place, input_regions(self.spec, step, region))
            resampled = step.kernel is not None and step.kernel.role == "resample"
            covers = region if resampled else place.read
            with blamed(step, f"block {self.block}"):
                check_result(step, made, covers.shape)
            self.held[step.id] = region, made[region.inside(covers)]

    def _reduce(self, step: Step) -> None:
        with self._timed("compute_seconds"):
            place = place_of(self.spec, step, self.block)
            partial = self._call(step, place, input_regions(self.spec, step, self.block))
            self.result.partials[step.id] = to_host(partial)

    def _call(self, step: Step, place: Place, regions: Mapping[str, Region]) -> Any:
        args = {n: self._argument(a, regions) for n, a in step.args.items()}
        with blamed(step, f"block {self.block}"):
            assert step.kernel is not None
            return step.kernel.run(args, place)

    def _argument(self, argument: Any, regions: Mapping[str, Region]) -> Any:
        if not isinstance(argument, Ref):
            return argument
        if argument.id in regions:
            covers, array = self.held[argument.id]
            return frozen(array[regions[argument.id].inside(covers)])
        return frozen(self.values[argument.id])

    def _write(self, step_id: str) -> None:
        for write in self.stage.writes:
            if write.step != step_id:
                continue
            with self._timed("write_seconds") as stats:
                region = written_region(write, self.block)
                covers, array = self.held[step_id]
                block = np.ascontiguousarray(to_host(array[region.inside(covers)]))
                self.program.targets[write.array, write.level].write(region, block)
                stats.bytes_written += block.nbytes

    def sweep(self) -> None:
        """Fold the slabs of the swept axis, one after the other, and write the result."""
        assert self.stage.sweep is not None
        step = self.spec[self.stage.sweep.step]
        kernel = step.kernel
        assert kernel is not None and kernel.combine is not None
        (source,) = self.spec.image_inputs(step)
        steps = [s for s in self.stage.steps if s != step.id]
        fold: Any = None
        for slab in self._slabs(source):
            self.held.clear()
            self.run(steps, slab_regions(self.spec, self.stage, self.block, slab))
            partial = self._fold_slab(step, source, slab)
            with blamed(step, f"block {self.block}"):
                fold = partial if fold is None else kernel.combine(fold, partial)
        with blamed(step, f"block {self.block}"):
            made = finish_step(self.spec, step, fold, self.values)
            check_result(step, made, self.block.shape)
        self.held[step.id] = self.block, made
        self._write(step.id)

    def _slabs(self, source: str) -> Iterator[tuple[int, int]]:
        assert self.stage.sweep is not None
        length = self.spec.image_type(source).grid.shape[self.stage.sweep.axis]
        for start in range(0, length, self.stage.sweep.thickness):
            yield start, min(length, start + self.stage.sweep.thickness)

    def _fold_slab(self, step: Step, source: str, slab: tuple[int, int]) -> Any:
        with self._timed("compute_seconds"):
            region = sweep_source(self.spec, self.stage, self.block, slab)
            place = Place(region, region, self.spec.image_type(source).grid)
            return self._call(step, place, {source: region})
