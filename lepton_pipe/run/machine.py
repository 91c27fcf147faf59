"""What this machine offers: cores and memory, as limits set on the process tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from lepton_pipe.device.memory import free_bytes
from lepton_pipe.heap import ENVIRONMENT
from lepton_pipe.plan import Plan
from lepton_pipe.report.plan_text import size

PROCESS_ENVIRONMENT = {
    **ENVIRONMENT,
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""For processes that compute blocks, unless the user has set it otherwise: blocks are the
parallelism, and libraries have one thread each."""

_CGROUP = Path("/sys/fs/cgroup")
# Share of the free memory that a run takes when it is not told.
MEMORY_SHARE = 0.6
# The same of the memory of a GPU, which is seldom shared with others.
DEVICE_SHARE = 0.8
# Threads of one process share its decoded chunks; beyond this many they wait for each other.
THREADS_PER_WORKER = 16


def cores() -> int:
    """Return the cores this process may use: its affinity and its cgroup's quota count."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        available = os.cpu_count() or 1
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        available = min(available, max(1, int(quota[0]) // int(quota[1])))
    return available


def total_memory() -> int:
    """Return the bytes that this machine has, within the limit of the cgroup."""
    total, limit = psutil.virtual_memory().total, _memory_limit()
    return total if limit is None else min(total, limit)


def free_memory() -> int:
    """Return the bytes that are free on this machine, within the limit of the cgroup."""
    free, limit = psutil.virtual_memory().available, _memory_limit()
    if limit is not None:
        used = _read(_CGROUP / "memory.current").strip()
        free = min(free, limit - (int(used) if used.isdigit() else 0))
    return free


def _memory_limit() -> int | None:
    limit = _read(_CGROUP / "memory.max").strip()
    return int(limit) if limit.isdigit() else None


def default_memory() -> int:
    """Return the bytes a run takes when it is not told: a share of what is free."""
    return int(MEMORY_SHARE * free_memory())


def default_device_memory() -> int:
    """Return the bytes of each GPU that a run takes when it is not told: a share of what is free.

    The rest is for contexts of processes that do not run yet, and what kernels take for themselves.
    """
    return int(DEVICE_SHARE * free_bytes())


@dataclass(frozen=True, slots=True)
class Size:
    """What a machine or cluster offers: bytes over all processes, workers, threads in each."""

    memory: int
    workers: int
    threads: int


def this_machine(workers: int | None = None, threads: int | None = None) -> Size:
    """Return the size of a local cluster that uses all cores, in as few processes as can be.

    Parameters
    ----------
    workers, threads
        Worker processes, and threads in each, where they are given.
    """
    n = cores()
    if workers is None:
        workers = max(1, n // threads) if threads else -(-n // THREADS_PER_WORKER)
    return Size(default_memory(), workers, threads or max(1, n // workers))


def beyond_notes(plan: Plan, *, counts_given: bool, memory_given: bool) -> list[str]:
    """Return a note for each thing of which a run on this machine was given more than there is.

    Parameters
    ----------
    counts_given, memory_given
        Whether workers or threads, and memory, are what the user asked for.
    """
    notes, r = [], plan.resources
    if counts_given and r.slots > (n := cores()):
        what = f"{r.threads} threads" if r.in_process else f"{r.workers} x {r.threads} threads"
        notes.append(
            f"{what} are more than the {n} cores that may be used here: they wait for each other, "
            f"and each takes memory for a block of its own; give {n} in all, or leave them out"
        )
    total, free = total_memory(), free_memory()
    if memory_given and (r.memory > total or plan.peak_bytes > free):
        what = "this plan fits all the same, but one that does not would not be refused"
        if plan.peak_bytes > free:
            what = (
                f"the plan may take {size(plan.peak_bytes)}, and the system then swaps, or ends "
                "processes of the run"
            )
        notes.append(
            f"{size(r.memory)} of memory are more than is here ({size(free)} free of "
            f"{size(total)}): {what}; give at most {size(free)}, or leave it out for "
            f"{100 * MEMORY_SHARE:.0f} % of what is free"
        )
    return notes


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not in a cgroup of this kind
        return ""
