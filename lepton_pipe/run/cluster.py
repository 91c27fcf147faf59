"""A local Dask cluster for one run, or a connection to one that is there."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from distributed import Client, LocalCluster

from lepton_pipe.errors import UsageError
from lepton_pipe.plan import Resources
from lepton_pipe.run import worker_setup
from lepton_pipe.run.interrupts import signals_held
from lepton_pipe.run.machine import MEMORY_SHARE, Size, default_memory

DASHBOARD_PORT = 8787
CONNECT_SECONDS = 15

# The nanny's default hands freed blocks back to the system at once, to be faulted in again page
# by page; a run that plans its memory may keep them. One thread for each library: blocks are the
# parallelism.
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

_SETTINGS = {
    "distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.work-stealing": True,
    "distributed.comm.retry.count": 3,
    "distributed.admin.tick.limit": "20s",
    # Block tasks return small partials: what is in a worker's memory cannot be spilled to any
    # use, and pausing would only hide that a plan was wrong.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
}


@contextmanager
def local_client(resources: Resources, worker_bytes: int, scratch: Path) -> Iterator[Client]:
    """Start a cluster on the loopback interface, and close it at the end.

    Parameters
    ----------
    worker_bytes
        Limit at which a worker is ended and replaced, a safety net far above what is planned.
    scratch
        Private directory for the workers' files.
    """
    with dask.config.set(_SETTINGS), _main_hidden(), _quiet():
        # A cluster that is interrupted while it starts cannot be closed, and goes on starting.
        with signals_held():
            cluster = LocalCluster(
                n_workers=resources.workers,
                threads_per_worker=resources.threads,
                processes=True,
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{DASHBOARD_PORT}",
                memory_limit=worker_bytes,
                local_directory=str(scratch),
                silence_logs=logging.CRITICAL,
                preload=worker_setup.__name__,
            )
        try:
            client = Client(cluster)
            try:
                yield client
            finally:
                client.close()
        finally:
            cluster.close()


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
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--scheduler {address}: no Dask scheduler answers there within {CONNECT_SECONDS} s "
            f"({error}); check the address (tcp://host:8786) or leave the flag out to use this "
            "machine"
        ) from error
    try:
        if not client.nthreads():
            raise UsageError(
                f"--scheduler {address}: the cluster has no workers; start some, then run again"
            )
        yield client
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
