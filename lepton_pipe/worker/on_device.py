"""A block's task on a GPU: read to the host, compute in a lane of the device, write from the host.

Tasks run in threads. While one computes in its lane, others read, decode, encode and write, and
hold nothing on the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import lcm
from typing import Any

import numpy as np

from lepton_pipe.device.faults import fault_of
from lepton_pipe.device.lanes import Lane, Lanes, lanes_of
from lepton_pipe.errors import DeviceLostError, DeviceMemoryError, LeptonError
from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import Group
from lepton_pipe.plan.fusion import fused_groups, is_pointwise
from lepton_pipe.plan.model import Write
from lepton_pipe.plan.regions import block_regions, written_region
from lepton_pipe.spec import ImageType, Step
from lepton_pipe.spec.operators import UfuncKernel
from lepton_pipe.worker.block import Task
from lepton_pipe.worker.chain import run_chain
from lepton_pipe.worker.direct import is_direct, read_direct
from lepton_pipe.worker.program import Program, Stats
from lepton_pipe.worker.running import at_steps
from lepton_pipe.worker.tolerant import TolerantTask

_MIB = 2**20


class DeviceTask(Task):
    """A `Task` that computes on a GPU. Each image is copied once in, each result once out.

    Attributes
    ----------
    alone
        Whether it takes the device for itself, and computes the block in halves where it can.
    lane
        Where it is on the device; None before and after.
    """

    alone = False
    lane: Lane | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.brought: dict[Write, Any] = {}
        self._whole = self.block
        # Images that are not read to the host first; who goes on past faults looks at them there.
        wanted = self.program.direct and not isinstance(self, TolerantTask)
        written = {w.step for w in self.stage.writes}
        images = [r.step for r in self.stage.reads if wanted and r.step not in written]
        self._direct = [i for i in images if is_direct(self.program.sources[i])]

    # -- on the device ------------------------------------------------------------------------

    def _compute_all(self, steps: Sequence[str], regions: Mapping[str, Region]) -> None:
        images = [r.step for r in self.stage.reads if r.step in regions]
        super()._read_all([i for i in images if i not in self._direct], regions)
        if self.lane is not None:  # that of a sweep, of which this is a slab
            self._take_in(self.lane, self.held, regions)
            super()._compute_all(steps, regions)
        elif steps:
            self._compute_parts(steps)
            for step_id in dict.fromkeys(w.step for w in self.brought):
                super()._write(step_id)

    def _read_all(self, images: Sequence[str], regions: Mapping[str, Region]) -> None:
        """Read nothing: all images were read at once, before any is copied to the device."""

    def _compute_parts(self, steps: Sequence[str]) -> None:
        read = self.held
        with self._on_device() as lane:
            for part in self._parts():
                self.block = part
                regions = block_regions(self.spec, self.stage, part)
                held = {i: (regions[i], a[regions[i].inside(r)]) for i, (r, a) in read.items()}
                self._own(part)
                self._take_in(lane, held, regions)
                super()._compute_all(steps, regions)

    @contextmanager
    def _on_device(self) -> Iterator[Lane]:
        """Hold a lane; nothing of the task is left on the device afterwards."""
        lanes, started = self._lanes(), time.perf_counter()
        with lanes.alone() if self.alone else lanes.one() as lane:
            stats = self.result.stats
            stats.wait_seconds += time.perf_counter() - started
            self.lane = lane
            try:
                yield lane
            finally:
                self.lane, self.block = None, self._whole
                self.held.clear()
        # Other lanes' share of it is not told twice: each block takes what nobody took before.
        busy = lanes.busy.take()
        stats.copy_in_seconds += busy["copy_in"]
        stats.kernel_seconds += busy["kernels"]
        stats.copy_out_seconds += busy["copy_out"]

    @contextmanager
    def _timed(self, what: str, core: str = "") -> Iterator[Stats]:
        lane = self.lane if what == "compute_seconds" else None
        with super()._timed(what, core) as stats, lane.kernels() if lane else nullcontext():
            yield stats

    def _lanes(self) -> Lanes:
        return lanes_of(self.program.lanes, self.program.device_bytes)

    def _take_in(
        self,
        lane: Lane,
        held: Mapping[str, tuple[Region, Any]],
        regions: Mapping[str, Region],
    ) -> None:
        self.held = {i: (region, lane.take_in(array)) for i, (region, array) in held.items()}
        for image in self._direct:
            if image in regions:
                self.held[image] = regions[image], self._read_direct(lane, image, regions[image])

    def _read_direct(self, lane: Lane, image: str, region: Region) -> Any:
        source: Any = self.program.sources[image]
        with self._timed("read_seconds", "read_core_seconds") as stats:
            try:
                array, straight = read_direct(lane, source, region)
            except (DeviceMemoryError, DeviceLostError):
                raise
            except LeptonError as error:
                return self._unread(image, region, error)
            stats.bytes_read += array.nbytes
            stats.bytes_direct += straight
            return array

    def _parts(self) -> list[Region]:
        """Return the parts that the block is computed in: two halves, if alone and if they can be.

        What a block contributes as a whole cannot be had of halves.
        """
        whole = self.block
        bound = self.stage.reduces or any(map(self.spec.is_per_block, self.stage.values))
        if not self.alone or bound or isinstance(self, TolerantTask):
            return [whole]
        # Voxels of coarser scale levels are not cut.
        units = [
            lcm(*(w.factors[axis] for w in self.stage.writes), 1) for axis in range(whole.ndim)
        ]
        axis = max(range(whole.ndim), key=lambda i: whole.shape[i] // units[i])
        half = whole.shape[axis] // 2 // units[axis] * units[axis]
        return _halves(whole, axis, half) if half else [whole]

    # -- the task, on the device and off it -----------------------------------------------------

    def _groups(self, steps: Sequence[str], regions: Mapping[str, Region]) -> list[Group]:
        """Cut the steps into groups that may be one kernel: a filter with what is around it."""
        parts = self._filters_apart(steps, regions)
        groups: list[Group] = []
        filtered = False  # whether the last group has a filter
        for part in parts:
            is_filter = self._is_filter(part)
            joins = bool(groups) and self._is_chain(groups[-1]) and self._is_chain(part)
            if joins and not (filtered and is_filter):
                groups[-1] = Group((*groups[-1].steps, *part.steps))
                filtered = filtered or is_filter
            else:
                groups.append(part)
                filtered = is_filter
        return groups

    def _filters_apart(self, steps: Sequence[str], regions: Mapping[str, Region]) -> list[Group]:
        """Return filters by themselves, and pointwise steps as they go together."""
        return fused_groups(self.spec, self.stage, steps, regions, absorbing=False)

    def _is_filter(self, group: Group) -> bool:
        return any(not is_pointwise(self.spec, self.spec[s]) for s in group.steps)

    def _is_chain(self, group: Group) -> bool:
        """Tell whether one kernel might do what a group does."""
        return all(
            isinstance(self.spec[s].type, ImageType)
            and (kernel := self.spec[s].kernel) is not None
            and kernel.role == "map"
            and not any(map(self.spec.is_per_block, self.spec.value_inputs(self.spec[s])))
            for s in group.steps
        )

    def _do_group(self, group: Group, regions: Mapping[str, Region]) -> None:
        """Do a group in one kernel if it can be, else its parts, and at last step after step."""
        parts = self._filters_apart(group.steps, regions)
        if len(group.steps) > 1 and self._in_one_kernel(group, regions):
            super()._do_group(group, regions)
        elif len(parts) > 1:
            for part in parts:
                self._do_group(part, regions)
        else:
            for step_id in group.steps:
                super()._do_group(Group((step_id,)), regions)

    def _run_group(self, group: Group, regions: Mapping[str, Region]) -> None:
        if any(s in self.held for s in group.steps):
            return  # it was one kernel
        super()._run_group(group, regions)

    def _compute(self, step: Step, region: Region) -> None:
        # A filter by itself, too: the same bits whatever is around it.
        if not self._in_one_kernel(Group((step.id,)), {step.id: region}):
            super()._compute(step, region)

    def _in_one_kernel(self, group: Group, regions: Mapping[str, Region]) -> bool:
        """Compute a group in one kernel; False where that cannot be done."""
        first = self.spec[group.steps[0]]
        if not self._is_chain(group):
            return False
        if len(group.steps) == 1 and isinstance(first.kernel, UfuncKernel):
            return False  # CuPy's is one, too
        at_steps(self.position[group.steps[0]], self.position[group.steps[-1]])
        with self._timed("compute_seconds"):
            try:
                made = run_chain(self, group.steps, regions)
            except (DeviceMemoryError, DeviceLostError):
                raise
            except Exception as error:  # noqa: BLE001  the steps run by themselves, and say so
                if (fault := fault_of(error)) is not None:
                    raise fault from None
                return False
        self.held.update({s: (regions[s], array) for s, array in made.items()})
        return True

    def _filled(self, step: Step, region: Region) -> Any:
        array = TolerantTask._filled(self, step, region)  # type: ignore[arg-type]  # it is one
        return array if self.lane is None else self.lane.take_in(array)

    def _write(self, step_id: str) -> None:
        """Copy what is to be written to the host; it is written when the lane is free again."""
        if self.lane is None:
            super()._write(step_id)
            return
        for write in self.stage.writes:
            if write.step == step_id and not self._is_copy(write):
                region = written_region(write, self.block)
                covers, array = self.held[step_id]
                made = self.lane.bring_back(array[region.inside(covers)])
                self._assemble(write, region, made)

    def _assemble(self, write: Write, region: Region, made: Any) -> None:
        whole = written_region(write, self._whole)
        if region == whole:
            self.brought[write] = made
            return
        if write not in self.brought:
            self.brought[write] = np.empty(whole.shape, made.dtype)
        self.brought[write][region.inside(whole)] = made

    def _voxels_of(self, write: Write, region: Region) -> Any:
        found = self.brought.pop(write, None)
        return super()._voxels_of(write, region) if found is None else found

    def sweep(self) -> None:
        """Fold the slabs of the swept axis on the device, and write the result."""
        with self._on_device():
            super().sweep()
        for step_id in dict.fromkeys(w.step for w in self.brought):
            super()._write(step_id)


class TolerantDeviceTask(DeviceTask, TolerantTask):
    """Does the same under ``skip`` or ``fill``."""

    def _is_chain(self, group: Group) -> bool:
        # Where some of the block is bad, steps run one by one: the same bits, told apart.
        alone = len(group.steps) == 1 and group.steps[0] not in self.owned
        return (alone or not (self.bad or self.lost)) and super()._is_chain(group)


def task_on_device(
    program: Program,
    index: int,
    values: Mapping[str, Any],
    *,
    tolerates: bool,
    alone: bool = False,
) -> Task:
    """Return the task of a block.

    Parameters
    ----------
    tolerates
        Whether it goes on past what cannot be read or computed.
    alone
        Whether it takes the device for itself, and computes the block in halves where it can.
    """
    task = (TolerantDeviceTask if tolerates else DeviceTask)(program, index, values)
    task.alone = alone
    return task


def without_room(task: Task, error: Exception) -> str:
    """Return what to tell where a block has no room, although it is alone on the device."""
    program, need = task.program, task.stage.estimate.device_bytes
    return (
        f"{error}\n  {task.where} of {task.stage.name} has no room on the device, not even alone "
        f"and in halves: its plan counts on {need / _MIB:.0f} MiB, and this process may take "
        f"{program.device_bytes / _MIB:.0f} MiB. Another program may hold the rest: end it, give "
        "the run less of the device (--device-memory), so that blocks become smaller, or compute "
        "on the cores (--device cpu)"
    )


def _halves(whole: Region, axis: int, length: int) -> list[Region]:
    cut = whole.start[axis] + length
    stop = tuple(cut if i == axis else n for i, n in enumerate(whole.stop))
    start = tuple(cut if i == axis else n for i, n in enumerate(whole.start))
    return [Region(whole.start, stop), Region(start, whole.stop)]
