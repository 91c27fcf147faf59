"""The plan as frozen data: stages, blocks, arrays to write, and what they will cost.

A plan is built from types alone and opens nothing. Executors read it; nothing is decided later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lepton_pipe.geometry import Blocks, Grid, Layout
from lepton_pipe.plan.estimate import Estimate, Shape
from lepton_pipe.spec import ImageType, Spec

SCRATCH = "scratch/"
"""Prefix of stored arrays that are removed when the run is over."""


def level_step(step: str, level: int) -> str:
    """Return the id of the step that makes a scale level of an output."""
    return step if level == 0 else f"{step}@{level}"


def is_scale_level(step: str) -> bool:
    """Tell whether a step makes a scale level: it shows what the full resolution holds."""
    return "@" in step


@dataclass(frozen=True, slots=True)
class InputInfo:
    """What planning needs to know of an input: its type, storage chunk and where it is.

    ``copied`` tells whether an output of the same chunks takes these over as they are stored;
    ``plain`` whether its files hold chunks as they lie in memory.
    """

    type: ImageType
    chunks: tuple[int, ...]
    uri: str
    copied: bool = False
    plain: bool = False


def chunk_hint(inputs: Mapping[str, InputInfo], grid: Grid) -> tuple[int, ...] | None:
    """Return the chunk shape of an input on the same grid; else of one that has its axes.

    A projection, or a single channel, has the chunks of the image it was made from.
    """
    for info in inputs.values():
        if (info.type.grid.shape, info.type.grid.axes) == (grid.shape, grid.axes):
            return info.chunks
    for info in inputs.values():
        lengths = dict(zip(info.type.grid.axes, info.type.grid.shape, strict=True))
        if all(lengths.get(a) == n for a, n in zip(grid.axes, grid.shape, strict=True)):
            chunks = dict(zip(info.type.grid.axes, info.chunks, strict=True))
            return tuple(chunks[a] for a in grid.axes)
    return None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use, over all its processes.

    Attributes
    ----------
    memory
        Host memory in bytes for the whole run: driver, scheduler and workers.
    workers, threads
        Worker processes, and blocks that each may compute at once. Without workers, blocks are
        computed in threads of the driver's own process.
    device
        Where kernels run.
    serial
        One process, one block at a time, no Dask.
    device_memory
        Bytes of device memory that each process may take; each has one GPU.
    direct
        Whether chunks that are stored for it are read straight to the device.
    """

    memory: int
    workers: int = 1
    threads: int = 1
    device: Literal["cpu", "gpu"] = "cpu"
    serial: bool = False
    device_memory: int = 0
    direct: bool = False

    @property
    def processes(self) -> int:
        """Processes that compute blocks."""
        return 1 if self.in_process else self.workers

    @property
    def in_process(self) -> bool:
        """Whether everything runs in the driver's own process, without Dask."""
        return self.serial or self.workers == 0

    @property
    def slots(self) -> int:
        """Blocks that may be computed at once."""
        return 1 if self.serial else max(1, self.workers) * self.threads


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An image that is written: an output with its scale levels, or scratch between stages.

    Attributes
    ----------
    place
        Where its chunks are kept until the run is over; see `lepton_pipe.plan.holding`.
    """

    name: str
    step: str
    type: ImageType
    levels: tuple[Layout, ...]
    output: bool
    place: Literal["disk", "memory", "both"] = "disk"

    @property
    def nbytes(self) -> int:
        """Bytes of all levels before compression."""
        return sum(level.grid.size for level in self.levels) * self.type.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Write:
    """A step's result that a task writes to one scale level of a stored array.

    ``factors`` is how much coarser the level is than the blocks of the stage, per axis.
    """

    step: str
    array: str
    level: int
    factors: tuple[int, ...]


def is_copied(inputs: Mapping[str, InputInfo], array: StoredArray, level: int) -> bool:
    """Tell whether a scale level takes over the chunks of an input as they are stored."""
    info = inputs.get(array.step)
    same = info is not None and info.copied and info.chunks == array.levels[level].chunks
    return same and array.output and level == 0


@dataclass(frozen=True, slots=True)
class Read:
    """A step's result that a task reads: from an input, or from a level of a stored array."""

    step: str
    array: str | None = None
    level: int = 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """A stage that folds slabs of `thickness` voxels along `axis` of its source."""

    step: str
    axis: int
    thickness: int


@dataclass(frozen=True)
class Stage:
    """Blocks of one grid, each computed by one task: read, run all steps, reduce, write.

    Attributes
    ----------
    index
        Its number among the stages of the plan.
    name
        Words of the pipeline, for the dashboard: the kernels of the stage.
    grid, block
        What the blocks tile, and how long they are along each axis, in voxels.
    reads
        Images that a task reads.
    steps
        Ids of all steps that a task computes, in order; reductions among them.
    reduces
        Those of the steps whose partial is returned.
    writes
        Results that a task writes.
    values
        Values that must be known before the stage starts.
    sweep
        How it folds slabs, where it does; see `Sweep`.
    slots
        Blocks computed at once over all workers.
    lanes
        Those that lie on the GPU of each worker at once; 0 where there is none.
    order
        Axes from the slowest to the fastest in the order of blocks; see `lepton_pipe.plan.reuse`.
    cache_bytes
        Decoded chunks that all workers together keep for the blocks that follow.
    considered
        The block shape chosen and the next best.
    kept
        Arrays, by name and scale level, whose chunks stay decoded in memory while the stage runs,
        for it or for a later one; see `lepton_pipe.plan.keeping`.
    kept_bytes
        Bytes of those.
    held_bytes
        Bytes for the packed chunks of intermediate images that stay in memory while it runs.
    counts
        Those of the steps whose losses are counted; see `lepton_pipe.plan.counted`.
    estimate
        What a block takes, and what all of them read, write and take.
    """

    index: int
    name: str
    grid: Grid
    block: tuple[int, ...]
    reads: tuple[Read, ...]
    steps: tuple[str, ...]
    reduces: tuple[str, ...]
    writes: tuple[Write, ...]
    values: tuple[str, ...]
    sweep: Sweep | None = None
    slots: int = 1
    lanes: int = 0
    order: tuple[int, ...] = ()
    cache_bytes: int = 0
    considered: tuple[Shape, ...] = ()
    kept: tuple[tuple[str, int], ...] = ()
    kept_bytes: int = 0
    held_bytes: int = 0
    counts: tuple[str, ...] = ()
    estimate: Estimate = field(default=Estimate(0, 0, 0, 0.0))

    @property
    def blocks(self) -> Blocks:
        """The blocks, in the order of their numbers, which is that in which they are run."""
        return Blocks(self.grid.shape, self.block, self.order)

    @property
    def at_once(self) -> int:
        """Blocks that are computed at once, as far as there are so many."""
        return max(1, min(self.slots, len(self.blocks)))

    @property
    def seconds(self) -> float:
        """Rough time: so many rounds of blocks; in the last one, cores may be idle."""
        blocks = max(1, len(self.blocks))
        return self.estimate.core_seconds / blocks * -(-blocks // self.at_once)

    @property
    def contributes(self) -> bool:
        """Whether blocks return something that the run cannot do without."""
        return bool(self.reduces or self.counts)


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a result that a later stage needs again is stored, kept in memory or computed again."""

    step: str
    choice: Literal["store", "keep", "keep and store", "recompute"]
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return the decision as plain data."""
        return {"step": self.step, "choice": self.choice, "reason": self.reason}


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, decided before it starts.

    ``pipeline`` is what the user bound; ``spec`` has the steps that make scale levels as well.
    ``parts`` are the variants of a sweep that are in the same stages, see `lepton_pipe.plan.parts`.
    """

    pipeline: Spec
    spec: Spec
    inputs: Mapping[str, InputInfo]
    arrays: Mapping[str, StoredArray]
    stages: tuple[Stage, ...]
    decisions: tuple[Decision, ...]
    resources: Resources
    peak_bytes: int
    parts: Sequence[Sequence[str]] = ()

    @property
    def tasks(self) -> int:
        """Number of block tasks over all stages."""
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def bytes_stored(self) -> int:
        """Bytes of all that will be written, before compression."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def device_peak_bytes(self) -> int:
        """Most bytes that the blocks of a process take on its GPU."""
        return max((s.lanes * s.estimate.device_bytes for s in self.stages), default=0)

    @property
    def seconds(self) -> float:
        """Rough time of the run, start-up apart."""
        return sum(s.seconds for s in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data, the canonical pipeline included."""
        return {
            "pipeline": self.pipeline.to_json(),
            "inputs": {
                n: {"uri": i.uri, "chunks": list(i.chunks), **i.type.to_json()}
                for n, i in self.inputs.items()
            },
            "arrays": {n: _array_json(a) for n, a in self.arrays.items()},
            "stages": [stage_json(s) for s in self.stages],
            "decisions": [d.to_json() for d in self.decisions],
            "resources": {
                "memory": self.resources.memory,
                "workers": self.resources.workers,
                "threads": self.resources.threads,
                "device": self.resources.device,
                "serial": self.resources.serial,
                "device_memory": self.resources.device_memory,
                "device_direct": self.resources.direct,
            },
            "peak_bytes": self.peak_bytes,
            "device_peak_bytes": self.device_peak_bytes,
            "tasks": self.tasks,
            "bytes_stored": self.bytes_stored,
            "seconds": round(self.seconds, 1),
        }


def _array_json(array: StoredArray) -> dict[str, Any]:
    return {
        "output": array.output,
        "place": array.place,
        "dtype": np.dtype(array.type.dtype).name,
        "levels": [
            {
                "shape": list(level.grid.shape),
                "chunks": list(level.chunks),
                "shards": list(level.shards) if level.shards else None,
            }
            for level in array.levels
        ],
    }


def stage_json(stage: Stage) -> dict[str, Any]:
    """Return a stage as plain data."""
    return {
        "name": stage.name,
        "shape": list(stage.grid.shape),
        "block": list(stage.block),
        "tasks": len(stage.blocks),
        "at_once": stage.slots,
        "order": [stage.grid.axes[i] for i in stage.blocks.order],
        "cache_bytes": stage.cache_bytes,
        "kept": [{"array": array, "level": level} for array, level in stage.kept],
        "kept_bytes": stage.kept_bytes,
        "held_bytes": stage.held_bytes,
        "reads": [r.step for r in stage.reads],
        "steps": list(stage.steps),
        "reduces": list(stage.reduces),
        "writes": [{"step": w.step, "array": w.array, "level": w.level} for w in stage.writes],
        "sweep_axis": None if stage.sweep is None else stage.sweep.axis,
        "task_bytes": stage.estimate.task_bytes,
        "bytes_read": stage.estimate.bytes_read,
        "bytes_decoded": stage.estimate.bytes_decoded,
        "device_bytes": stage.estimate.device_bytes,
        "device_lanes": stage.lanes,
        "bytes_written": stage.estimate.bytes_written,
        "core_seconds": round(stage.estimate.core_seconds, 2),
    }
