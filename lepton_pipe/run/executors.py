"""The two ways to run a stage: in this process, or on Dask. Both give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from lepton_pipe.errors import LeptonError, RunError, StalledError
from lepton_pipe.graph import StageGraph
from lepton_pipe.merge.fold import TreeFold
from lepton_pipe.worker import BlockResult, Combine, Program, run_block

# Blocks that wait for each thread, so that none idles while the driver is asked for more.
QUEUED_PER_THREAD = 4
# How often to look for workers while no block ends, and how long to go on without any.
LOOK_SECONDS = 10
NO_WORKERS_SECONDS = 120

Parts = Callable[[int], Mapping[str, Any]]
Tick = Callable[[], None]


class Executor(Protocol):
    """Runs all blocks of a stage and folds what they return."""

    def run(self, program: Program, parts: Parts, tick: Tick) -> BlockResult:
        """Run the stage; `tick` is called as each block ends."""
        ...


class SerialExecutor:
    """Runs block after block in this process: the simplest way to read a plan."""

    def run(self, program: Program, parts: Parts, tick: Tick) -> BlockResult:
        """Run the stage; `tick` is called as each block ends."""
        stage = program.stage
        fold = TreeFold(Combine(program.spec, stage.reduces), len(stage.blocks))
        for index in range(len(stage.blocks)):
            fold.add(index, run_block(program, index, parts(index)))
            tick()
        return fold.result()


class DaskExecutor:
    """Runs blocks on a Dask cluster, a bounded number at once.

    Parameters
    ----------
    client
        Connected to a scheduler.
    threads
        Blocks that the cluster computes at once.
    token
        Names this run in the keys of its tasks.
    """

    def __init__(self, client: Client, threads: int, token: str) -> None:
        self._client = client
        self._threads = threads
        self._token = token

    def run(self, program: Program, parts: Parts, tick: Tick) -> BlockResult:
        """Run the stage; `tick` is called as each block ends.

        Raises
        ------
        RunError
            When a block failed, or kept losing its worker; everything else is cancelled.
        """
        graph = StageGraph.of(program, parts, self._token)
        fold = TreeFold(Combine(program.spec, program.stage.reduces), graph.groups)
        flight = _Flight(self._client, graph, self._limit(program.stage.slots), tick)
        try:
            for group, result in flight:
                fold.add(group, result)
        finally:
            flight.cancel()
        return fold.result()

    def _limit(self, slots: int) -> int:
        """Return how many blocks to have in flight.

        Where memory allows fewer blocks at once than there are threads, no more than that; else
        enough that a thread never waits for the driver.
        """
        return slots if slots < self._threads else QUEUED_PER_THREAD * slots


class _Flight:
    """The blocks that are with the scheduler; ten million never stand there at once."""

    def __init__(self, client: Client, graph: StageGraph, limit: int, tick: Tick) -> None:
        self._client, self._graph, self._tick, self._limit = client, graph, tick, limit
        self._next = 0
        self._running = 0
        self._futures: dict[Any, Future[Any]] = {}  # held until the fold that needs them has ended
        self._folds: dict[Any, int] = {}
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()

    def __iter__(self) -> Iterator[tuple[int, BlockResult]]:
        """Yield each group's number and fold as it ends."""
        self._submit()
        while self._futures:
            future = self._next_done()
            self._raise_if_failed(future)
            if future.key in self._folds:
                yield self._end_group(future)
            else:
                self._running -= 1
                self._tick()
            self._submit()

    def _next_done(self) -> Future[Any]:
        """Return the next task that has ended; no block may take for ever without a worker."""
        alone = 0
        while alone < NO_WORKERS_SECONDS:
            try:
                return self._done.get(timeout=LOOK_SECONDS)
            except Empty:
                alone = 0 if self._client.nthreads() else alone + LOOK_SECONDS
        raise StalledError(
            f"the cluster has had no workers for {alone} s, and {self._running} blocks wait for "
            "one; nothing was published. Start workers, then run again"
        )

    def _submit(self) -> None:
        free = min(self._limit - self._running, self._graph.blocks - self._next)
        if free <= 0:
            return
        indices = range(self._next, self._next + free)
        self._next, self._running = self._next + free, self._running + free
        folds = {self._graph.fold_key(g): g for g in self._graph.folds(indices)}
        keys = [*map(self._graph.block_key, indices), *folds]
        futures = self._client.get(self._graph.graph(indices, self._futures), keys, sync=False)
        self._folds.update(folds)
        self._futures.update(zip(keys, futures, strict=True))
        for future in futures:
            future.add_done_callback(self._done.put)

    def _end_group(self, future: Future[Any]) -> tuple[int, BlockResult]:
        group = self._folds.pop(future.key)
        result: BlockResult = future.result()
        for key in [*map(self._graph.block_key, self._graph.members(group)), future.key]:
            del self._futures[key]
        return group, result

    def _raise_if_failed(self, future: Future[Any]) -> None:
        if future.status == "error":
            error = future.exception()
            raise error if isinstance(error, LeptonError) else RunError(_explain(error)) from error
        if future.status != "finished":
            raise RunError(
                f"task {future.key} is {future.status}: the cluster was closed or restarted during "
                "the run; nothing was published, run again"
            )

    def cancel(self) -> None:
        """Take back whatever is still with the scheduler."""
        if self._futures:
            self._client.cancel(list(self._futures.values()))


def _explain(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return (
            f"block {error.task} lost its worker {error.last_worker.address} again and again: most "
            "likely it ran out of memory or a kernel ends its process; nothing was published. Give "
            "the run more --memory or fewer --threads, or look at the kernel"
        )
    return f"a task failed: {type(error).__name__}: {error}"
