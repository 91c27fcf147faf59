"""Keep a stage going on a Dask cluster: send, take in, and decide what becomes of what fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from lepton_pipe.errors import LeptonError, LostBlockError, RunError
from lepton_pipe.run.executors import LOOK_SECONDS, Work
from lepton_pipe.run.flight import Change, Flight, Kind, Task, cluster_gone
from lepton_pipe.run.interrupts import raise_lost_interrupt
from lepton_pipe.run.suspects import Suspects, Verdict
from lepton_pipe.run.watch import Watch
from lepton_pipe.spec.canonical import kernel_name
from lepton_pipe.worker import BlockResult
from lepton_pipe.worker.running import Running

# How often it is looked whether a worker is stopped, or missing.
PATROL_SECONDS = 5.0
# How often a program or a fold is sent that takes its worker along.
_ATTEMPTS = 3


class News:
    """Puts into a flight's queue that workers come and go, for use in a ``with`` statement."""

    _TOPIC = "all"

    def __init__(self, client: Client, flight: Flight) -> None:
        self._client, self._flight = client, flight

    def __enter__(self) -> News:
        self._client.subscribe_topic(self._TOPIC, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.unsubscribe_topic(self._TOPIC)

    def _heard(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if message.get("action") in ("add-worker", "remove-worker"):
            expected = bool(message.get("expected"))
            self._flight.done.put(Change(message["action"], message["worker"], expected))


class Control:
    """Runs the blocks of a stage; yields each group's number and fold as it ends."""

    def __init__(self, flight: Flight, work: Work, suspects: Suspects, watch: Watch) -> None:
        self._flight, self._work = flight, work
        self._suspects, self._watch = suspects, watch
        self._present: set[str] | None = None
        self._cell = ""
        self._on_trial: int | None = None
        self._patrolled = time.monotonic()

    def __iter__(self) -> Iterator[tuple[int, BlockResult]]:
        flight = self._flight
        while True:
            self._send()
            while flight.ready:
                yield flight.ready.popleft()
            if flight.waits or self._suspects.waiting:
                self._take_in(self._news())
            elif flight.is_over:
                return

    # -- sending ----------------------------------------------------------------------------

    def _send(self) -> None:
        if not self._suspects.waiting and self._on_trial is None:
            self._cell = ""
            self._flight.send()
            return
        if self._present is None:
            self._present = set(self._watch.workers.seen() or ())
        self._try_one(self._present)
        if others := self._present - {self._cell}:
            self._flight.send(others)

    def _try_one(self, present: set[str]) -> None:
        """Send a suspect to a worker that has nothing else to run; keep one free for it."""
        if self._on_trial is not None:
            return
        tasks = list(self._flight.running())
        free = sorted(w for w in present if not any(t.may_run_on(w) for t in tasks))
        if free:
            self._cell, self._on_trial = free[0], self._suspects.waiting.popleft()
            self._flight.send_blocks([self._on_trial], [self._cell])
        elif self._cell not in present:
            self._cell = min(present, default="")

    # -- taking in --------------------------------------------------------------------------

    def _news(self) -> Future[Any] | Change | None:
        """Return what has happened next; None where nothing has for a while."""
        now = time.monotonic()
        if now - self._patrolled >= PATROL_SECONDS:
            self._patrolled = now
            self._watch.replace_stopped(PATROL_SECONDS)
            self._watch.workers.mend(PATROL_SECONDS)
        try:
            return self._flight.done.get(timeout=LOOK_SECONDS)
        except Empty:
            raise_lost_interrupt()
            for address in self._watch.look(LOOK_SECONDS, self._block):
                self._suspects.hung(address)
                self._watch.workers.kill(address)
            return None

    def _take_in(self, news: Future[Any] | Change | None) -> None:
        if news is None:
            self._present = None
            self._free_stranded()
        elif isinstance(news, Change):
            self._present = None
            self._changed(news)
        elif (task := self._flight.taken(news)) is not None:
            self._watch.moved()
            self._end(task)

    def _end(self, task: Task) -> None:
        status = task.future.status
        if status == "cancelled":
            raise cluster_gone()
        if status == "error":
            self._failed(task, task.future.exception())
            return
        if task.kind is Kind.BLOCK and task.number == self._on_trial:
            self._on_trial = None
        if not self._flight.end(task):
            self._again(task)

    def _again(self, task: Task) -> None:
        """Have what a task returned made again, or read where it was noted."""
        if task.kind is Kind.FOLD:
            self._refold(task)
            return
        for index in self._flight.blocks_of(task):
            if not self._recalled(index):
                self._flight.redo(index)

    # -- what fails -------------------------------------------------------------------------

    def _failed(self, task: Task, error: BaseException) -> None:
        self._mend_program()
        if isinstance(error, KilledWorker):
            self._lost(task, error.last_worker.address)
        elif task.kind is Kind.BLOCK:
            if task.number == self._on_trial:
                self._on_trial = None
            self._give_up(task.number, _as_ours(error))
        elif task.kind is Kind.WHOLE:
            self._again(task)  # one by one: only that which failed is to fail
        elif not self._mended(task):
            raise _as_ours(error)

    def _mend_program(self) -> None:
        """Send the program again that went with a worker as it was loaded."""
        error = self._flight.program_error()
        if error is None:
            return
        if not isinstance(error, KilledWorker):
            raise _as_ours(error) from error
        if self._flight.send_program_again() > _ATTEMPTS:
            raise RunError(
                f"{_ATTEMPTS} workers ended as they loaded the pipeline, the last of them "
                f"{self._ended(error.last_worker.address)[0]}; nothing was published. Look at what "
                "its files do when they are imported, or give the run more --memory"
            )

    def _mended(self, fold: Task) -> bool:
        """Fold again without the blocks whose results were lost and could not be made again."""
        errors = list(self._flight.errors_in(fold.number))
        for index, error in errors:
            self._flight.unkeep(index)
            if isinstance(error, KilledWorker):
                self._lost_block(index, error.last_worker.address)
            else:
                self._give_up(index, _as_ours(error))
        return bool(errors)

    def _lost(self, task: Task, address: str) -> None:
        """Decide what becomes of a task whose worker is gone."""
        self._present = None
        if task.kind is Kind.FOLD:
            if not self._mended(task):
                self._refold(task)
            return
        for index in self._flight.blocks_of(task):
            self._lost_block(index, address)

    def _refold(self, task: Task) -> None:
        if self._flight.refold(task.number) > _ATTEMPTS:
            raise RunError(
                f"the results of {_ATTEMPTS} attempts at folding blocks of "
                f"{self._flight.graph.name} were lost with their workers; nothing was published. "
                "Give the run more --memory or fewer --threads"
            )

    def _lost_block(self, index: int, address: str) -> None:
        alone = index == self._on_trial
        if alone:
            self._on_trial = None
        if self._recalled(index):
            return
        self._flight.prepare(index)
        verdict = self._suspects.lost(index, address, alone=alone)
        if verdict is Verdict.AGAIN:
            self._flight.again.append(index)
        elif verdict is Verdict.GUILTY:
            self._give_up(index, self._blame(index, address))

    def _recalled(self, index: int) -> bool:
        """Take what a block contributed from where it noted that; tell whether that is there."""
        result = self._work.done.recall(index)
        if result is not None:
            self._flight.give(index, result)
        return result is not None

    def _give_up(self, index: int, error: BaseException) -> None:
        self._flight.give(index, self._work.failed(index, error))

    def _changed(self, change: Change) -> None:
        """Take in that a worker has come or gone."""
        if change.action == "add-worker":
            self._suspects.arrived(change.worker)
            return
        gone = [] if change.expected else list(self._suspects.running_on(change.worker))
        lost = {t.number: t for i in gone if (t := self._flight.task_of(i)) is not None}
        for task in lost.values():
            self._flight.drop(task)
            self._lost(task, change.worker)
        self._free_stranded()
        self._flight.rescue(self._work.done.recall)

    def _free_stranded(self) -> None:
        """Take back what only workers may run that are gone: it would wait for ever."""
        bound = [t for t in self._flight.running() if t.workers]
        if not bound or (seen := self._watch.workers.seen()) is None:
            return
        for task in bound:
            if not any(w in seen for w in task.workers):
                self._flight.drop(task)
                self._lost(task, next(iter(task.workers)))

    # -- words ------------------------------------------------------------------------------

    def _block(self, index: int) -> str:
        stage = self._work.program.stage
        return f"block {index} of {stage.name}, {stage.blocks.region(index)}"

    def _ended(self, address: str) -> tuple[str, str]:
        """Return a worker with how it ended, for people, and how; asked once for each."""
        how = self._suspects.why_left(address) or self._watch.workers.end_of(address)
        return f"{address} ({how})" if how else address, how

    def _blame(self, index: int, address: str) -> LeptonError:
        """Return the error of a block that takes its worker along, or keeps it for ever."""
        attempts = self._suspects.attempts(index)
        at = self._step(self._suspects.running_on(address).get(index))
        if self._suspects.is_hung(address):
            return LostBlockError(
                f"{self._block(index)} did not end: for {self._watch.stall:.0f} s nothing moved "
                f"while worker {address} ran it{at}; {attempts} times, the last time alone. Look "
                "at the kernel and the storage; if blocks may be at rest for so long, give a "
                "longer --stall SECONDS"
            )
        if why := self._suspects.why_left(address):
            return LostBlockError(
                f"{self._block(index)} lost the device of {attempts} worker processes, the last "
                f"time alone in {address}{at}: {why}. Look at the kernel, and at the card "
                "(nvidia-smi, dmesg); --device cpu computes on the cores"
            )
        where, how = self._ended(address)
        remedy = "A kernel ends its process: look at it"
        if not how or "SIGKILL" in how:
            remedy = (
                "Most likely it ran out of memory, or a kernel ends its process. Give the run more "
                "--memory or fewer --threads, or look at the kernel"
            )
        return LostBlockError(
            f"{self._block(index)} ended its worker process {attempts} times, the last time alone "
            f"in {where}{at}. {remedy}"
        )

    def _step(self, note: Running | None) -> str:
        """Return at which steps a block was: the kernel's names and the user's line."""
        if note is None or note.first < 0:
            return ", between two kernels" if note else ""
        stage, spec = self._work.program.stage, self._work.program.spec
        steps = [spec[s] for s in stage.steps[note.first : note.last + 1]]
        names = ", ".join(f"{s.id} ({kernel_name(s.kernel)})" for s in steps if s.kernel)
        return f", at {names}, {steps[0].where}"


def _as_ours(error: BaseException) -> LeptonError:
    """Return the error of a task as one of ours, with what was raised as its cause."""
    if isinstance(error, LeptonError):
        return error
    made = RunError(f"a task failed: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made
