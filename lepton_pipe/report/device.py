"""How busy the GPUs and the cores of a run were, and which step held up the others."""

from __future__ import annotations

from typing import Any, NamedTuple

from lepton_pipe.plan import Plan, Stage
from lepton_pipe.worker import Stats

# What was busy for less than this share of the time can have kept nobody waiting for long.
_BUSY = 0.5


class DeviceReport(NamedTuple):
    """What the steps of a stage's blocks took, as shares of what there was for them in its time.

    Attributes
    ----------
    reading, writing, launching
        Shares of the cores: for reading and decoding, for encoding and writing, and for all else
        that blocks do there, such as launching kernels and filling the buffers of copies.
    copying_in, kernels, copying_out
        Shares of the time in which a GPU was busy with that, for any of its blocks: the mean over
        the GPUs. These are upper bounds: they have in them what CuPy's kernels waited for their
        launches within a step, and what a thread waited for Python's lock before it could mark the
        end of its work. Chunks that are read straight to a GPU are not among the copies.
    waiting
        Share of the blocks' time for which they waited while they read or wrote: for storage, for
        a core, or for Python's lock.
    """

    reading: float
    writing: float
    launching: float
    copying_in: float
    kernels: float
    copying_out: float
    waiting: float

    @classmethod
    def of(cls, plan: Plan, stage: Stage, stats: Stats, seconds: float, cores: int) -> DeviceReport:
        """Return the report of a stage that took so many seconds, where there are so many cores."""
        at_work = max(1e-9, seconds * min(stage.at_once, cores))
        blocks = max(1e-9, seconds * stage.at_once)
        devices = max(1e-9, seconds * plan.resources.processes)
        moving = stats.read_core_seconds + stats.write_core_seconds
        shares = (
            stats.read_core_seconds / at_work,
            stats.write_core_seconds / at_work,
            (stats.core_seconds - moving) / at_work,
            stats.copy_in_seconds / devices,
            stats.kernel_seconds / devices,
            stats.copy_out_seconds / devices,
            (stats.read_seconds + stats.write_seconds - moving) / blocks,
        )
        return cls(*(min(1.0, max(0.0, share)) for share in shares))

    @property
    def cores(self) -> float:
        """Share of the cores that blocks took in all."""
        return min(1.0, self.reading + self.writing + self.launching)

    @property
    def limit(self) -> str:
        """The step that limits: of what is busiest; ``"waiting"`` if nothing is half of the time.

        Where that is the cores, it is the step that takes most of them.
        """
        shares = self._asdict()
        host = max(("reading", "writing", "launching"), key=shares.__getitem__)
        busy = {
            host: self.cores,
            **{n: shares[n] for n in ("copying_in", "kernels", "copying_out")},
        }
        step = max(busy, key=busy.__getitem__)
        return step if busy[step] >= _BUSY else "waiting"

    def to_json(self) -> dict[str, Any]:
        """Return the shares as plain data, and which step limits."""
        shares = {**self._asdict(), "cores": self.cores}
        return {**{n: round(v, 3) for n, v in shares.items()}, "limit": self.limit}

    def __str__(self) -> str:
        limits = f"{self.limit.replace('_', ' ')} limits"
        if self.limit == "waiting":
            limits = (
                "nothing is busy half of the time: blocks wait for each other, and for "
                f"{self.waiting:.0%} of their time to read and write"
            )
        return (
            f"GPU busy {self.kernels:.0%} with kernels, {self.copying_in:.0%} and "
            f"{self.copying_out:.0%} with copies in and out; cores {self.cores:.0%}; {limits}"
        )
