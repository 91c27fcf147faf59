"""A local Dask cluster for one run, or a connection to one that is there."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import dask
from distributed import Client, LocalCluster

from lepton_pipe.device import device_count
from lepton_pipe.errors import StalledError, UsageError
from lepton_pipe.plan import Resources
from lepton_pipe.run import worker_setup
from lepton_pipe.run.dashboard import State, serve
from lepton_pipe.run.interrupts import signals_held
from lepton_pipe.run.machine import MEMORY_SHARE, PROCESS_ENVIRONMENT, Size, default_memory
from lepton_pipe.run.tiered import TieredData
from lepton_pipe.run.workers import WatchedNanny, kill_process, visible_gpus

DASHBOARD_PORT = 8787
CONNECT_SECONDS = 15
# How long the workers of a local cluster may take to start; a few seconds on an idle machine.
START_SECONDS = 120
# One in so many bytes of a worker is for the results of its tasks, until they are folded.
DATA_SHARE = 16

# Where tasks were made is of no interest, and takes longer to find out than to send them.
_CLIENT_SETTINGS = {"distributed.diagnostics.computations.nframes": 0}

_SETTINGS = {
    **_CLIENT_SETTINGS,
    "distributed.nanny.pre-spawn-environ": PROCESS_ENVIRONMENT,
    # The driver is told of every task that a lost worker had, and finds out which is to blame.
    "distributed.scheduler.allowed-failures": 0,
    # By default a worker that is not back after 15 s is never started again: on a busy machine, or
    # where a block ends several workers in turn, a run would lose one after the other.
    "distributed.deploy.lost-worker-timeout": "1000 weeks",
    # A worker that tells nothing may run a kernel that holds the GIL. The driver looks at its
    # process, and ends it where that does not move.
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.work-stealing": True,
    # The driver bounds how many blocks are with the scheduler; those need not wait there.
    "distributed.scheduler.worker-saturation": "inf",
    # Looks at the stacks of all threads, holding the GIL.
    "distributed.worker.profile.interval": "100ms",
    "distributed.comm.retry.count": 3,
    # Event loops that look 50 times a second whether they are late take more than all tasks do.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "20s",
    "distributed.admin.system-monitor.interval": "1s",
    "distributed.worker.memory.monitor-interval": "250ms",
    # Block tasks return small partials: beyond the share that `TieredData` has for them, what is in
    # a worker's memory cannot be spilled to any use, and pausing would only hide that a plan was
    # wrong.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
}


@contextmanager
def local_client(
    resources: Resources, worker_bytes: int, scratch: Path, state: State | None = None
) -> Iterator[Client]:
    """Start a cluster on the loopback interface, and close it at the end.

    Parameters
    ----------
    worker_bytes
        Limit at which a worker is ended and replaced, a safety net far above what is planned.
    scratch
        Private directory for the workers' files.
    state
        Gives what the page of the run shows; None where there is none.

    Raises
    ------
    StalledError
        When the workers do not start in time.
    """
    with dask.config.set(_SETTINGS), _main_hidden(), _quiet():
        # A cluster that is interrupted while it starts cannot be closed, and goes on starting.
        with signals_held():
            cluster = _started(resources, worker_bytes, scratch)
        client = None
        try:
            cluster.sync(serve, cluster.scheduler, state)
            client = Client(cluster)
            yield client
        finally:
            _close(cluster, client)


def _close(cluster: LocalCluster, client: Client | None) -> None:
    """Close a cluster; at once where whoever asked for that asks again."""
    try:
        if client is not None:
            client.close()
        cluster.close()
    except BaseException:
        cluster.shutdown_on_close = False  # else Dask waits for it as the process ends
        for nanny in list(cluster.workers.values()):
            nanny.close_gracefully()  # it starts no other process
            if pid := nanny.pid:
                kill_process(pid)
        raise


def _started(resources: Resources, worker_bytes: int, scratch: Path) -> LocalCluster:
    """Start a cluster, all of whose workers come within a deadline."""
    before, begun = set(active_children()), time.monotonic()
    try:
        return LocalCluster(
            n_workers=resources.workers,
            worker_class=WatchedNanny,
            threads_per_worker=resources.threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{DASHBOARD_PORT}",
            memory_limit=worker_bytes,
            data=(TieredData, {"target": worker_bytes // DATA_SHARE}),
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
            preload=worker_setup.__name__,
            death_timeout=START_SECONDS,
            scheduler_kwargs={"dashboard": False},
            gpus=visible_gpus(device_count()) if resources.device == "gpu" else (),
        )
    except (TimeoutError, AssertionError) as error:
        # The latter comes from Dask's nanny, which forgets its process when its time is over.
        if time.monotonic() - begun < START_SECONDS:
            raise
        # Dask watches them, and would tell of ends that it did not bring about.
        logging.getLogger("distributed.process").setLevel(logging.CRITICAL)
        for process in set(active_children()) - before:
            process.kill()
            process.join()
        raise StalledError(
            f"the worker processes did not start within {START_SECONDS} s; nothing was published. "
            "See whether this machine is too busy, or start in this process with --serial; then "
            "type the same command again"
        ) from error


@contextmanager
def remote_client(address: str) -> Iterator[Client]:
    """Connect to a running scheduler.

    Raises
    ------
    UsageError
        When nothing answers at `address`, or the cluster has no workers.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        # The last is what Dask raises where it has no certificates.
        raise UsageError(
            f"--scheduler {address}: no Dask scheduler answers there within {CONNECT_SECONDS} s "
            f"({error}); check the address (tls://host:8786) and the certificates (Dask's "
            "configuration, distributed.comm.tls), or leave the flag out to use this machine"
        ) from error
    try:
        if not client.nthreads():
            raise UsageError(
                f"--scheduler {address}: the cluster has no workers; start some, then run again"
            )
        # What a lost scheduler means for the run is told once, by the run.
        with dask.config.set(_CLIENT_SETTINGS), _muted("distributed", "asyncio", "tornado"):
            try:
                yield client
            finally:
                client.close()
    finally:
        client.close()


def cluster_size(address: str) -> Size:
    """Return what a running cluster offers; its workers are taken to be alike.

    Raises
    ------
    UsageError
        As `remote_client`.
    """
    with remote_client(address) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [int(w["memory_limit"]) for w in workers]
        threads = min(int(w["nthreads"]) for w in workers)
    memory = int(MEMORY_SHARE * sum(limits)) if all(limits) else default_memory()
    return Size(memory, len(limits), threads)


@contextmanager
def _muted(*packages: str) -> Iterator[None]:
    """Have the loggers of packages say nothing; Dask sets a level for some of its own."""
    names = {n for n in logging.root.manager.loggerDict if n.partition(".")[0] in packages}
    loggers = [logging.getLogger(name) for name in sorted(names.union(packages))]
    levels = {logger: logger.level for logger in loggers}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the warning that the dashboard's usual port is taken; another is chosen and shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        yield


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep workers from running the user's script again when they start.

    Worker processes are spawned, and spawning imports the main script, so that a script without
    an ``if __name__ == "__main__"`` guard would start a run within each worker. Kernels of the
    main script travel as code and do not need that import.
    """
    main = sys.modules["__main__"]
    hidden = {n: main.__dict__.pop(n) for n in ("__file__",) if n in main.__dict__}
    spec, main.__spec__ = main.__spec__, None
    try:
        yield
    finally:
        main.__dict__.update(hidden)
        main.__spec__ = spec
