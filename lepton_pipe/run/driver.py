"""Run a plan: stage after stage, then the small results, then one rename."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lepton_pipe.errors import DamagedError, RunError, without_secrets
from lepton_pipe.heap import give_back
from lepton_pipe.ledger.keys import BlockKeys, InputStamps
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.plan import Plan
from lepton_pipe.report.board import Board
from lepton_pipe.report.memory import PeakMemory
from lepton_pipe.report.plan_text import count
from lepton_pipe.report.progress import Watcher
from lepton_pipe.report.report import Report
from lepton_pipe.run.asked import ASKED
from lepton_pipe.run.books import Books
from lepton_pipe.run.digests import known_otherwise
from lepton_pipe.run.inputs import copies_of, identities_of
from lepton_pipe.run.interrupts import interrupts_kept, raise_lost_interrupt
from lepton_pipe.run.layouts import PLANNED_WITH, lay_out
from lepton_pipe.run.machine import cores
from lepton_pipe.run.processes import executor_of, shared_inputs
from lepton_pipe.run.published import Published, Spoilt
from lepton_pipe.run.quarantine import Quarantine
from lepton_pipe.run.remote_staging import AnyStaging, open_staging
from lepton_pipe.run.restore import restore
from lepton_pipe.run.stage_runner import StageRunner
from lepton_pipe.store.output import Output, clean_command, local_of
from lepton_pipe.store.source import Source
from lepton_pipe.worker import OnError


def run_plan(
    plan: Plan,
    sources: Mapping[str, Source],
    out: Output,
    *,
    watcher: Watcher,
    overwrite: bool = False,
    scheduler: str | None = None,
    planned_with: Mapping[str, Any] | None = None,
    on_error: OnError = "fail",
    update: bool = False,
    asked: Mapping[str, Any] | None = None,
    spoilt: Spoilt | None = None,
    stall: float | None = None,
) -> Report:
    """Run a plan and publish its results at `out`; go on where an earlier run was stopped.

    Parameters
    ----------
    sources
        The input images, by the names the plan was made with.
    scheduler
        Address of a running Dask scheduler; by default a local cluster is started, or none when
        the plan runs in this process.
    planned_with
        What the plan was made with, as plain data: kept for the run that goes on after this one.
    stall
        Seconds for which a cluster may stand still.
    on_error
        Whether what cannot be read or computed ends the run, or is gone past and listed.
    update
        Take over what is published at `out` and the same; nothing need be there.
    asked
        What the user asked for, as plain data: kept for a run that repairs the result.
    spoilt
        What of the output is damaged. The result is to have the bytes it had.

    Raises
    ------
    OutputExistsError
        When something is at `out` already.
    RunError
        When a block failed. Nothing was published and `out` is what it was before; what is done
        is kept for the next run.
    """
    started = time.perf_counter()
    # Before anything is read: what is recorded is the input as it was at the start.
    identities = identities_of(sources)
    staging = open_staging(out, overwrite=overwrite or update, watcher=watcher)
    board = Board(plan, without_secrets(str(out)))
    with _kept_for_the_next_run(staging, watcher) as opened:
        copies = copies_of(plan, sources)
        published = _published_at(out, spoilt) if update else None
        keys = BlockKeys(plan, InputStamps(sources), set(copies))
        books = Books(staging.path, plan, keys, published)
        opened.append(books)
        lay_out(plan, staging.path, books.ledger, copies)
        _note_begin(books.ledger, sources, watcher, planned_with, asked)
        with (
            interrupts_kept(),
            PeakMemory() as memory,
            executor_of(plan, staging, scheduler, watcher, board, stall) as executor,
        ):
            quarantine = Quarantine(on_error, books.ledger)
            board.watch(lambda: memory.peak_bytes, lambda: len(quarantine))
            inputs, copied = shared_inputs(plan, sources, staging), frozenset(copies)
            # Of another's cluster it is known how many blocks it runs, not on how many cores.
            at_hand = cores() if scheduler is None else plan.resources.slots
            run = StageRunner(
                plan, inputs, copied, staging, executor, watcher, board, books, quarantine, at_hand
            )
            run.all_stages()
            raise_lost_interrupt()
        run.report.seconds = time.perf_counter() - started
        run.report.peak_bytes = memory.peak_bytes
        run.finish(identities)
        if published is not None and spoilt is not None:
            restore(published, staging.path, books.ledger, plan)
        _publish(staging, books)
    return run.report


def _published_at(out: Output, spoilt: Spoilt | None) -> Published | None:
    """Open the version of an output that is there, if there is one."""
    return Published.open(local_of(out), spoilt) if local_of(out).exists() else None


def _publish(staging: AnyStaging, books: Books) -> None:
    """Note what the result consists of, and make it visible, whole, as the last act."""
    books.note_files()
    books.close()
    staging.publish()
    give_back()


def _note_begin(
    ledger: Ledger,
    sources: Mapping[str, Source],
    watcher: Watcher,
    planned_with: Mapping[str, Any] | None,
    asked: Mapping[str, Any] | None,
) -> None:
    """Note what the plan was made with, for the run that goes on, and what the user asked for.

    Say which inputs were known in another way by the run that was stopped.
    """
    for text in known_otherwise(ledger, sources).values():
        watcher.say(f"{text}: what read it before the run was stopped is computed anew")
    if planned_with is not None:
        ledger.set_fact(PLANNED_WITH, dict(planned_with), durable=True)
    if asked is not None:
        ledger.set_fact(ASKED, dict(asked))


@contextmanager
def _kept_for_the_next_run(staging: AnyStaging, watcher: Watcher) -> Iterator[list[Books]]:
    """Keep what is done if the block inside raises; it adds the books once they are open.

    Raises
    ------
    RunError
        In the place of an `OSError`: it names the file, and what to do.
    """
    opened: list[Books] = []
    try:
        yield opened
    except OSError as error:
        _leave(staging, opened, watcher, error)
        raise RunError(
            f"{error.filename or staging.path}: {error.strerror or error}; nothing was published "
            f"and {staging.out} is what it was before. Correct that (make room, if the disk is "
            "full), then type the same command again"
        ) from error
    except BaseException as error:
        _leave(staging, opened, watcher, error)
        raise


def _leave(
    staging: AnyStaging, opened: Sequence[Books], watcher: Watcher, error: BaseException
) -> None:
    """Keep what is done for the next run; leave nothing where that is nothing."""
    if not opened and staging.resumed:
        staging.keep()  # what is done is not lost because its ledger cannot be read
        return
    damaged = isinstance(error, DamagedError)
    kept = sum(books.leave(damaged=damaged) for books in opened)
    if staging.published or not kept:
        staging.discard()
        return
    staging.keep()
    watcher.say(
        f"what is done is kept ({count(kept, 'block')}): type the same command again to go on, or "
        f"{clean_command(staging.out)} to give it up"
    )
