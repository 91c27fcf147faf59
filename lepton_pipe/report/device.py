"""How busy the GPUs of a run were, and which step held up the others."""

from __future__ import annotations

from typing import Any, NamedTuple

from lepton_pipe.plan import Plan, Stage
from lepton_pipe.worker import Stats


class DeviceReport(NamedTuple):
    """What the steps of a stage's blocks took, as shares of its time.

    A share is that of what can be had: all blocks at once for reading and writing, all lanes for
    waiting; for copies and kernels the GPUs, each of which does one thing of a kind at a time.

    Attributes
    ----------
    reading, copying_in, kernels, copying_out, writing
        Shares from 0 to 1. What is measured on a stream is the time between its first and last
        piece of work, so that kernels which wait for their launch count as busy.
    """

    reading: float
    copying_in: float
    kernels: float
    copying_out: float
    writing: float

    @classmethod
    def of(cls, plan: Plan, stage: Stage, stats: Stats, seconds: float) -> DeviceReport:
        """Return the report of a stage that took so many seconds."""
        blocks = max(1e-9, seconds * stage.at_once)
        devices = max(1e-9, seconds * plan.resources.processes)
        shares = (
            stats.read_seconds / blocks,
            stats.copy_in_seconds / devices,
            stats.kernel_seconds / devices,
            stats.copy_out_seconds / devices,
            stats.write_seconds / blocks,
        )
        return cls(*(min(1.0, share) for share in shares))

    @property
    def limit(self) -> str:
        """The step that takes the largest share."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]

    def to_json(self) -> dict[str, Any]:
        """Return the shares as plain data, and which step limits."""
        return {**{n: round(v, 3) for n, v in self._asdict().items()}, "limit": self.limit}

    def __str__(self) -> str:
        return (
            f"GPU busy {self.kernels:.0%} with kernels, {self.copying_in:.0%} and "
            f"{self.copying_out:.0%} with copies in and out; "
            f"{self.limit.replace('_', ' ')} limits"
        )
