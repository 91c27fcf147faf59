"""The books of a run: which blocks are done, for what, and what they contributed.

A worker notes a block in the journal of its stage; the driver takes that over into the ledger,
and says now and then which rows survive a power cut. The next run of the same output, after
whatever ended this one, finds there what it need not do again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from lepton_pipe.errors import LeptonError
from lepton_pipe.ledger import IN_FLIGHT, JOURNAL, KNOWN, LEDGER
from lepton_pipe.ledger.keys import BlockKeys
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.ledger.packing import known_classes, unpack
from lepton_pipe.plan import Plan, Stage, Write
from lepton_pipe.run.published import Published
from lepton_pipe.run.stage_books import InMemory, StageBooks
from lepton_pipe.run.units import ArrayFiles, StageFiles, array_path
from lepton_pipe.store.durable import size_and_crc, sync_filesystem, sync_tree
from lepton_pipe.store.open import MARKER

ARRAYS = "arrays"
"""Fact of a ledger: for each stage the arrays that its units are of, none for what is not kept."""
RECORD = "record"
"""Fact of a ledger: the text of the record that was published."""
_DISTRUST = "distrust"
"""Fact of a ledger: whether a run met damage, so that the next one reads all that is kept."""

# Time that syncing may take of a run, and how soon it is done again at the earliest.
_SHARE_OF_SYNCING = 0.04
_SOONEST_SECONDS = 2.0


class Books:
    """What is known of the blocks of a run; kept in its staging folder.

    Parameters
    ----------
    staging
        The folder of what is not published yet.
    keys
        Gives the content keys of the plan's blocks.
    published
        The version of the output that is there, of which is taken over what is the same.

    Attributes
    ----------
    in_memory
        Gives size and sum of those of some files that are kept in memory instead; none at first.
    """

    def __init__(
        self, staging: Path, plan: Plan, keys: BlockKeys, published: Published | None = None
    ) -> None:
        self._staging, self._plan, self._keys = staging, plan, keys
        self.in_memory: InMemory = lambda _: {}
        self._published = published
        self._classes = known_classes(plan.spec)
        folder = staging / KNOWN
        folder.mkdir(mode=0o700, exist_ok=True)
        self.ledger = Ledger.open(folder / LEDGER)
        for stage in plan.stages:
            blocks, recipe = len(stage.blocks), keys.recipe(stage)
            self.ledger.begin_stage(stage.index, stage.name, blocks, recipe)
        self.ledger.end_stages(len(plan.stages))
        self._distrust = bool(self.ledger.get_fact(_DISTRUST, False))
        self.ledger.set_fact(IN_FLIGHT, True)
        self._stages: dict[int, StageBooks] = {}
        self._closed = False
        self._syncing = _Syncing(staging, self.ledger)

    def begin(self, stage: Stage, values: Mapping[str, Any]) -> StageBooks:
        """Open the books of a stage whose values are known, and see which blocks are done."""
        books = StageBooks(
            stage,
            self._keys.stage(stage, values),
            self.ledger,
            self._staging / KNOWN / JOURNAL / f"{stage.index:03d}",
            StageFiles.of(self._staging, self._plan, stage),
            lambda data: unpack(data, self._classes),
            lambda files: self.in_memory(files),
        )
        self._stages[stage.index] = books
        books.find_done(distrust=self._distrust)
        if self._published is not None:
            files = StageFiles.of(self._published.out, self._plan, stage)
            books.take_from(self._published, self._keys.recipe(stage), files)
        return books

    def of(self, stage: int) -> StageBooks:
        """Return the books of a stage that were opened, by its number."""
        return self._stages[stage]

    def tick(self, books: StageBooks) -> None:
        """Take over what workers noted since the last look, now and then."""
        if books.look():
            self._syncing.tick()

    def correct(self, stage: Stage, keys: Mapping[int, bytes]) -> None:
        """Note the keys of blocks, by number, that lack something: those that read them differ."""
        self._keys.correct(stage, keys)

    def note_files(self) -> None:
        """Note all files of the run that are no chunks: metadata, tables, values, the record.

        And where the chunks are that stages wrote, for who has the result and not the plan.
        """
        self.ledger.set_fact(_DISTRUST, False)
        self.ledger.set_fact(IN_FLIGHT, False)
        arrays = {s.index: [self._kept(w) for w in s.writes] for s in self._plan.stages}
        self.ledger.set_fact(ARRAYS, arrays)
        for file in self._no_chunks():
            name = file.relative_to(self._staging).as_posix()
            self.ledger.set_file(name, *size_and_crc(file))
        self.ledger.set_fact(RECORD, (self._staging / MARKER).read_text())

    def _no_chunks(self) -> Iterator[Path]:
        # The folders of chunks are not even looked into: there may be millions of files in them.
        arrays = self._plan.arrays.values()
        levels = ((a, level) for a in arrays for level in range(len(a.levels)))
        chunks = {array_path(self._staging, a, level) / "c" for a, level in levels}
        for folder, folders, names in os.walk(self._staging):
            here = Path(folder)
            folders[:] = [n for n in folders if here / n not in chunks and n != KNOWN]
            yield from (here / n for n in names)

    def _kept(self, write: Write) -> tuple[str | None, list[int]]:
        array = self._plan.arrays[write.array]
        if not array.output:
            return None, []
        path = array_path(self._staging, array, write.level)
        files = ArrayFiles.of(path, array.levels[write.level])
        return path.relative_to(self._staging).as_posix(), list(files.counts)

    def leave(self, *, damaged: bool) -> int:
        """Close the books of a run that ends early; return how many blocks are kept.

        Blocks that run still are not waited for: the next run finds their receipts.

        Parameters
        ----------
        damaged
            Whether it ends since something stored was found to be damaged: perhaps something that
            is kept here.
        """
        if self._closed:  # all were done, and it was published or nearly so
            if damaged:
                with Ledger.open(self.ledger.path) as ledger:
                    ledger.set_fact(_DISTRUST, True, durable=True)
            return self._plan.tasks
        try:
            if damaged:
                self.ledger.set_fact(_DISTRUST, True, durable=True)
            for books in self._stages.values():
                books.take_over()
            self.ledger.set_fact(IN_FLIGHT, False)
            return sum(self.ledger.counts(s.stage).recorded for s in self.ledger.stages())
        except (LeptonError, OSError):
            # What was recorded before stays; the run has failed for a reason that is told.
            return 1
        finally:
            with suppress(LeptonError, OSError):  # what is in its log yet is found there
                self.close()

    def close(self) -> None:
        """Close the ledger; it is a single file then."""
        self._closed = True
        self._syncing.stop()
        self.ledger.close()


class _Syncing:
    """Syncs the file system beside the run, and notes in the ledger what is durable then."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._folder, self._ledger = folder, ledger
        self._thread = ThreadPoolExecutor(1, "lepton-sync")
        self._running: tuple[int, Future[float]] | None = None
        self._next = time.monotonic() + _SOONEST_SECONDS

    def tick(self) -> None:
        """Begin to sync if it is time, and note what a sync that has ended made durable."""
        if self._running is not None:
            if self._running[1].done():
                self._note()
        elif time.monotonic() >= self._next:
            self._running = self._ledger.cut(), self._thread.submit(self._sync)

    def _sync(self) -> float:
        started = time.monotonic()
        if not sync_filesystem(self._folder):
            sync_tree(self._folder)
        return time.monotonic() - started

    def _note(self) -> None:
        assert self._running is not None
        (cut, future), self._running = self._running, None
        took = future.result()
        self._ledger.mark_durable(cut)
        self._next = time.monotonic() + max(_SOONEST_SECONDS, took / _SHARE_OF_SYNCING)

    def stop(self) -> None:
        """Wait for a sync that runs."""
        self._thread.shutdown()
