"""What this machine offers: cores and memory, as limits set on the process tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from lepton_pipe.device.memory import free_bytes
from lepton_pipe.heap import ENVIRONMENT

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


def free_memory() -> int:
    """Return the bytes that are free on this machine, within the limit of the cgroup."""
    free = psutil.virtual_memory().available
    limit = _read(_CGROUP / "memory.max").strip()
    if limit.isdigit():
        used = _read(_CGROUP / "memory.current").strip()
        free = min(free, int(limit) - (int(used) if used.isdigit() else 0))
    return free


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


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not in a cgroup of this kind
        return ""
