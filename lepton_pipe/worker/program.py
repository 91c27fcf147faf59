"""What a worker is sent once for a stage: the steps, where to read, where to write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from lepton_pipe.cache.counts import Tier
from lepton_pipe.cache.uses import Held
from lepton_pipe.geometry import Region
from lepton_pipe.plan import Stage
from lepton_pipe.spec import Lost, NotFinite, Spec, blamed
from lepton_pipe.store.writers import Written
from lepton_pipe.worker.faults import Lack, OnError

CONTENT_KEY = "@key"
"""Name, among a block's own parts, of the content key that it is run for."""
_COUNTS = "@counts"
_NOT_FINITE = "@not finite"


class Readable(Protocol):
    """A door to an image that a task reads from."""

    def read(self, region: Region) -> np.ndarray[Any, Any]:
        """Return the voxels of a region."""
        ...


class Writable(Protocol):
    """A door to an array that a task writes whole chunks of."""

    def write(self, region: Region, array: np.ndarray[Any, Any]) -> list[Written]:
        """Write the voxels of a region, and return what was written."""
        ...


class Keeper(Protocol):
    """A door to an array whose chunks stay in memory once they are written."""

    @property
    def uri(self) -> str:
        """What the chunks are kept under."""
        ...

    def keep(self, region: Region, array: np.ndarray[Any, Any]) -> None:
        """Keep what was just written to a region."""
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
    cache_bytes
        Decoded chunks that each process keeps for the blocks that follow.
    copies
        Those of the targets that take over the chunks of an input as they are stored.
    journal
        Where to note that a block is done; None where nobody wants to know.
    kept
        Doors to those arrays whose chunks stay decoded in this process for a later stage, by array
        name and scale level.
    on_error
        Whether what cannot be read or computed is raised, or noted and gone past.
    inputs
        Those of the sources that are the user's, not ours.
    bad
        What of the sources holds the fill value, or depends on it, since an earlier stage failed
        there.
    notes
        Where each thread notes what it runs, for when its process is gone; None as above.
    held
        What is kept packed in each process for later stages; None where nobody wants to know.
    neighbours
        Where the processes of this machine find what the others keep, decoded or packed; None where
        one computes all blocks, or they are on several machines.
    elsewhere
        Whether the driver may be on another machine.
    lanes
        Blocks that lie on the GPU at once, where there is one.
    device_bytes
        Bytes of its memory that the process may take; 0 is no limit.
    direct
        Whether chunks that are stored for it are read straight there.
    """

    spec: Spec
    stage: Stage
    sources: Mapping[str, Readable]
    targets: Mapping[tuple[str, int], Writable]
    values: Mapping[str, Any]
    device: Literal["cpu", "gpu"] = "cpu"
    cache_bytes: int = 0
    copies: frozenset[tuple[str, int]] = frozenset()
    journal: Path | None = None
    kept: Mapping[tuple[str, int], Keeper] = field(default_factory=dict)
    on_error: OnError = "fail"
    inputs: frozenset[str] = frozenset()
    bad: Mapping[str, Sequence[Region]] = field(default_factory=dict)
    notes: Path | None = None
    held: Held | None = None
    neighbours: Path | None = None
    elsewhere: bool = False
    lanes: int = 1
    device_bytes: int = 0
    direct: bool = False


@dataclass
class Spent:
    """What a step took: seconds of a core, and the voxels handed to its kernel."""

    seconds: float = 0.0
    voxels: int = 0


@dataclass
class Stats:
    """What tasks measured: counts, bytes before compression, seconds summed over tasks.

    Those called ``core`` do not count waiting, neither for a disk nor for a core;
    ``core_seconds`` are those of whole tasks. ``bytes_direct`` are those of chunks that were read
    straight to a GPU. There, ``wait_seconds`` are those for which tasks waited for a lane;
    ``copy_in_seconds``, ``kernel_seconds`` and ``copy_out_seconds`` those for which it was busy
    with that, however many tasks there were; see `lepton_pipe.device.busy`.
    """

    blocks: int = 0
    bytes_read: int = 0
    bytes_direct: int = 0
    bytes_written: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    read_core_seconds: float = 0.0
    write_core_seconds: float = 0.0
    core_seconds: float = 0.0
    wait_seconds: float = 0.0
    copy_in_seconds: float = 0.0
    kernel_seconds: float = 0.0
    copy_out_seconds: float = 0.0
    steps: dict[str, Spent] = field(default_factory=dict)
    tiers: dict[str, Tier] = field(default_factory=dict)

    def count(self, tiers: Mapping[str, Tier]) -> None:
        """Add what tiers of the process have done, by their names."""
        for name, tier in tiers.items():
            if tier.is_used:
                self.tiers.setdefault(name, Tier()).add(tier)

    def spend(self, step: str, seconds: float, voxels: int) -> None:
        """Add what a step took."""
        spent = self.steps.setdefault(step, Spent())
        spent.seconds += seconds
        spent.voxels += voxels

    def add(self, other: Stats) -> Stats:
        """Add the figures of `other` to these."""
        for f in fields(self):
            if f.name not in ("steps", "tiers"):
                setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        for step, spent in other.steps.items():
            self.spend(step, spent.seconds, spent.voxels)
        self.count(other.tiers)
        return self


@dataclass
class BlockResult:
    """What a task returns: small partials by step id, and its measurements. Never an image.

    ``lack`` says what could not be read or computed; None where that is nothing. ``counts`` holds
    what conversions lost, by the position of their step in the stage. ``not_finite`` holds what
    images of floats were written with, by the number of the write; nothing where that is none.
    """

    partials: dict[str, Any] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)
    lack: Lack | None = None
    counts: dict[int, Lost] = field(default_factory=dict)
    not_finite: dict[int, NotFinite] = field(default_factory=dict)

    def count(self, position: int, lost: Lost) -> None:
        """Add what a conversion lost."""
        self.counts[position] = self.counts.get(position, Lost()).add(lost)

    def count_not_finite(self, write: int, found: NotFinite) -> None:
        """Add what is not finite of what was written."""
        if any(found):
            self.not_finite[write] = self.not_finite.get(write, NotFinite()).add(found)

    def contributed(self) -> dict[str, Any]:
        """Return what the run cannot do without, as it is stored; see `from_stored`."""
        more = {_COUNTS: self.counts, _NOT_FINITE: self.not_finite}
        return {**self.partials, **{name: counts for name, counts in more.items() if counts}}

    @classmethod
    def from_stored(cls, contributed: dict[str, Any]) -> BlockResult:
        """Return the result that contributed this."""
        counts, not_finite = contributed.pop(_COUNTS, {}), contributed.pop(_NOT_FINITE, {})
        return cls(contributed, counts=counts, not_finite=not_finite)


@dataclass(frozen=True)
class Combine:
    """Folds the results of two blocks, or of two folds; each partial by its own kernel's rule."""

    spec: Spec
    reduces: tuple[str, ...]

    def __call__(self, a: BlockResult, b: BlockResult) -> BlockResult:
        """Fold `b` into `a` and return it."""
        reduces: Iterable[str] = self.reduces
        if a.lack is not None or b.lack is not None:
            reduces = [s for s in self.reduces if s in a.partials and s in b.partials]
            a.partials = {**b.partials, **a.partials}
            a.lack = a.lack.add(b.lack) if a.lack and b.lack else a.lack or b.lack
        for step_id in reduces:
            kernel = self.spec[step_id].kernel
            if kernel is not None and kernel.combine is not None:
                with blamed(self.spec[step_id], "the partials of two blocks, combining them"):
                    folded = kernel.combine(a.partials[step_id], b.partials[step_id])
                a.partials[step_id] = folded
        for position, lost in b.counts.items():
            a.count(position, lost)
        for write, found in b.not_finite.items():
            a.count_not_finite(write, found)
        a.stats.add(b.stats)
        return a
