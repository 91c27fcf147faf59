"""What a worker process of a local cluster does first; Dask loads this by name (preload)."""

from __future__ import annotations

import signal

from distributed import Worker


def dask_setup(_worker: Worker) -> None:
    """Leave Ctrl-C to the driver: a terminal sends it to workers too, and they would complain.

    The driver stops its workers when it stops; a worker that has lost it ends by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
