"""Run a plan: stage after stage, then the small results, then one rename."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_pipe.cache import chunks
from lepton_pipe.cache.records import Held
from lepton_pipe.device.lanes import clear_lanes
from lepton_pipe.errors import DamagedError, RunError, without_secrets
from lepton_pipe.heap import give_back
from lepton_pipe.ledger.keys import BlockKeys, InputStamps
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.plan.counted import is_counted, is_watched
from lepton_pipe.plan.holding import ns_again
from lepton_pipe.plan.uses import uses_of
from lepton_pipe.report.board import Board
from lepton_pipe.report.casts import CastReport
from lepton_pipe.report.device import DeviceReport
from lepton_pipe.report.memory import PeakMemory
from lepton_pipe.report.plan_text import count
from lepton_pipe.report.progress import Watcher
from lepton_pipe.report.report import Report, StageReport
from lepton_pipe.run.again import Again, OnlyThese, WorkAgain
from lepton_pipe.run.asked import ASKED
from lepton_pipe.run.books import Books
from lepton_pipe.run.digests import known_otherwise
from lepton_pipe.run.executors import Executor, SerialExecutor, ThreadExecutor, Work
from lepton_pipe.run.inputs import copies_of, identities_of
from lepton_pipe.run.interrupts import interrupts_kept, raise_lost_interrupt
from lepton_pipe.run.layouts import PLANNED_WITH, lay_out
from lepton_pipe.run.published import Published, Spoilt
from lepton_pipe.run.quarantine import Quarantine
from lepton_pipe.run.remote_staging import AnyStaging, open_staging
from lepton_pipe.run.restore import restore
from lepton_pipe.run.results import Results
from lepton_pipe.run.stage_books import StageBooks
from lepton_pipe.run.values import take_in
from lepton_pipe.spec import ImageType, Lost, NotFinite, PerBlock, Spec
from lepton_pipe.store.arrays import ArraySource
from lepton_pipe.store.chunked import ChunkedSource
from lepton_pipe.store.held import shared as records
from lepton_pipe.store.output import Output, clean_command, local_of
from lepton_pipe.store.source import Source
from lepton_pipe.store.target import ArrayTarget
from lepton_pipe.worker import CONTENT_KEY, BlockResult, Lack, OnError, Program

if TYPE_CHECKING:
    from distributed import Client

_INPUTS = "inputs"
_WORKERS = "workers"
_NOTES = "running"


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
    books: Books | None = None
    board = Board(plan, without_secrets(str(out)))
    try:
        copies = copies_of(plan, sources)
        keys = BlockKeys(plan, InputStamps(sources), set(copies))
        there = update and local_of(out).exists()
        published = Published.open(local_of(out), spoilt) if there else None
        books = Books(staging.path, plan, keys, published)
        lay_out(plan, staging.path, books.ledger, copies)
        if planned_with is not None:
            books.ledger.set_fact(PLANNED_WITH, dict(planned_with), durable=True)
        for text in known_otherwise(books.ledger, sources).values():
            watcher.say(f"{text}: what read it before the run was stopped is computed anew")
        if asked is not None:
            books.ledger.set_fact(ASKED, dict(asked))
        with (
            interrupts_kept(),
            PeakMemory() as memory,
            _executor(plan, staging, scheduler, watcher, board, stall) as executor,
        ):
            inputs = _shared(plan, sources, staging)
            quarantine = Quarantine(on_error, books.ledger)
            board.watch(lambda: memory.peak_bytes, lambda: len(quarantine))
            run = _Run(
                plan,
                inputs,
                frozenset(copies),
                staging,
                executor,
                watcher,
                board,
                books,
                quarantine,
            )
            run.all_stages()
            raise_lost_interrupt()
        run.report.seconds = time.perf_counter() - started
        run.report.peak_bytes = memory.peak_bytes
        run.finish(identities)
        if published is not None and spoilt is not None:
            restore(published, staging.path, books.ledger, plan)
        books.note_files()
        books.close()
        staging.publish()
        give_back()
    except OSError as error:
        _leave(staging, books, watcher, error)
        raise RunError(
            f"{error.filename or staging.path}: {error.strerror or error}; nothing was published "
            f"and {out} is what it was before. Correct that, then run again"
        ) from error
    except BaseException as error:
        _leave(staging, books, watcher, error)
        raise
    return run.report


def _leave(
    staging: AnyStaging, books: Books | None, watcher: Watcher, error: BaseException
) -> None:
    """Keep what is done for the next run; leave nothing where that is nothing."""
    if books is None and staging.resumed:
        staging.keep()  # what is done is not lost because its ledger cannot be read
        return
    damaged = isinstance(error, DamagedError)
    kept = books.leave(damaged=damaged) if books is not None else 0
    if staging.published or not kept:
        staging.discard()
        return
    staging.keep()
    watcher.say(
        f"what is done is kept ({count(kept, 'block')}): type the same command again to go on, or "
        f"{clean_command(staging.out)} to give it up"
    )


def _shared(plan: Plan, sources: Mapping[str, Source], staging: AnyStaging) -> Mapping[str, Source]:
    """Put arrays in memory where worker processes can map them, instead of sending them along."""
    if plan.resources.in_process:
        return sources
    folder = _emptied(staging.path / _INPUTS)
    return {
        n: s.saved(folder / f"{n}.npy") if isinstance(s, ArraySource) else s
        for n, s in sources.items()
    }


@contextmanager
def _executor(
    plan: Plan,
    staging: AnyStaging,
    scheduler: str | None,
    watcher: Watcher,
    board: Board,
    stall: float | None,
) -> Iterator[Executor]:
    if plan.resources.in_process:
        try:
            yield SerialExecutor() if plan.resources.serial else ThreadExecutor()
        finally:
            # This process goes on, and wants its memory back.
            chunks.clear()
            records.clear(_folder(staging))
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
        yield DaskExecutor(client, threads, staging.token, notes, stall)


def _folder(staging: AnyStaging) -> str:
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


class _Run:
    """The state of a run: values known so far, and what was measured."""

    def __init__(
        self,
        plan: Plan,
        sources: Mapping[str, Source],
        copies: frozenset[tuple[str, int]],
        staging: AnyStaging,
        executor: Executor,
        watcher: Watcher,
        board: Board,
        books: Books,
        quarantine: Quarantine,
    ) -> None:
        self.plan, self.spec, self.board = plan, plan.spec, board
        self.sources, self.copies, self.staging = sources, copies, staging
        self.executor, self.watcher, self.books = executor, watcher, books
        self.quarantine = quarantine
        self.again = Again(plan, books, self._execute)
        books.in_memory = executor.held
        self.held = Held("", 0, 0)
        self.executed: Counter[int] = Counter()
        self.values: dict[str, Any] = {}
        self.lost: dict[str, Lost] = {}
        self.report = Report(staging.out, planned_bytes=plan.peak_bytes)

    def all_stages(self) -> None:
        """Run the stages in order."""
        for stage in self.plan.stages:
            self._stage(stage)
        self.report.casts = [
            CastReport(s.id, s.type.dtype.name, s.args["cast"], self.lost.get(s.id))
            for s in self.spec.steps
            if isinstance(s.type, ImageType) and is_counted(self.spec, s)
        ]

    def _stage(self, stage: Stage) -> None:
        started = time.perf_counter()
        self.held = self._held(stage)
        books = self.books.begin(stage, self.values)
        if books.done:
            self._say(f"{stage.name}: {books.done} of {len(stage.blocks)} blocks are done")
        self.board.begin(stage.index, books.ended)
        result = self.again.run(stage)
        books.refuse_missing()
        if result.lack is not None:
            self._go_past(stage, result.lack)
        take_in(self.spec, stage, result.partials, self.values, str(self.staging.out))
        for position, lost in result.counts.items():
            self.lost[stage.steps[position]] = lost
        for number, write in enumerate(stage.writes):
            if is_watched(self.spec, write):
                found = result.not_finite.get(number, NotFinite())
                self.report.not_finite[write.array] = found
        seconds = time.perf_counter() - started
        self.board.end(stage.index)
        device = None
        if self.plan.resources.device == "gpu" and result.stats.blocks:
            device = DeviceReport.of(self.plan, stage, result.stats, seconds)
        self.report.stages.append(StageReport(stage.name, seconds, result.stats, device))

    def _say(self, text: str) -> None:
        self.watcher.say(text)
        self.board.say(text)

    def _held(self, stage: Stage) -> Held:
        """Return what stays in memory while a stage runs, and blocks that are run again for it."""
        arrays = [a for a in self.plan.arrays.values() if a.place != "disk"]
        uses = {self._group(a.name): uses_of(self.plan, a.name, stage.index) for a in arrays}
        return Held(
            _folder(self.staging),
            stage.index,
            stage.held_bytes,
            {group: found for group, found in uses.items() if found},
            {self._group(a.name): ns_again(self.plan, a) for a in arrays},
        )

    def _group(self, array: str) -> str:
        return str((self.staging.path / array).absolute())

    def _go_past(self, stage: Stage, lack: Lack) -> None:
        """Note what the blocks of a stage lack, for the stages after it and for the user."""
        before = len(self.quarantine)
        self.quarantine.take(stage, lack)
        self.books.correct(stage, lack.keys)
        found = len(self.quarantine) - before
        if found:
            self._say(f"{stage.name}: {found} quarantined")

    def _execute(self, stage: Stage, only: Collection[int] | None) -> BlockResult:
        """Run the blocks of a stage that are not done, or some that are once more."""
        books, program = self.books.of(stage.index), self._program(stage)
        if time := self.executed[stage.index]:
            # Another name: tasks of the same key must not be taken for one another.
            program = replace(program, stage=replace(stage, name=f"again{time}:{stage.name}"))
        self.executed[stage.index] += 1
        parts, tick = self._parts(stage, books), lambda: self._tick(books)
        # A block that is given up is filled in here, where no worker looks for what is in memory.
        stored = {k: replace(self._target(*k), place="disk") for k in program.targets}
        failed = self.quarantine.failed(stage, replace(program, targets=stored), parts)
        if only is None:
            self.watcher.stage(stage.name, len(stage.blocks) - books.done)
            return self.executor.run(Work(program, parts, tick, books, failed))
        self.watcher.stage(f"{stage.name}, again", len(only))
        result = self.executor.run(WorkAgain(program, parts, tick, OnlyThese(only), failed))
        if result.lack is not None:
            self._go_past(stage, result.lack)
        return result

    def _tick(self, books: StageBooks) -> None:
        self.watcher.tick()
        self.books.tick(books)
        raise_lost_interrupt()

    def _program(self, stage: Stage) -> Program:
        shared = {v: self.values[v] for v in stage.values if not self._per_block(v)}
        return Program(
            spec=_needed(self.spec, stage),
            stage=stage,
            sources={
                r.step: self.sources[r.step]
                if r.array is None
                else self._target(r.array, r.level).source()
                for r in stage.reads
            },
            targets={(w.array, w.level): self._target(w.array, w.level) for w in stage.writes},
            values=shared,
            device=self.plan.resources.device,
            lanes=stage.lanes,
            device_bytes=self.plan.resources.device_memory,
            cache_bytes=stage.cache_bytes // self.plan.resources.processes,
            copies=self.copies,
            kept={k: _chunked(self._target(*k).source()) for k in stage.kept},
            on_error=self.quarantine.on_error,
            inputs=frozenset(r.step for r in stage.reads if r.array is None),
            bad={
                r.step: self.quarantine.bad[r.step]
                for r in stage.reads
                if r.array is not None and r.step in self.quarantine.bad
            },
            journal=self.books.of(stage.index).folder,
            held=self.held if self.plan.resources.processes == 1 else None,
        )

    def _target(self, array: str, level: int) -> ArrayTarget:
        stored = self.plan.arrays[array]
        path = self.staging.path / array
        return ArrayTarget(path, level if stored.output else None, stored.place)

    def _per_block(self, step: str) -> bool:
        return isinstance(self.values[step], PerBlock)

    def _parts(self, stage: Stage, books: StageBooks) -> Callable[[int], dict[str, Any]]:
        split = {v: self.values[v] for v in stage.values if self._per_block(v)}
        number = stage.blocks.in_c_order

        def parts(index: int) -> dict[str, Any]:
            own = {v: value.part(number(index)) for v, value in split.items()}
            return {**own, CONTENT_KEY: books.key(index)}

        return parts

    def finish(self, identities: Mapping[str, Any]) -> None:
        """Write tables, values and the record; remove what was only needed on the way."""
        give_back()  # what blocks held, before tables are packed
        results = Results(self.plan, self.staging.path, self.report)
        results.clear()
        results.write(self.values, self.quarantine)
        results.write_record(identities)


def _chunked(source: Source) -> ChunkedSource:
    assert isinstance(source, ChunkedSource)  # all arrays of ours are
    return source


def _needed(spec: Spec, stage: Stage) -> Spec:
    """Return the part of the pipeline that a stage's workers need."""
    wanted = {*stage.steps, *(r.step for r in stage.reads), *stage.values}
    steps = tuple(s for s in spec.steps if s.id in wanted)
    return Spec(spec.pipeline, spec.parameters, steps, {})
