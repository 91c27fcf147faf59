"""Run the stages of a plan one after the other, and finish what they contribute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from lepton_pipe.cache.uses import Held
from lepton_pipe.heap import give_back
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.plan.counted import is_counted, is_watched
from lepton_pipe.plan.holding import ns_again
from lepton_pipe.plan.keeping import beside_again
from lepton_pipe.plan.uses import uses_of
from lepton_pipe.report.board import Board
from lepton_pipe.report.casts import CastReport
from lepton_pipe.report.device import DeviceReport
from lepton_pipe.report.plan_text import be, count
from lepton_pipe.report.progress import Watcher
from lepton_pipe.report.report import Report, StageReport
from lepton_pipe.run.again import Again, OnlyThese, WorkAgain
from lepton_pipe.run.books import Books
from lepton_pipe.run.executors import Executor, Work
from lepton_pipe.run.interrupts import raise_lost_interrupt
from lepton_pipe.run.processes import folder_of
from lepton_pipe.run.quarantine import Quarantine
from lepton_pipe.run.remote_staging import AnyStaging
from lepton_pipe.run.results import Results
from lepton_pipe.run.stage_books import StageBooks
from lepton_pipe.run.values import refuse_values, take_in
from lepton_pipe.spec import ImageType, Lost, NotFinite, PerBlock, Spec
from lepton_pipe.store.chunked import ChunkedSource
from lepton_pipe.store.source import Source
from lepton_pipe.store.target import ArrayTarget
from lepton_pipe.worker import CONTENT_KEY, BlockResult, Lack, Program


class StageRunner:
    """The state of a run: values known so far, and what was measured.

    Parameters
    ----------
    cores
        Those that there are for its blocks.
    """

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
        cores: int,
    ) -> None:
        self.plan, self.spec, self.board, self.cores = plan, plan.spec, board, cores
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
        refuse_values(self.spec, stage, self.values)
        self.held = self._held(stage)
        books = self.books.begin(stage, self.values)
        if books.done:
            of = count(len(stage.blocks), "block")
            self._say(f"{stage.name}: {books.done} of {of} {be(books.done)} done")
        self.board.begin(stage.index, books.ended)
        result = self.again.run(stage)
        books.refuse_missing(self.executor.patience)
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
        self.board.end(stage.index, result.stats.tiers)
        device = None
        if self.plan.resources.device == "gpu" and result.stats.blocks:
            device = DeviceReport.of(self.plan, stage, result.stats, seconds, self.cores)
        self.report.stages.append(StageReport(stage.name, seconds, result.stats, device))

    def _say(self, text: str) -> None:
        self.watcher.say(text)
        self.board.say(text)

    def _held(self, stage: Stage) -> Held:
        """Return what a process keeps while a stage runs, and blocks that are run again for it."""
        arrays = [a for a in self.plan.arrays.values() if a.place != "disk"]
        uses = {self._group(a.name): uses_of(self.plan, a.name, stage.index) for a in arrays}
        return Held(
            folder_of(self.staging),
            stage.index,
            stage.held_bytes // self.plan.resources.processes,
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
        if stage.index != self.held.stage:
            program = self._for_later(program)
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

    def _for_later(self, program: Program) -> Program:
        """Return the program of blocks that run again, for a stage that holds its own besides."""
        stage, now = program.stage, self.plan.stages[self.held.stage]
        held, cache = beside_again(self.plan, stage, now)
        return replace(
            program,
            cache_bytes=cache // self.plan.resources.processes,
            held=program.held
            and replace(program.held, budget=held // self.plan.resources.processes),
        )

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
            direct=self.plan.resources.direct,
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
            held=self.held,
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
