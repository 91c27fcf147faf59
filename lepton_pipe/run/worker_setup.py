"""What a worker process of a local cluster does first and last; Dask loads it by name (preload)."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numcodecs
from distributed import Worker

# What nearly every block needs.
_NEEDED = ("lepton_pipe.worker", "lepton_pipe.store", "scipy.ndimage", "lepton_pipe.compiled")


def dask_setup(_worker: Worker) -> None:
    """Leave Ctrl-C to the driver, and load what blocks need while the driver makes ready.

    A terminal sends Ctrl-C to workers too, and they would complain. The driver stops its workers
    when it stops; a worker that has lost it ends by itself.

    Loading is over before the worker takes tasks: two threads that load packages whose modules
    need each other, such as SciPy's, can be handed half of one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _nameless_locks():
        for name in _NEEDED:
            importlib.import_module(name)
        numcodecs.Blosc().encode(bytes(16))  # some versions make a lock for the first block


def dask_teardown(worker: Worker) -> None:
    """End a worker without a word, and at once where it has not started.

    A heartbeat that is under way as the connections close fails, and tornado would tell the user.

    A worker is told to stop before it has started by Dask's nanny, which takes the late greeting
    of one that was lost for that of the next as a run ends. It would go on starting, and fail with
    a traceback. One that fails to start says why, and is left alone.
    """
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    stream = worker.batched_stream
    if (stream is None or stream.comm is None) and sys.exception() is None:
        os._exit(0)


@contextmanager
def _nameless_locks() -> Iterator[None]:
    """Have locks between processes made without names, which would outlive a killed worker.

    Python would tell the user of leaked semaphores when the run ends. Locks have names where
    processes are spawned, as workers are; those of codecs are for one process alone.
    """
    before = multiprocessing.get_start_method()
    if "fork" not in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
