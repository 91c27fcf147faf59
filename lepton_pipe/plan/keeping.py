"""What a stage writes and a later one reads stays decoded in memory, where there is room.

It is written all the same: a run that is stopped goes on from the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lepton_pipe.plan.memory import ALLOCATOR_SLACK, HELD_SLACK
from lepton_pipe.plan.model import Plan, Read, Stage, StoredArray


def keep_between_stages(
    stages: Sequence[Stage], arrays: Mapping[str, StoredArray], budget: int
) -> list[Stage]:
    """Return the stages, and what each finds in memory or leaves there.

    That is a scale level from which the next ones are made. Intermediate images are read back from
    the disk: their checksums are looked at, and they are larger.

    Parameters
    ----------
    budget
        Bytes for blocks and chunks, for a run whose blocks are all computed by one process.
    """
    found = list(stages)
    for reader, stage in enumerate(stages):
        for read in stage.reads:
            writer = _writer(stages[:reader], read)
            if writer is not None and read.array is not None and arrays[read.array].output:
                _keep(found, arrays[read.array], read, range(writer, reader + 1), budget)
    return found


def _writer(stages: Sequence[Stage], read: Read) -> int | None:
    """Return which stage writes what is read."""
    where = (read.array, read.level)
    for number, stage in enumerate(stages):
        if any((w.array, w.level) == where for w in stage.writes):
            return number
    return None


def _keep(
    stages: list[Stage], array: StoredArray, read: Read, span: Sequence[int], budget: int
) -> None:
    """Keep an array from the stage that writes it to the one that reads it, if there is room."""
    size = array.levels[read.level].grid.size * array.type.dtype.itemsize
    if any(task_and_cache(stages[i]) + size > budget for i in span):
        return
    for i in span:
        kept = (array.name, read.level)
        stages[i] = replace(
            stages[i],
            kept=tuple(dict.fromkeys((*stages[i].kept, kept))),
            kept_bytes=stages[i].kept_bytes + (0 if kept in stages[i].kept else size),
        )


def task_and_cache(stage: Stage) -> int:
    """Return the bytes of all blocks of a stage that run at once, and of what is held for them."""
    held = stage.held_bytes + stage.cache_bytes + stage.kept_bytes
    return stage.slots * stage.estimate.task_bytes + held


def with_gaps(stage: Stage) -> int:
    """Return the bytes that a stage makes of the heap, with the gaps that come and go in it."""
    come_and_go = task_and_cache(stage) - stage.held_bytes
    return int(ALLOCATOR_SLACK * come_and_go + HELD_SLACK * stage.held_bytes)


def with_room_to_share(stages: Sequence[Stage], budget: int, processes: int) -> list[Stage]:
    """Return the stages of several processes with more room for decoded chunks, if there is some.

    Each holds those that it has decoded, for itself and the others. How many fall to which is not
    known: with room enough, any of them may come to hold all.

    Parameters
    ----------
    budget
        Bytes for blocks and chunks of all processes.
    """
    left = [budget - task_and_cache(s) for s in stages]
    return [
        replace(s, cache_bytes=min(processes * s.cache_bytes, s.cache_bytes + max(0, more)))
        for s, more in zip(stages, left, strict=True)
    ]


def beside_again(plan: Plan, stage: Stage, now: Stage) -> tuple[int, int]:
    """Return what may be held besides blocks that run once more, for a stage after theirs.

    What that stage keeps in memory comes first, then decoded chunks; together with the blocks it is
    no more than any stage of the plan takes.

    Parameters
    ----------
    stage
        Whose blocks run once more, since what they wrote is gone.
    now
        The stage that needs it.

    Returns
    -------
    held, cache
        Bytes for packed chunks of intermediate images, and for decoded chunks.
    """
    blocks = stage.slots * stage.estimate.task_bytes + stage.kept_bytes
    room = max(map(with_gaps, plan.stages)) - ALLOCATOR_SLACK * blocks
    held = min(now.held_bytes, int(room / HELD_SLACK))
    return held, min(stage.cache_bytes, int((room - HELD_SLACK * held) / ALLOCATOR_SLACK))
