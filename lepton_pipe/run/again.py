"""Run blocks once more whose results on the way are gone, or damaged, and are needed.

What stages store for later ones lies in scratch, which is gone once a run was published, and may be
lost or damaged while it runs. The blocks that wrote it can write it again::

    stage 1   o o x x o      x  run again: what a block of stage 2 reads of them is not there
                 \\ |
    stage 2   o o o x o      x  to be run
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from lepton_pipe.errors import DamagedError
from lepton_pipe.ledger.keys_reads import Producer, Producers
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.run.books import Books
from lepton_pipe.run.executors import Work
from lepton_pipe.worker import BlockResult, Combine

MOST_TIMES = 3
"""How often a block is helped at most, while no other ends."""
# From so many damaged files of a stage on, all that is still to be read is looked through.
_SUSPICIOUS = 3


class Stored:
    """What the blocks of a stage read of arrays that earlier stages wrote.

    Attributes
    ----------
    targets
        Which arrays, among those that a stage writes, by the number of the stage.
    """

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan, self._stage = plan, stage
        found: dict[int, set[int]] = defaultdict(set)
        for read in stage.reads:
            if read.array is not None:
                writer, wanted = Producer.of(plan, read).stage, (read.array, read.level)
                found[writer.index] |= {
                    n for n, w in enumerate(writer.writes) if (w.array, w.level) == wanted
                }
        self.targets = {index: sorted(numbers) for index, numbers in found.items()}

    def written_by(self, blocks: Iterable[int]) -> dict[int, set[int]]:
        """Return the blocks that wrote what some blocks read, by the number of their stage."""
        producers = Producers(self._plan, self._stage)
        found: dict[int, set[int]] = defaultdict(set)
        for block in blocks:
            for index, numbers in producers.of(block).items():
                found[index].update(numbers)
        return found


class Execute(Protocol):
    """Runs blocks of a stage: those that are not done, or some that are."""

    def __call__(self, stage: Stage, only: Collection[int] | None) -> BlockResult:
        """Run them, and return the fold."""
        ...


class OnlyThese:
    """Has some blocks run that are done: a `lepton_pipe.run.executors.Done`."""

    def __init__(self, blocks: Collection[int]) -> None:
        self._blocks = frozenset(blocks)

    def __contains__(self, index: object) -> bool:
        return index not in self._blocks

    def result(self, index: int) -> BlockResult:  # noqa: ARG002
        """Return nothing: what blocks contribute is known."""
        return BlockResult()

    def recall(self, index: int) -> BlockResult | None:  # noqa: ARG002
        """Return None: what is noted is what they wrote before."""
        return None


@dataclass(frozen=True)
class WorkAgain(Work):
    """Blocks that are run for what they write alone."""

    @property
    def combine(self) -> Combine:
        """What adds their measurements."""
        return Combine(self.program.spec, ())


class Again:
    """Runs the blocks of stages, those before them that have to be run again first.

    Parameters
    ----------
    books
        Those of the stages that were begun.
    execute
        Runs blocks.
    """

    def __init__(self, plan: Plan, books: Books, execute: Execute) -> None:
        self._plan, self._books, self._execute = plan, books, execute
        self._met: Counter[int] = Counter()

    def run(self, stage: Stage) -> BlockResult:
        """Run the blocks of a stage that are not done, and return the fold of all.

        Raises
        ------
        DamagedError
            When something stored is damaged that is none of ours, or is so again and again.
        """
        stored = Stored(self._plan, stage)
        if not all(self._books.of(i).sound(t) for i, t in stored.targets.items()):
            self._provide(stage, self._books.of(stage.index).missing())
        return self._run(stage, None)

    def _run(self, stage: Stage, only: Collection[int] | None) -> BlockResult:
        books = self._books.of(stage.index)
        times: Counter[int] = Counter()
        done = 0
        while True:
            try:
                return self._execute(stage, only)
            except DamagedError as error:
                if error.block is None:
                    raise
                books.refresh()
                if books.done > done:  # it gets on, a few blocks at a time
                    done = books.done
                    times.clear()
                times[error.block] += 1
                if times[error.block] > MOST_TIMES:
                    raise _hopeless(stage, error) from error
                if not self._mend(stage, only, error.block, error):
                    raise

    def _mend(
        self, stage: Stage, only: Collection[int] | None, block: int, error: DamagedError
    ) -> bool:
        """Have what a block met made anew; tell whether there was something to be."""
        books = self._books.of(stage.index)
        self._met[stage.index] += 1
        made = self._provide(stage, [block], error)
        if self._met[stage.index] >= _SUSPICIOUS:
            others = books.missing() if only is None else only
            made += self._provide(stage, [b for b in others if b != block], error)
        return made > 0 or books.lost(block)

    def _provide(
        self, stage: Stage, blocks: Collection[int], error: DamagedError | None = None
    ) -> int:
        """Have what blocks read of earlier stages there; return how many blocks that took.

        Where it is kept in memory alone, no more than there is room for is made at a time: else
        what was made first would have to go for what is made last.

        Parameters
        ----------
        error
            What one of them met: then all that they read is compared with what was written.
        """
        stored, number = Stored(self._plan, stage), 0
        for index, numbers in sorted(stored.written_by(blocks).items()):
            books, targets = self._books.of(index), stored.targets[index]
            lacking = books.lacking(numbers, targets, whole=error is not None)
            if error is not None and len(blocks) > 1 and _in_memory(self._plan, index, targets):
                lacking = books.within(stage.held_bytes // 2, lacking, targets)
            if lacking:
                earlier = self._plan.stages[index]
                self._provide(earlier, lacking)
                self._run(earlier, lacking)
                number += len(lacking)
        return number


def _in_memory(plan: Plan, stage: int, targets: Iterable[int]) -> bool:
    """Tell whether something of what a stage writes is kept in memory alone."""
    writes = plan.stages[stage].writes
    return any(plan.arrays[writes[t].array].place == "memory" for t in targets)


def _hopeless(stage: Stage, error: DamagedError) -> DamagedError:
    return DamagedError(
        f"what block {error.block} of {stage.name} reads or contributes is damaged or gone again "
        f"and again, {MOST_TIMES} times by now; nothing was published: look at the disk, then type "
        "the same command again"
    )
