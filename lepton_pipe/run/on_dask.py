"""Run a stage on a Dask cluster: a bounded number of tasks at once, folded where they ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Client

from lepton_pipe.graph import StageGraph
from lepton_pipe.merge.fold import TreeFold
from lepton_pipe.run.control import Control, News
from lepton_pipe.run.executors import Work
from lepton_pipe.run.flight import Flight
from lepton_pipe.run.suspects import Suspects
from lepton_pipe.run.watch import STALL_SECONDS, Watch
from lepton_pipe.run.workers import Workers
from lepton_pipe.store.held import sums
from lepton_pipe.worker import BlockResult

# For so long a network file system may not see the files that another machine has made.
_NOTED_SECONDS = 60.0


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
    notes
        Folder of this run in which workers note what they run, so that a block that ends its
        worker can be told from those beside it.
    stall
        Seconds for which nothing may move; `STALL_SECONDS` by default.
    neighbours
        Folder by which workers share what they keep, where they are on one machine.
    elsewhere
        Whether workers may be on other machines.
    """

    def __init__(
        self,
        client: Client,
        threads: int,
        token: str,
        notes: Path | None = None,
        stall: float | None = None,
        neighbours: Path | None = None,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._client = client
        self._threads = threads
        self._token = token
        self._notes = notes
        self._neighbours = neighbours
        self._elsewhere = elsewhere
        self._stall = STALL_SECONDS if stall is None else stall

    @property
    def patience(self) -> float:
        """Seconds until all that blocks have noted is seen here."""
        return _NOTED_SECONDS if self._elsewhere else 0.0

    def held(self, files: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Return size and sum of those of some files that a worker keeps in memory instead."""
        answers: Iterable[Any] = self._client.run(sums, list(files), on_error="ignore").values()
        return {file: found for answer in answers for file, found in answer.items()}

    def run(self, work: Work) -> BlockResult:
        """Run the blocks that are not done, and return the fold of all.

        Raises
        ------
        RunError
            When a block failed for good, and nothing takes its place; everything else is
            cancelled.
        StalledError
            When nothing moved any more; says what was waited for.
        """
        program = replace(
            work.program,
            notes=self._notes,
            neighbours=self._neighbours,
            elsewhere=self._elsewhere,
        )
        work = replace(work, program=program)
        graph = StageGraph.of(work.program, work.parts, self._token)
        fold = TreeFold(work.combine, graph.groups)
        flight = Flight(self._client, graph, work, self._threads)
        watch = Watch(Workers(self._client), self._notes, self._stall)
        control = Control(flight, work, Suspects(self._notes), watch)
        with News(self._client, flight):
            try:
                for group, result in control:
                    fold.add(group, result)
            finally:
                flight.cancel()
        return fold.result()
