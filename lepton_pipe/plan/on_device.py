"""What one task needs on a GPU, and in host memory beside it.

A task there goes in three steps: it reads its images into host memory; it takes a lane of the
device, copies them in, runs all steps and copies the results that it writes out; and it writes them
from host memory. Only the second step takes room on the device::

    host     read, decode ->                     -> encode, write
    device                 in, kernels, out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import last_use
from lepton_pipe.plan.memory import (
    regions_of_task,
    step_bytes,
    typical_block,
    written_bytes,
)
from lepton_pipe.plan.model import InputInfo, Stage
from lepton_pipe.plan.regions import place_of, region_bytes, sweep_source
from lepton_pipe.spec import ImageType, Ref, Spec, Step
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH
from lepton_pipe.spec.rules import resolve_number

# What a pool of device memory loses between blocks of different sizes.
POOL_SLACK = 1.15
# Weights, counts, tables of labels and other small arrays of a task on the device.
_SMALL_THINGS = 2**20


@dataclass(frozen=True)
class Devices:
    """The GPUs of a run, and what its blocks may take there.

    Attributes
    ----------
    limit
        Bytes of device memory that each process may take.
    processes
        Processes that compute blocks, each on a device; 0 where they compute on cores.
    beside
        Bytes that a block needs there besides what it computes with, see `direct_bytes`.
    """

    spec: Spec
    limit: int = 0
    processes: int = 0
    beside: int = 0

    def __bool__(self) -> bool:
        return self.processes > 0

    def need(self, *stages: Stage) -> int:
        """Return the device bytes of a block of the stage that needs most."""
        return max(device_bytes(self.spec, s) for s in stages) + self.beside if self else 0

    def lanes(self, need: int, slots: int) -> int:
        """Return how many blocks lie on each device at once; 0 where there is none, or no room.

        Parameters
        ----------
        need
            Device bytes of a block.
        slots
            Blocks that host memory has room for, over all processes.
        """
        if not self:
            return 0
        return min(max(1, slots // self.processes), int(self.limit / POOL_SLACK) // max(1, need))


def direct_bytes(inputs: Iterable[InputInfo]) -> int:
    """Return what chunks that are read straight to a device take there before they are pasted.

    One at a time does, and beside it what was read of another by way of the host.
    """
    sizes = (prod(i.chunks) * i.type.dtype.itemsize for i in inputs if i.plain)
    return 2 * max(sizes, default=0)


def device_bytes(spec: Spec, stage: Stage) -> int:
    """Return the most bytes that the task of a full-sized block holds on the device at once."""
    regions, steps = regions_of_task(spec, stage)
    last = last_use(spec, stage)
    position = {s: i for i, s in enumerate(stage.steps)}
    written = written_bytes(spec, stage)
    reads = [r.step for r in stage.reads if r.step in regions]
    held = {i: region_bytes(spec.image_type(i), regions[i]) for i in reads}
    peak = sum(held.values()) + max((written.get(i, 0) for i in reads), default=0)
    for step in (spec[s] for s in steps):
        result, besides = _step_bytes(spec, stage, step, regions)
        peak = max(peak, sum(held.values()) + result + max(besides, written.get(step.id, 0)))
        if isinstance(step.type, ImageType):
            held[step.id] = result
        for image in [i for i in held if last.get(i, -1) <= position[step.id]]:
            del held[image]
    return peak + _sweep_bytes(spec, stage) + _SMALL_THINGS


def _step_bytes(
    spec: Spec, stage: Stage, step: Step, regions: Mapping[str, Region]
) -> tuple[int, int]:
    """Return the bytes of a step's result before it is trimmed, and what it needs besides."""
    region = regions[step.id] if step.id in regions else typical_block(stage)
    result, _ = step_bytes(spec, step, region)
    read = place_of(spec, step, region).read
    return result, int(device_scratch(spec, step) * read.size)


def device_scratch(spec: Spec, step: Step) -> float:
    """Return the bytes per voxel that a step's kernel needs for a moment on a device."""
    kernel = step.kernel
    if kernel is None or kernel.device_scratch is None:
        return max(step.scratch, UNDECLARED_SCRATCH)
    types = {n: spec[a.id].type if isinstance(a, Ref) else a for n, a in step.args.items()}
    return resolve_number(kernel.device_scratch, {**types, "grid": spec.leading_grid(step)})


def _sweep_bytes(spec: Spec, stage: Stage) -> int:
    """Return what the fold of a sweep takes, and one slab more of it."""
    if stage.sweep is None:
        return 0
    step, block = spec[stage.sweep.step], typical_block(stage)
    source = sweep_source(spec, stage, block, (0, stage.sweep.thickness))
    return 4 * block.size * 8 + int(device_scratch(spec, step) * source.size)
