"""The tasks of a stage that are with a Dask scheduler, and the groups they are folded in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from queue import SimpleQueue
from typing import Any, NamedTuple

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from lepton_pipe.errors import StalledError
from lepton_pipe.graph import StageGraph
from lepton_pipe.merge.fold import FAN
from lepton_pipe.run.executors import Work
from lepton_pipe.worker import BlockResult, Stats

# Tasks that wait for each thread, so that none idles while the driver is asked for more.
QUEUED_PER_THREAD = 8
# The one scheduler spends about 2 ms on a task, whichever of its threads runs it: blocks that are
# shorter than this, times the threads, go a group to a task.
WORTH_SECONDS = 0.01
# Blocks that are done already and stepped over before it is looked whether others have ended.
LOOK_AHEAD = 64 * FAN
# How long a result may take to come; its worker may be gone.
FETCH_SECONDS = 10.0


class Kind(Enum):
    """What a task does."""

    BLOCK = "runs a block"
    WHOLE = "runs a group of blocks and folds them"
    FOLD = "folds a group"


@dataclass(frozen=True)
class Task:
    """A task that is with the scheduler.

    Attributes
    ----------
    number
        Of the block, or of the group.
    workers
        Addresses of those that may run it; none where all may.
    """

    kind: Kind
    number: int
    future: Future[Any]
    workers: frozenset[str] = frozenset()

    def may_run_on(self, worker: str) -> bool:
        """Tell whether a worker may run it."""
        return not self.workers or worker in self.workers


class Change(NamedTuple):
    """A worker has come or gone."""

    action: str
    worker: str
    expected: bool


@dataclass
class _Group:
    """A group whose blocks are sent one by one, until it is folded."""

    awaited: set[int]
    kept: dict[int, Future[BlockResult]] = field(default_factory=dict)
    given: dict[int, BlockResult] = field(default_factory=dict)
    folds: int = 0


class Flight:
    """Sends the blocks of a stage; ten million never stand there at once.

    Attributes
    ----------
    done
        Tasks that have ended, whichever way, as they do.
    again
        Blocks that are to be sent once more.
    ready
        Groups that are folded, and their folds.
    """

    def __init__(self, client: Client, graph: StageGraph, work: Work, threads: int) -> None:
        self._client, self.graph, self._work, self._threads = client, graph, work, threads
        slots = work.program.stage.slots
        # Where memory allows fewer blocks at once than there are threads, no more than that are
        # sent; else enough that a thread never waits, and several in one message.
        self._limit = slots if slots < threads else QUEUED_PER_THREAD * slots
        self._portion = 1 if slots < threads else self._limit // 2
        self._program = graph.send_program(client)
        self._programs = 1
        self._next = 0
        self._running = 0
        self._short = False
        self._attempts: Counter[int] = Counter()
        self._tasks: dict[Any, Task] = {}
        self._groups: dict[int, _Group] = {}
        self.again: deque[int] = deque()
        self.ready: deque[tuple[int, BlockResult]] = deque()
        self.done: SimpleQueue[Future[Any] | Change] = SimpleQueue()

    # -- sending ----------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether anything is with the scheduler."""
        return bool(self._tasks)

    @property
    def is_over(self) -> bool:
        """Whether every block was sent, or was done."""
        return self._next == self.graph.blocks and not self.again

    def send(self, workers: Collection[str] = ()) -> None:
        """Send the next blocks, if enough have ended since the last.

        Parameters
        ----------
        workers
            Addresses of those that may run them; by default all.
        """
        free = self._limit - self._running
        if free < self._portion or self.is_over:
            return
        if self.again:
            number = min(free, len(self.again))
            self.send_blocks([self.again.popleft() for _ in range(number)], workers)
        elif wholes := min(free, 0 if workers else self._wholes()):
            self._send_groups(wholes)
        else:
            self.send_blocks(self._take(free), workers)

    def send_blocks(self, indices: list[int], workers: Collection[str] = ()) -> None:
        """Send a task for each of some blocks."""
        if not indices:
            return
        futures = self.graph.send_blocks(
            self._client, self._program, indices, attempts=self._attempts, workers=workers
        )
        self._attempts.update({i: 1 for i in indices if i in self._attempts})
        where = frozenset(workers)
        for index, future in zip(indices, futures, strict=True):
            self._await(Task(Kind.BLOCK, index, future, where))

    def _wholes(self) -> int:
        """Return how many groups may go as one task each; near the end all threads want work."""
        if not self._short or self._next % FAN:
            return 0
        first, left = self._next // FAN, self.graph.blocks - self._next
        most = max(0, left // FAN - 2 * self._threads)
        return next((g for g in range(most) if self._any_done(first + g)), most)

    def _any_done(self, group: int) -> bool:
        return any(i in self._work.done for i in self.graph.members(group))

    def _send_groups(self, number: int) -> None:
        first = self._next // FAN
        groups = range(first, first + number)
        futures = self.graph.send_wholes(self._client, self._program, groups)
        self._next = groups.stop * FAN
        for group, future in zip(groups, futures, strict=True):
            self._await(Task(Kind.WHOLE, group, future))

    def _take(self, free: int) -> list[int]:
        """Return the next blocks that are to be run, and step over those that are done."""
        end = min(self._next + max(free, LOOK_AHEAD), self.graph.blocks)
        if self._short:
            end = min(end, -(-(self._next + 1) // FAN) * FAN)  # from the next group on, by groups
        indices: list[int] = []
        while self._next < end and len(indices) < free:
            if self._next % FAN == 0:
                self._open(self._next // FAN)
            if self._next not in self._work.done:
                indices.append(self._next)
            self._next += 1
        return indices

    def _open(self, group: int) -> None:
        todo = {i for i in self.graph.members(group) if i not in self._work.done}
        self._groups[group] = _Group(todo)
        self._settle(group)

    def _await(self, task: Task) -> None:
        self._tasks[task.future.key] = task
        self._running += task.kind is not Kind.FOLD
        task.future.add_done_callback(self.done.put)

    # -- what has ended ---------------------------------------------------------------------

    def taken(self, future: Future[Any]) -> Task | None:
        """Take back a task that has ended; None where nobody waits for it any more."""
        task = self._tasks.pop(future.key, None)
        if task is not None:
            self._running -= task.kind is not Kind.FOLD
        return task

    def end(self, task: Task) -> bool:
        """Take in what a task has returned; tell whether it could be had."""
        if task.kind is Kind.BLOCK:
            group = self._groups[task.number // FAN]
            group.kept[task.number] = task.future
            self._has_ended(task.number)
            return True
        result = self._fetched(task.future)
        if result is None:
            return False
        self._short = _seconds(result.stats) < WORTH_SECONDS * self._threads * result.stats.blocks
        self._groups.pop(task.number, None)
        self.ready.append((task.number, result))
        if task.kind is Kind.WHOLE:
            for _ in self.graph.members(task.number):
                self._work.tick()
        return True

    def give(self, index: int, result: BlockResult) -> None:
        """Take in the result of a block that is known here."""
        self._groups[index // FAN].given[index] = result
        self._has_ended(index)

    def _has_ended(self, index: int) -> None:
        group = self._groups[index // FAN]
        if index in group.awaited:
            group.awaited.discard(index)
            self._work.tick()
        self._settle(index // FAN)

    def _settle(self, number: int) -> None:
        """Have a group folded once all its blocks have ended: where they are, if all are there."""
        group, members = self._groups[number], self.graph.members(number)
        if group.awaited:
            return
        if len(group.kept) == len(members):
            futures = [group.kept[i] for i in members]
            fold = self.graph.send_fold(self._client, self._program, number, futures, group.folds)
            group.folds += 1
            self._await(Task(Kind.FOLD, number, fold))
        else:
            self._fold_here(number)

    def _fold_here(self, number: int) -> None:
        """Fold a group of which some results are not with the workers."""
        group, members = self._groups[number], self.graph.members(number)
        for index, future in list(group.kept.items()):
            result = self._fetched(future)
            if result is None:
                self.redo(index)
            else:
                group.given[index] = result
                del group.kept[index]
        if not group.awaited:
            given, done = group.given, self._work.done
            results = (given[i] if i in given else done.result(i) for i in members)
            self.ready.append((number, reduce(self._work.combine, results)))
            del self._groups[number]

    def _fetched(self, future: Future[BlockResult]) -> BlockResult | None:
        """Return a result; None where it went with its worker."""
        try:
            result: BlockResult = future.result(timeout=FETCH_SECONDS)
        except (TimeoutError, KilledWorker):
            return None
        except CancelledError as error:
            raise cluster_gone() from error
        return result

    # -- what is lost -----------------------------------------------------------------------

    def blocks_of(self, task: Task) -> Iterable[int]:
        """Return the blocks that a task runs, and await each by itself from now on."""
        if task.kind is Kind.BLOCK:
            return [task.number]
        members = self.graph.members(task.number)
        if task.kind is Kind.WHOLE:
            self._groups[task.number] = _Group(set(members))
        return members

    def redo(self, index: int) -> None:
        """Await a block again of which the result is lost, and send it once more."""
        self.unkeep(index)
        self.prepare(index)
        self.again.append(index)

    def unkeep(self, index: int) -> None:
        """Await a block again whose result is lost; whoever asks for this sees to the block."""
        group = self._groups[index // FAN]
        group.kept.pop(index, None)
        group.awaited.add(index)

    def prepare(self, index: int) -> None:
        """Give the task of a block another key the next time."""
        self._attempts[index] = max(1, self._attempts[index])

    def refold(self, number: int) -> int:
        """Fold a group again whose fold is lost; return how often that was tried."""
        self._settle(number)
        return self._groups[number].folds if number in self._groups else 0

    def errors_in(self, number: int) -> Iterator[tuple[int, BaseException]]:
        """Yield the blocks of a group whose results were lost and could not be made again."""
        for index, future in list(self._groups[number].kept.items()):
            if future.status == "error":
                yield index, future.exception()

    def rescue(self, recall: Callable[[int], BlockResult | None]) -> None:
        """Take results that went with their worker from where they were noted, instead of again."""
        for number, group in list(self._groups.items()):
            for index, future in list(group.kept.items()):
                if future.status in ("lost", "pending"):
                    result = recall(index)
                    if result is not None:
                        del group.kept[index]
                        group.given[index] = result
            if group.folds and group.given:
                self._drop_fold(number)
                self._settle(number)

    def _drop_fold(self, number: int) -> None:
        for task in list(self._tasks.values()):
            if task.kind is Kind.FOLD and task.number == number:
                self.drop(task)

    def drop(self, task: Task) -> None:
        """Give up a task that is with the scheduler."""
        if self.taken(task.future) is not None:
            task.future.release()

    def running(self) -> Iterator[Task]:
        """Yield the tasks of blocks that are with the scheduler."""
        yield from [t for t in self._tasks.values() if t.kind is not Kind.FOLD]

    def task_of(self, index: int) -> Task | None:
        """Return the task that runs a block; None where there is none."""
        numbers = {Kind.BLOCK: index, Kind.WHOLE: index // FAN}
        return next((t for t in self.running() if t.number == numbers[t.kind]), None)

    def program_error(self) -> BaseException | None:
        """Return why workers could not load the program; None where they could."""
        return self._program.exception() if self._program.status == "error" else None

    def send_program_again(self) -> int:
        """Send the program once more; return how often that makes."""
        self._program = self.graph.send_program(self._client, self._programs)
        self._programs += 1
        return self._programs

    def cancel(self) -> None:
        """Take back whatever is still with the scheduler."""
        futures = [t.future for t in self._tasks.values()]
        futures += [f for g in self._groups.values() for f in g.kept.values()]
        if futures:
            self._client.cancel(futures)
        self._program.release()


def cluster_gone() -> StalledError:
    """Return the error of a run whose scheduler has gone, or was told to forget its tasks."""
    return StalledError(
        "the scheduler has gone, or was restarted, while the run waited for its tasks; nothing was "
        "published. See that it runs, then type the same command again: what is done is kept"
    )


def _seconds(stats: Stats) -> float:
    return stats.read_seconds + stats.compute_seconds + stats.write_seconds
