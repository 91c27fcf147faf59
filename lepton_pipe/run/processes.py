"""The processes that compute the blocks of a run: this one, or those of a cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_pipe.cache import chunks, neighbours
from lepton_pipe.device.lanes import clear_lanes
from lepton_pipe.plan import Plan
from lepton_pipe.report.board import Board
from lepton_pipe.report.progress import Watcher
from lepton_pipe.run.executors import Executor, SerialExecutor, ThreadExecutor
from lepton_pipe.run.remote_staging import AnyStaging
from lepton_pipe.store.arrays import ArraySource
from lepton_pipe.store.held import shared as records
from lepton_pipe.store.source import Source

if TYPE_CHECKING:
    from distributed import Client

_INPUTS = "inputs"
_WORKERS = "workers"
_NOTES = "running"
_CHUNKS = "chunks"


def shared_inputs(
    plan: Plan, sources: Mapping[str, Source], staging: AnyStaging
) -> Mapping[str, Source]:
    """Put arrays in memory where worker processes can map them, instead of sending them along."""
    if plan.resources.in_process:
        return sources
    folder = _emptied(staging.path / _INPUTS)
    return {
        n: s.saved(folder / f"{n}.npy") if isinstance(s, ArraySource) else s
        for n, s in sources.items()
    }


@contextmanager
def executor_of(
    plan: Plan,
    staging: AnyStaging,
    scheduler: str | None,
    watcher: Watcher,
    board: Board,
    stall: float | None,
) -> Iterator[Executor]:
    """Start what computes the blocks of a run, and end it.

    Parameters
    ----------
    scheduler
        Address of a running Dask scheduler; by default a local cluster is started, or none when
        the plan runs in this process.
    board
        What the page of a cluster of our own shows.
    stall
        Seconds for which a cluster may stand still.
    """
    if plan.resources.in_process:
        try:
            yield SerialExecutor() if plan.resources.serial else ThreadExecutor()
        finally:
            # This process goes on, and wants its memory back.
            chunks.clear()
            records.clear(folder_of(staging))
            clear_lanes()
        return
    # Dask is loaded by runs that use it alone: that takes as long as a small run.
    from lepton_pipe.run.dashboard import page_at
    from lepton_pipe.run.on_dask import DaskExecutor

    with _client(plan, staging, scheduler, board) as client:
        link = client.dashboard_link
        watcher.say(f"dashboard: {link if scheduler else page_at(link)}")
        threads = sum(client.nthreads().values())
        notes = _emptied(staging.path / _NOTES)
        elsewhere = scheduler is not None
        shared = not elsewhere and plan.resources.workers > 1 and neighbours.AVAILABLE
        folder = _emptied(staging.path / _WORKERS / _CHUNKS) if shared else None
        yield DaskExecutor(
            client, threads, staging.token, notes, stall, folder, elsewhere=elsewhere
        )


def folder_of(staging: AnyStaging) -> str:
    """Return the folder of a run, as the names of files in it begin."""
    return f"{staging.path.absolute()}{os.sep}"


def _client(
    plan: Plan, staging: AnyStaging, scheduler: str | None, board: Board
) -> AbstractContextManager[Client]:
    from lepton_pipe.run.cluster import local_client, remote_client

    if scheduler is not None:
        return remote_client(scheduler)
    scratch = _emptied(staging.path / _WORKERS)
    return local_client(plan.resources, plan.resources.memory, scratch, board.state)


def _emptied(folder: Path) -> Path:
    """Return a private folder with nothing in it; a run that was stopped may have left one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder
