"""What a worker is sent once for a stage: the steps, where to read, where to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np

from lepton_pipe.geometry import Region
from lepton_pipe.plan import Stage
from lepton_pipe.spec import Spec, blamed


class Readable(Protocol):
    """A door to an image that a task reads from."""

    def read(self, region: Region) -> np.ndarray[Any, Any]:
        """Return the voxels of a region."""
        ...


class Writable(Protocol):
    """A door to an array that a task writes whole chunks of."""

    def write(self, region: Region, array: np.ndarray[Any, Any]) -> None:
        """Write the voxels of a region."""
        ...


@dataclass(frozen=True)
class Program:
    """A stage with its doors and the values it needs; the same for all its blocks.

    Attributes
    ----------
    sources
        Where each image that is read comes from, by step id.
    targets
        Where each write goes, by array name and scale level.
    values
        Values known from earlier stages, by step id; those with a part for each block are not
        among them, a task is sent its own part.
    """

    spec: Spec
    stage: Stage
    sources: Mapping[str, Readable]
    targets: Mapping[tuple[str, int], Writable]
    values: Mapping[str, Any]
    device: Literal["cpu", "gpu"] = "cpu"


@dataclass
class Stats:
    """What tasks measured: counts, bytes before compression, seconds summed over tasks."""

    blocks: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0

    def add(self, other: Stats) -> Stats:
        """Add the figures of `other` to these."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self


@dataclass
class BlockResult:
    """What a task returns: small partials by step id, and its measurements. Never an image."""

    partials: dict[str, Any] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)


@dataclass(frozen=True)
class Combine:
    """Folds the results of two blocks, or of two folds; each partial by its own kernel's rule."""

    spec: Spec
    reduces: tuple[str, ...]

    def __call__(self, a: BlockResult, b: BlockResult) -> BlockResult:
        """Fold `b` into `a` and return it."""
        for step_id in self.reduces:
            kernel = self.spec[step_id].kernel
            if kernel is not None and kernel.combine is not None:
                with blamed(self.spec[step_id], "the partials of two blocks, combining them"):
                    folded = kernel.combine(a.partials[step_id], b.partials[step_id])
                a.partials[step_id] = folded
        a.stats.add(b.stats)
        return a
