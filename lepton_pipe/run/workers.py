"""The workers of a cluster and their processes: who is there, who moves, how one ended."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import psutil
from distributed import Client, Nanny
from distributed.diagnostics.plugin import WorkerPlugin

from lepton_pipe.run.ended import how_ended
from lepton_pipe.run.mending import Mender

# How long the scheduler may take to answer.
ANSWER_SECONDS = 10.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Share of a core that a worker uses at the most while it only waits.
_IDLE_PERCENT = 10.0
# What Dask says where the status of a process was read by another thread, as that started one.
_UNKNOWN = 255
# How long to wait to learn how a process ended: writing its core takes time.
_END_SECONDS = 5.0


class WatchedNanny(Nanny):
    """Starts a worker process and, when it ends, another; remembers how each has ended.

    Parameters
    ----------
    gpus
        CUDA's names of the GPUs that are there: each worker sees one of them, in turn, and stays
        on the cores near it where dask-cuda is installed to tell which.
    """

    def __init__(self, *args: Any, gpus: Sequence[str] = (), **kwargs: Any) -> None:
        if gpus:
            gpu = gpus[int(kwargs["name"]) % len(gpus)]
            kwargs["env"] = {**(kwargs.get("env") or {}), _VISIBLE: gpu}
            if cores := cores_near(gpu, kwargs.get("nthreads") or 1):
                kwargs["plugins"] = (*kwargs.get("plugins", ()), OnCores(cores))
        super().__init__(*args, **kwargs)
        self.ended: dict[str, int] = {}

    def _on_worker_exit_sync(self, exitcode: int) -> None:
        # Dask writes it into a log that nobody sees.
        # It has no address yet for a nanny that has not heard how the start went.
        address = getattr(self.process, "worker_address", None)
        self.ended[address or ""] = exitcode
        super()._on_worker_exit_sync(exitcode)  # type: ignore[no-untyped-call]


class OnCores(WorkerPlugin):
    """Keeps a worker on some cores: the threads that it starts from then on."""

    def __init__(self, cores: frozenset[int]) -> None:
        self.cores = cores

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        """Set the affinity; nothing happens where the system does not allow it."""
        with suppress(OSError):
            os.sched_setaffinity(0, self.cores)


def cores_near(gpu: str, threads: int) -> frozenset[int]:
    """Return those of this process's cores that dask-cuda says are next to a GPU.

    Parameters
    ----------
    gpu
        CUDA's name of it.
    threads
        Of the worker: fewer cores than these are no gain.

    Returns
    -------
    frozenset
        Empty where dask-cuda is not installed or does not know, or where no choice is left.
    """
    if importlib.util.find_spec("dask_cuda") is None:
        return frozenset()
    try:
        known = importlib.import_module("dask_cuda.utils").get_cpu_affinity
        with warnings.catch_warnings(action="ignore"):
            near = frozenset(known(int(gpu) if gpu.isdigit() else gpu))
    except Exception:  # noqa: BLE001  where a worker runs changes its speed, no more
        return frozenset()
    mine = frozenset(os.sched_getaffinity(0))
    return near & mine if threads <= len(near & mine) < len(mine) else frozenset()


def visible_gpus(count: int) -> list[str]:
    """Return CUDA's names of the GPUs that this process sees, `count` in number."""
    named = [n.strip() for n in os.environ.get(_VISIBLE, "").split(",") if n.strip()]
    return named[:count] or [str(i) for i in range(count)]


class Workers:
    """What a client knows of the workers of its cluster, and of their processes if they are ours.

    Parameters
    ----------
    client
        Connected to a scheduler.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._used: dict[int, float] = {}
        self._mender = Mender(getattr(client, "cluster", None))

    @property
    def scheduler(self) -> str:
        """Address of the scheduler."""
        return str(getattr(self._client.scheduler, "address", "?"))

    @property
    def ours(self) -> bool:
        """Whether the processes of the workers are of this machine, and ours to end."""
        return next(self._nannies(), None) is not None

    def seen(self) -> dict[str, float] | None:
        """Return the share of a core that each worker used lately, in percent, by address.

        Returns
        -------
        dict or None
            None when the scheduler does not answer.
        """
        if self._client.status != "running":
            return None
        ask: Any = self._client.scheduler
        try:
            found = self._client.sync(ask.identity, callback_timeout=ANSWER_SECONDS)
        except (OSError, TimeoutError):
            return None
        return {a: float(w["metrics"].get("cpu", 0)) for a, w in found["workers"].items()}

    def busy(self, seconds: float) -> bool:
        """Tell whether any worker used a core since it was asked last, `seconds` ago."""
        if not self.ours:
            return any(cpu > _IDLE_PERCENT for cpu in (self.seen() or {}).values())
        # A kernel that holds the GIL lets its worker tell nothing; the system does.
        before, self._used = self._used, {}
        for process in self._processes():
            with suppress(psutil.Error):
                self._used[process.pid] = sum(process.cpu_times()[:2])
        spent = [s - before.get(pid, 0.0) for pid, s in self._used.items()]
        return any(s > seconds * _IDLE_PERCENT / 100 for s in spent)

    def stopped(self) -> list[int]:
        """Return the numbers of our worker processes that somebody has stopped (SIGSTOP)."""
        found = []
        for process in self._processes():
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    found.append(process.pid)
        return found

    def kill(self, address: str) -> bool:
        """End the process of a worker, if it is ours; another takes its place."""
        pids = [n.pid for n in self._nannies() if n.worker_address == address and n.pid]
        for pid in pids:
            kill_process(pid)
        return bool(pids)

    def mend(self, seconds: float) -> None:
        """Have workers started in the place of those that our cluster has lost for good.

        Parameters
        ----------
        seconds
            Since this was called last.
        """
        self._mender.mend(seconds)

    def end_of(self, address: str) -> str:
        """Return how the process of a worker ended, in words; empty where it is not known."""
        nannies = list(self._nannies())
        deadline = time.monotonic() + _END_SECONDS
        while nannies and time.monotonic() < deadline:
            for nanny in nannies:
                if address in nanny.ended:
                    return _how(nanny.ended[address])
            if early := [n.ended.pop("") for n in nannies if "" in n.ended]:
                return _how(early[-1])
            time.sleep(0.05)  # the scheduler has heard of it sooner than the nanny
        return ""

    def _processes(self) -> Iterator[psutil.Process]:
        for nanny in self._nannies():
            with suppress(psutil.Error, AttributeError):
                if pid := nanny.pid:
                    yield psutil.Process(pid)

    def _nannies(self) -> Iterator[WatchedNanny]:
        cluster = getattr(self._client, "cluster", None)
        workers = list(cluster.workers.values()) if cluster is not None else []
        yield from (w for w in workers if isinstance(w, WatchedNanny))


def kill_process(pid: int) -> None:
    """End a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _how(exitcode: int) -> str:
    return "" if exitcode == _UNKNOWN else how_ended(exitcode)
