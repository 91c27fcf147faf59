"""The books of one stage: which of its blocks are done, and whether what they wrote is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.ledger.journal import Journal, Receipt, append
from lepton_pipe.ledger.ledger import Ledger, Row
from lepton_pipe.plan import Stage
from lepton_pipe.run.interrupts import raise_lost_interrupt
from lepton_pipe.run.published import Published
from lepton_pipe.run.units import StageFiles
from lepton_pipe.worker import BlockResult

# Receipts are taken over so often at most: each look opens the journal's files.
_LOOK_SECONDS = 0.1
# No key of a block: what carries it is done for this run alone.
_FOR_THIS_RUN = bytes(16)
_AT_ONCE = 1024

InMemory = Callable[[Sequence[str]], Mapping[str, tuple[int, int]]]
"""Gives size and sum of those of some files that are kept in memory instead."""


class StageBooks:
    """The blocks of one stage: a `lepton_pipe.run.executors.Done`.

    A block is done when its published files are there, and its partial. What it wrote to scratch
    may be gone nevertheless: that is looked at where a later block needs it, see `lacking`.
    """

    def __init__(
        self,
        stage: Stage,
        keys: NDArray[np.void],
        ledger: Ledger,
        folder: Path,
        files: StageFiles,
        unpacked: Callable[[bytes], Any],
        in_memory: InMemory,
    ) -> None:
        self.stage, self.keys, self.folder, self.files = stage, keys, folder, files
        self._ledger, self._unpacked, self._in_memory = ledger, unpacked, in_memory
        self._journal = Journal(folder, ledger.journal_read(stage.index))
        self._done = np.zeros(len(stage.blocks), bool)
        self._noted = np.zeros(len(stage.blocks), bool)
        # Whether files are known to be there as they were written, by array and block.
        self._sound = np.zeros((len(stage.writes), len(stage.blocks)), bool)
        self._distrust = False
        self._lost: set[int] = set()
        # Those that are known to have contributed nothing.
        self._silent = np.zeros(len(stage.blocks), bool)
        self._elsewhere: tuple[Published, StageFiles] | None = None
        self._looked = 0.0

    # -- what was done before ---------------------------------------------------------------

    def find_done(self, *, distrust: bool) -> None:
        """Find the blocks that were done for the keys they have now, and whose files are there.

        Files that a power cut may have taken are read and compared; of others the size is.

        Parameters
        ----------
        distrust
            Read and compare them all.
        """
        self.take_over()
        self._sound[:] = False
        self._distrust = distrust
        known = self._ledger.done(self.stage.index)
        same = known.same(self.keys)
        for row in self._ledger.rows(self.stage.index, skip_damaged=True):
            if not same[row.block]:
                continue
            lost = self.stage.contributes and row.place is None
            self._done[row.block] = not lost and self._holds(row, self.files.published)
            self._silent[row.block] = row.place is None
        self._note_published(self._done)
        # Before their files are overwritten: a kill must not leave rows of what is no longer there.
        stale = np.flatnonzero(known.known & ~self._done)
        if stale.size:
            self._ledger.forget(self.stage.index, stale.tolist())

    def take_from(self, published: Published, recipe: bytes, files: StageFiles) -> None:
        """Take over the blocks that were published for the keys they have now.

        Their published files are in both folders then, and their rows and partials in these books.

        Parameters
        ----------
        files
            The files of the stage in the version that is published.
        """
        taken = np.zeros_like(self._done)
        for number, found in enumerate(published.blocks(recipe, self.keys, ~self._done)):
            try:
                partial = published.partial(found)
            except DamagedError:
                continue
            lost = self.stage.contributes and partial is None
            if not lost and published.link(files, self.files, found.row):
                # A run that was stopped may have left some, of other keys.
                self.files.remove_scratch(found.row.units)
                receipt = Receipt(found.block, found.row.units, partial, self.key(found.block))
                append(self.folder, receipt)
                taken[found.block] = True
            if number % _AT_ONCE == 0:
                raise_lost_interrupt()
                self.take_over()
        self.take_over()
        self._sound[:, taken] = False
        self._done |= taken
        if published.elsewhere:
            self._elsewhere = published, files
        else:
            self._note_published(taken)

    def _note_published(self, blocks: NDArray[np.bool_]) -> None:
        for target in self.files.published:
            self._sound[target] |= blocks

    def _holds(
        self,
        row: Row,
        targets: Collection[int],
        *,
        whole: bool = False,
        held: Mapping[str, tuple[int, int]] | None = None,
    ) -> bool:
        whole = whole or self._distrust or not row.durable
        return self.files.hold(row.units, targets, whole=whole, held=held)

    def refresh(self) -> None:
        """Count as done what was done since the stage began."""
        self.take_over()
        self._done |= self._ledger.done(self.stage.index).same(self.keys)

    def missing(self) -> list[int]:
        """Return the blocks that are not done."""
        found: list[int] = np.flatnonzero(~self._done).tolist()
        return found

    # -- what blocks left -------------------------------------------------------------------

    def sound(self, targets: Sequence[int]) -> bool:
        """Tell whether all files in some arrays are known to be there as they were written."""
        return bool(self._sound[list(targets)].all())

    def lacking(
        self, blocks: Collection[int], targets: Sequence[int], *, whole: bool = False
    ) -> list[int]:
        """Return those of some blocks whose files in some arrays are not what they wrote.

        Parameters
        ----------
        whole
            Read all files and compare them; else those alone that a power cut may have taken, and
            none that was written in this run.
        """
        at = list(targets)
        doubtful = [b for b in blocks if whole or not self._sound[at, b].all()]
        lacking = set(doubtful)
        rows = self._ledger.rows(self.stage.index, doubtful, skip_damaged=True)
        while some := list(islice(rows, _AT_ONCE)):
            held = self._held(some) if whole else {}
            for row in some:
                if self._elsewhere is not None:
                    published, files = self._elsewhere
                    published.bring(files, self.files, row, at)
                if self._holds(row, at, whole=whole, held=held):
                    lacking.discard(row.block)
                    self._sound[at, row.block] = True
        return sorted(lacking)

    def within(self, room: int, blocks: Iterable[int], targets: Collection[int]) -> list[int]:
        """Return the first of some blocks, as many as have written so many bytes to some arrays."""
        found: list[int] = []
        for row in self._ledger.rows(self.stage.index, blocks, skip_damaged=True):
            room -= sum(unit.size for unit in row.units if unit.target in targets)
            if room < 0:
                break
            found.append(row.block)
        return found

    def _held(self, rows: Iterable[Row]) -> Mapping[str, tuple[int, int]]:
        """Return size and sum of files that blocks wrote and that are kept in memory instead."""
        names = [name for row in rows for name in self.files.names(row.units)]
        return self._in_memory(names) if names else {}

    def lost(self, block: int) -> bool:
        """Tell whether what a block contributed is lost, so that it has to be run again."""
        return block in self._lost

    def __contains__(self, index: object) -> bool:
        return bool(self._done[index])  # type: ignore[call-overload]

    def result(self, index: int) -> BlockResult:
        """Return what a block that is done contributed.

        Raises
        ------
        DamagedError
            When that cannot be read any more; the block is forgotten, so that it is run again.
        """
        if self._silent[index]:
            return BlockResult()
        (row,) = self._ledger.rows(self.stage.index, [index])
        if row.place is None:
            return BlockResult()
        try:
            return BlockResult.from_stored(self._unpacked(self._journal.partial(row.place, index)))
        except DamagedError as error:
            self._ledger.forget(self.stage.index, [index])
            self._done[index] = False
            self._lost.add(index)
            error.block = index
            raise

    def recall(self, index: int) -> BlockResult | None:
        """Return what a block noted that ended in this run and whose result was lost, if it did."""
        self.take_over()
        rows = list(self._ledger.rows(self.stage.index, [index]))
        # A block that lacks something has another key; what it lacks is not noted here.
        if not rows or rows[0].key != self.key(index) or (self.stage.reduces and not rows[0].place):
            return None
        whole = self._holds(rows[0], range(len(self.stage.writes)))
        return self.result(index) if whole else None

    @property
    def done(self) -> int:
        """How many blocks were done before the stage began."""
        return int(self._done.sum())

    def ended(self) -> NDArray[np.bool_]:
        """Return which blocks are done, before the stage began or since."""
        return self._done | self._noted

    def key(self, index: int) -> bytes:
        """Return the content key of a block."""
        key: bytes = self.keys[index].tobytes()
        return key

    # -- what is done now -------------------------------------------------------------------

    def look(self) -> bool:
        """Take over new receipts, if the last look is a while ago; tell whether it was."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        self.take_over()
        return True

    def take_over(self) -> None:
        """Take over the receipts that workers left since the last look."""
        entries = self._journal.new()
        if entries:
            known = [e for e in entries if e.block < len(self.keys)]
            rows = (Row(e.block, e.key or _FOR_THIS_RUN, e.units, e.place) for e in known)
            self._ledger.record(self.stage.index, rows, self._journal.read)
            blocks = [e.block for e in known]
            self._sound[:, blocks] = True
            self._noted[blocks] = True
            self._silent[blocks] = [e.place is None for e in known]

    def _recorded(self) -> int:
        """Return how many blocks are known to be done."""
        self.take_over()
        return self._ledger.counts(self.stage.index).recorded

    def refuse_missing(self, patience: float = 0.0) -> None:
        """Raise if a block of the stage is not known to be done: nothing unwritten is published.

        Parameters
        ----------
        patience
            Seconds to wait for those that are missing.

        Raises
        ------
        RunError
            When one is missing.
        """
        counted, deadline = self._recorded(), time.monotonic() + patience
        while counted != len(self.keys) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            counted = self._recorded()
        if counted != len(self.keys):
            raise RunError(
                f"stage {self.stage.name}: {counted} of {len(self.keys)} blocks are known to be "
                "written, and nothing was published: a missing block would read as zeros. Type "
                "the same command again"
            )
