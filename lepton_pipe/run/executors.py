"""The ways to run a stage in this process; `on_dask` has the other. All give the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from lepton_pipe.device import load
from lepton_pipe.merge.fold import TreeFold
from lepton_pipe.run.interrupts import raise_lost_interrupt
from lepton_pipe.store.held import sums
from lepton_pipe.worker import BlockResult, Combine, Program, run_block

# How often to look around while no block ends.
LOOK_SECONDS = 1
# How long blocks that run are waited for when a run ends early.
STOP_SECONDS = 10

Parts = Callable[[int], Mapping[str, Any]]
Tick = Callable[[], None]
Failed = Callable[[int, BaseException], BlockResult]


class Done(Protocol):
    """The blocks of a stage that need not be run, and what they returned when they were."""

    def __contains__(self, index: object) -> bool:
        """Tell whether a block is done."""
        ...

    def result(self, index: int) -> BlockResult:
        """Return what a block that is done returned."""
        ...

    def recall(self, index: int) -> BlockResult | None:
        """Return what a block noted that ended in this run and whose result was lost, if it did."""
        ...


class NothingDone:
    """No block is done."""

    def __contains__(self, index: object) -> bool:
        return False

    def result(self, index: int) -> BlockResult:
        """Raise: there is none."""
        raise KeyError(index)

    def recall(self, index: int) -> BlockResult | None:  # noqa: ARG002
        """Return None: nothing is noted."""
        return None


def raised(index: int, error: BaseException) -> BlockResult:  # noqa: ARG001
    """Raise what a block failed with: nothing takes its place."""
    raise error


@dataclass(frozen=True)
class Work:
    """The blocks of a stage.

    Attributes
    ----------
    parts
        Gives the block's own parts of values that have one for each block.
    tick
        Called as each block ends that was run.
    done
        Blocks whose results are known; they take part in the fold and are not run.
    failed
        Called with the number of a block that has failed for good, and why. Returns the result
        that takes part in the fold in its place, or raises, which ends the stage. It is called in
        the thread that runs the stage. For a block that took its workers along the reason is a
        `LostBlockError`: a result is given for no other, since workers know themselves what to do
        about kernels that raise and inputs that cannot be read.
    """

    program: Program
    parts: Parts
    tick: Tick
    done: Done = field(default_factory=NothingDone)
    failed: Failed = raised

    @property
    def blocks(self) -> int:
        """Number of blocks, those that are done among them."""
        return len(self.program.stage.blocks)

    def fold(self) -> TreeFold[BlockResult]:
        """Return an empty fold of all blocks."""
        return TreeFold(self.combine, self.blocks)

    @property
    def combine(self) -> Combine:
        """What folds the results of two blocks."""
        return Combine(self.program.spec, self.program.stage.reduces)

    def run_block(self, index: int) -> BlockResult:
        """Run a block here and now."""
        return run_block(self.program, index, self.parts(index))


class Executor(Protocol):
    """Runs the blocks of a stage and folds what all of them return."""

    @property
    def patience(self) -> float:
        """Seconds until all that blocks have noted is seen here."""
        ...

    def run(self, work: Work) -> BlockResult:
        """Run the blocks that are not done, and return the fold of all."""
        ...

    def held(self, files: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Return size and sum of those of some files that are kept in memory instead."""
        ...


class _InProcess:
    """What the ways to run blocks in this process have in common."""

    patience = 0.0

    @staticmethod
    def held(files: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Return size and sum of those of some files that are kept in memory instead."""
        return sums(files)


class SerialExecutor(_InProcess):
    """Runs block after block in this process: the simplest way to read a plan."""

    def run(self, work: Work) -> BlockResult:
        """Run the blocks that are not done, and return the fold of all."""
        fold = work.fold()
        for index in range(work.blocks):
            if index in work.done:
                fold.add(index, work.done.result(index))
                continue
            fold.add(index, self._result(work, index))
            work.tick()
        return fold.result()

    @staticmethod
    def _result(work: Work, index: int) -> BlockResult:
        try:
            return work.run_block(index)
        except Exception as error:  # noqa: BLE001  whoever planned the work judges it
            return work.failed(index, error)


class ThreadExecutor(_InProcess):
    """Runs as many blocks at once as the plan says, in threads of this process.

    Kernels and codecs release the GIL. What is not worth the start of a cluster is run like this.
    """

    def run(self, work: Work) -> BlockResult:
        """Run the blocks that are not done, and return the fold of all.

        After a failure or an interrupt no block is begun, and those that run are waited for: what
        they write must not come after the staging place was removed.
        """
        stage = work.program.stage
        if stage.steps:
            # Numba loads it while it compiles, beside whatever other threads load then.
            load("scipy.linalg")
        fold, begun = work.fold(), 0

        def end_one() -> None:
            fold.add(*crew.ended())
            work.tick()

        with _Crew(min(work.blocks, stage.slots), work) as crew:
            for index in range(work.blocks):
                if index in work.done:
                    fold.add(index, work.done.result(index))
                    continue
                crew.begin(index)
                begun += 1
                if begun > 2 * stage.slots:
                    end_one()
            for _ in range(min(begun, 2 * stage.slots)):
                end_one()
        return fold.result()


class _Crew:
    """Threads that run blocks. They do not keep the process alive if a kernel never ends."""

    def __init__(self, number: int, work: Work) -> None:
        self._work = work
        self._todo: SimpleQueue[int | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, BlockResult | BaseException]] = SimpleQueue()
        self._stopped = False
        self._threads = [
            Thread(target=self._run, name=f"lepton-block-{i}", daemon=True) for i in range(number)
        ]

    def __enter__(self) -> _Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for _thread in self._threads:
            self._todo.put(None)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def begin(self, index: int) -> None:
        """Hand a block to the first thread that is free."""
        self._todo.put(index)

    def ended(self) -> tuple[int, BlockResult]:
        """Wait for a block and return its number and result, or what takes its place."""
        while True:
            with suppress(Empty):
                index, result = self._done.get(timeout=LOOK_SECONDS)
                break
            raise_lost_interrupt()
        if isinstance(result, Exception):
            return index, self._work.failed(index, result)
        if isinstance(result, BaseException):
            raise result
        return index, result

    def _run(self) -> None:
        while (index := self._todo.get()) is not None and not self._stopped:
            try:
                self._done.put((index, self._work.run_block(index)))
            except BaseException as error:  # noqa: BLE001  (raised again by whoever waits for it)
                self._done.put((index, error))
