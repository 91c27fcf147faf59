"""What stages store for one another stays packed in memory, where there is room for it.

Kernels come first: they have what `lepton_pipe.plan.fit` gave them. What is left holds the packed
chunks of intermediate images, and what is left then holds decoded chunks::

    budget   | blocks at once | packed chunks kept for later stages | decoded chunks |

What is kept in memory alone is lost when a run is killed. So what takes long to make again is
stored as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np

from lepton_pipe.cache.record import OVERHEAD_BYTES
from lepton_pipe.cache.records import room_for
from lepton_pipe.plan.fit import Fitter
from lepton_pipe.plan.model import Decision, Plan, Stage, StoredArray

Keep = Literal["auto", "memory", "disk"]

DURABLE_SECONDS = 30.0
"""What takes longer to make again is stored, so that a run that was stopped finds it."""

# How much smaller packing makes what a pipeline leaves between stages; see
# tests/benchmarks/results/tiers.md. With less, what memory has no room for goes to the disk.
_SHRINKS = {"labels": 40.0, "mask": 16.0, "image": 1.25}
_BETTER = 4
# Room for arrays up to this size does not count on packing: of little, some packs badly.
_SMALL_BYTES = 64 * 2**20
# The header of what Blosc packs, and the checksum behind it.
_FRAME_BYTES = 16 + 4
# Nanoseconds for each packed byte that need not be written to a file and read back.
_FILE_NS = 1.0


@dataclass(frozen=True)
class Holding:
    """Chooses what of a plan stays in memory between its stages.

    Attributes
    ----------
    fitter
        Who chose the blocks.
    keep
        What the user wants.
    processes
        Those that compute blocks; each keeps what it has made, and finds what the others keep.
    """

    fitter: Fitter
    keep: Keep
    processes: int = 1

    def choose(
        self, stages: Sequence[Stage], decisions: Sequence[Decision]
    ) -> tuple[list[Stage], dict[str, StoredArray], list[Decision]]:
        """Return stages with room for what stays in memory, where arrays are kept, and why."""
        found, arrays, told = list(stages), dict(self.fitter.arrays), list(decisions)
        for array in [a for a in arrays.values() if not a.output]:
            span = _span(found, array.name)
            room = self._room(found, span, array)
            if room is None:
                continue
            seconds = _seconds_again(found, arrays, span[0])
            alone = self.keep == "memory" or seconds < DURABLE_SECONDS
            arrays[array.name] = replace(array, place="memory" if alone else "both")
            for i in span:
                found[i] = self.fitter.holding(found[i], found[i].held_bytes + room)
            told = [_told(d, array, seconds, alone=alone) for d in told]
        return found, arrays, told

    def _room(self, stages: Sequence[Stage], span: range, array: StoredArray) -> int | None:
        """Return the bytes to set aside for an array; None where it is better on disk.

        That is all that it may take if it is small, or else twice what it will probably take, but
        no more than it takes unpacked, where there is as much that nothing else has use for; what
        it will probably take; or what decoded chunks leave, if that is not far less: much packs
        better than is thought. Of what is small, any of several processes may come to keep all.
        """
        most, need = min(self._left(stages[i]) for i in span), _packed_bytes(array)
        beside = min(self._left(stages[i]) - stages[i].cache_bytes for i in span)
        small = array.nbytes <= _SMALL_BYTES
        if small:
            ample = worst_bytes(array) * self.processes
        else:
            unpacked = array.nbytes + _chunks(array) * OVERHEAD_BYTES
            ample = min(unpacked, max(2 * need, _SMALL_BYTES))
        for wanted in (ample, need):
            if wanted <= most and not self._costs_more(stages, span, wanted):
                return wanted
        if beside >= need // _BETTER:
            return min(beside, need)
        return min(need, most) if self.keep == "memory" else None

    def _left(self, stage: Stage) -> int:
        """Return the bytes that blocks leave, and what is held beside them; decoded chunks go."""
        taken = stage.slots * stage.estimate.task_bytes + stage.held_bytes
        return self.fitter.budget - taken

    def _costs_more(self, stages: Sequence[Stage], span: range, held: int) -> bool:
        """Tell whether chunks are decoded again for want of what is kept, at more than it saves."""
        more = 0.0
        for stage in (stages[i] for i in span):
            fitted = self.fitter.holding(stage, stage.held_bytes + held)
            more += fitted.estimate.core_seconds - stage.estimate.core_seconds
        return more > held * _FILE_NS / 1e9


def _span(stages: Sequence[Stage], array: str) -> range:
    """Return the stages from that which writes an array to the last that reads it."""
    writer = next(i for i, s in enumerate(stages) if any(w.array == array for w in s.writes))
    readers = [i for i, s in enumerate(stages) if any(r.array == array for r in s.reads)]
    return range(writer, max(readers, default=writer) + 1)


def _packed_bytes(array: StoredArray) -> int:
    """Return what the chunks of an array will probably take."""
    return int(array.nbytes / _SHRINKS[array.type.kind]) + _chunks(array) * OVERHEAD_BYTES


def worst_bytes(array: StoredArray) -> int:
    """Return the room in which an array stays in memory whole, however badly it packs.

    Chunks at the far edge are whole ones; booleans are eight to a byte before they are packed.
    """
    (level,) = array.levels
    voxels = prod(level.unit)
    bits = array.type.dtype == np.bool_
    chunk = -(-voxels // 8) if bits else voxels * array.type.dtype.itemsize
    chunks = _chunks(array)
    return room_for(chunks, chunks * (chunk + _FRAME_BYTES))


def _chunks(array: StoredArray) -> int:
    (level,) = array.levels
    return prod(-(-n // u) for n, u in zip(level.grid.shape, level.unit, strict=True))


def _seconds_again(
    stages: Sequence[Stage], arrays: Mapping[str, StoredArray], writer: int
) -> float:
    """Return what it takes to make again what a stage writes, and what it reads if that is lost."""
    stage = stages[writer]
    lost = [r.array for r in stage.reads if r.array and arrays[r.array].place == "memory"]
    return stage.seconds + sum(_seconds_again(stages, arrays, _span(stages, a)[0]) for a in lost)


def ns_again(plan: Plan, array: StoredArray) -> float:
    """Return core nanoseconds to make a byte of an array again, before it is packed."""
    stage = plan.stages[_span(plan.stages, array.name)[0]]
    return 1e9 * stage.estimate.core_seconds / max(1, array.nbytes)


def _told(decision: Decision, array: StoredArray, seconds: float, *, alone: bool) -> Decision:
    if decision.step != array.step or decision.choice != "store":
        return decision
    takes = f"takes {'under a second' if seconds < 1 else f'about {seconds:.0f} s'}"
    why = (
        f"{decision.reason}; {_size(array.nbytes)}, some {_size(_packed_bytes(array))} "
        "when packed; "
    )
    if alone:
        why += f"making it again after a kill {takes}"
        return Decision(decision.step, "keep", why)
    return Decision(
        decision.step, "keep and store", f"{why}making it again {takes}, so it is stored as well"
    )


def _size(n: int) -> str:
    return f"{n / 2**20:.0f} MiB" if n >= 10 * 2**20 else f"{n / 2**10:.0f} KiB"
