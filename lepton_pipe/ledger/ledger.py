"""The ledger of a run: which blocks are done, for which keys, and how much of it is durable.

A row is *recorded* first, which survives the end of any process, and *durable* once what it speaks
of was synced to the disk and the ledger has noted so, which survives a power cut::

    record ... record   cut   record ...         the driver goes on recording
                         |      sync the files   meanwhile, perhaps in another thread
                         +----> mark_durable     rows before the cut are durable
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from lepton_pipe.errors import LeptonError
from lepton_pipe.ledger.database import open_readonly, open_writable
from lepton_pipe.ledger.rows import Done, Row, from_stored, to_stored
from lepton_pipe.ledger.tables import Tables, Values, as_json, damaged, sealed

__all__ = ["Counts", "Done", "Ledger", "Quarantined", "Row", "StageRecord"]

_ROWS = "SELECT block, key, units, journal, offset, length, attempts, epoch FROM blocks WHERE "
_RANGE = 1 << 12
_IN_RANGE = " FROM blocks WHERE stage=? AND block>=? AND block<?"
_KEYS = f"SELECT block, key, epoch{_IN_RANGE}"
_KEYS_OF_RANGE = f"SELECT count(*), min(epoch), max(epoch), group_concat(hex(key), ''){_IN_RANGE}"
"""Goes through the rows in the order of blocks; in another one keys would be those of no block."""
_ANY_GIVEN_UP = "SELECT 1 FROM quarantine WHERE stage=? LIMIT 1"
_NOT_GIVEN_UP = "DELETE FROM quarantine WHERE stage=? AND block=?"
_REMOVALS = (
    ("DELETE FROM blocks WHERE stage=?", "DELETE FROM blocks WHERE stage=? AND block=?"),
    ("DELETE FROM quarantine WHERE stage=?", _NOT_GIVEN_UP),
)
_ENDS = (
    "DELETE FROM stages WHERE stage>=?",
    "DELETE FROM blocks WHERE stage>=?",
    "DELETE FROM journals WHERE stage>=?",
    "DELETE FROM quarantine WHERE stage>=?",
)
_UNSOUND = (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)


class StageRecord(NamedTuple):
    """A stage of the plan that the ledger is of: number, name, number of blocks, recipe."""

    stage: int
    name: str
    blocks: int
    recipe: bytes


class Counts(NamedTuple):
    """How many blocks of a stage are recorded, and how many of these are durable."""

    recorded: int
    durable: int


class Quarantined(NamedTuple):
    """A block that was given up, and what is to be reported of it: plain JSON data."""

    stage: int
    block: int
    report: dict[str, Any]


class Ledger:
    """What is known to be done; an SQLite file of one writer, used by one thread.

    All methods raise `DamagedError` when they meet something that is not as it was stored, and
    `RunError` when the system refuses, as on a full disk; what was to be stored is not, then.
    """

    def __init__(self, tables: Tables, *, readonly: bool) -> None:
        self.path = tables.path
        self._tables = tables
        self._readonly = readonly
        self._closed = False
        self._epoch = 0

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False, foreign: bool = False) -> Ledger:
        """Open a ledger, made where there is none.

        Parameters
        ----------
        readonly
            Only read, and do not look through all of it for damage. Possible while a run writes,
            and where nothing can be written.
        foreign
            Whether the ledger that is read may be another user's.

        Raises
        ------
        RefusedError
            When it is another user's or of a later version, or there is none to read.
        DamagedError
            When it is damaged, or no ledger at all.
        RunError
            When the system refuses.
        """
        if readonly:
            return cls(Tables(path, open_readonly(path, foreign=foreign)), readonly=True)
        ledger = cls(Tables(path, open_writable(path)), readonly=False)
        try:
            ledger.cut()
        except LeptonError:
            ledger._tables.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger; one that was written is a single file then. May be called twice."""
        if not self._closed:
            self._closed = True
            if self._readonly:
                self._tables.close()
            else:
                self._tables.close_as_single_file()

    # -- facts ------------------------------------------------------------------------------

    def set_fact(self, name: str, value: Any, *, durable: bool = False) -> None:
        """Store plain JSON data under a name, in place of what was there."""
        with self._tables.writing(durable=durable):
            self._tables.put("facts", sealed(name, as_json(value)))

    def get_fact(self, name: str, default: Any = None) -> Any:
        """Return what was stored under a name."""
        rows = self._tables.sound("SELECT name, value, crc FROM facts WHERE name=?", name)
        return self._tables.from_json(rows[0][1]) if rows else default

    def facts(self) -> dict[str, Any]:
        """Return all that was stored by `set_fact`."""
        return {
            n: self._tables.from_json(v)
            for n, v in self._tables.sound("SELECT name, value, crc FROM facts")
        }

    # -- stages and blocks ------------------------------------------------------------------

    def begin_stage(self, stage: int, name: str, blocks: int, recipe: bytes) -> None:
        """Note a stage of the plan, in place of one of the same number.

        Rows of its blocks stay: their keys say whether they are of use. Those of blocks that the
        stage has not are dropped.
        """
        with self._tables.writing() as connection:
            self._tables.put("stages", sealed(stage, name, blocks, recipe))
            connection.execute("DELETE FROM blocks WHERE stage=? AND block>=?", (stage, blocks))

    def end_stages(self, count: int) -> None:
        """Forget all stages but the first `count`: the plan has no more."""
        with self._tables.writing() as connection:
            for removal in _ENDS:
                connection.execute(removal, (count,))

    def stages(self) -> list[StageRecord]:
        """Return the stages that were noted, in order."""
        query = "SELECT stage, name, blocks, recipe, crc FROM stages ORDER BY stage"
        return [StageRecord(*row) for row in self._tables.sound(query)]

    def record(
        self, stage: int, rows: Iterable[Row], read: Mapping[str, int] | None = None
    ) -> None:
        """Store rows, each in place of one of the same block. Pays off in batches of some 1000.

        Parameters
        ----------
        read
            How far the stage's journal was read to find them, see `Journal.read`.

        Raises
        ------
        ValueError
            When the stage was not begun, or has no such block.
        """
        rows = list(rows)
        self._refuse_beyond(stage, rows)
        names = {row.place.file for row in rows if row.place}
        with self._tables.writing() as connection:
            numbers = self._journal_numbers(stage, names, read or {})
            connection.executemany(
                f"INSERT OR REPLACE INTO blocks VALUES({int(stage)}, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    to_stored(stage, row, numbers[row.place.file] if row.place else 0, self._epoch)
                    for row in rows
                ),
            )
            if connection.execute(_ANY_GIVEN_UP, (stage,)).fetchall():
                connection.executemany(_NOT_GIVEN_UP, ((stage, row.block) for row in rows))

    def _refuse_beyond(self, stage: int, rows: Iterable[Row]) -> None:
        blocks = self._blocks_of(stage)
        for row in rows:
            if not 0 <= row.block < blocks:
                raise ValueError(f"stage {stage} has {blocks} blocks and no block {row.block}")

    def cut(self) -> int:
        """Return a number for `mark_durable` that stands for all rows recorded so far."""
        with self._tables.writing():
            _, epoch, durable = self._marks()
            self._tables.put("marks", sealed(1, epoch + 1, durable))
        self._epoch = epoch + 1
        return int(epoch)

    def mark_durable(self, upto: int | None = None) -> None:
        """Note that what rows speak of, and the journal, survive a power cut.

        The caller has synced the file system that holds them. When this returns the note survives
        a power cut too.

        Parameters
        ----------
        upto
            What `cut` returned before the caller began to sync; None when nothing was recorded
            since then.
        """
        upto = self.cut() if upto is None else upto
        with self._tables.writing(durable=True):
            _, epoch, durable = self._marks()
            self._tables.put("marks", sealed(1, epoch, max(durable, upto)))
        self._tables.checkpoint()

    def rows(
        self, stage: int, blocks: Iterable[int] | None = None, *, skip_damaged: bool = False
    ) -> Iterator[Row]:
        """Yield what is known of the blocks of a stage that are done, in order.

        Parameters
        ----------
        blocks
            These alone, in the order given.
        skip_damaged
            Pass over rows that do not match their checksum: run their blocks again.
        """
        _, _, durable = self._marks()
        journals = {n: name for n, name, _ in self._journals(stage)}
        for stored in self._stored(stage, blocks):
            try:
                row = from_stored(stage, stored, journals, durable)
            except _UNSOUND as error:
                if not skip_damaged:
                    raise damaged(self.path, error) from error
            else:
                yield row

    def done(self, stage: int) -> Done:
        """Return the keys of all blocks of a stage that are done, in little memory.

        Checksums of rows are not looked at: a damaged key is the key of no block. What `rows`
        gives is checked.
        """
        _, _, durable = self._marks()
        blocks = self._blocks_of(stage)
        done = Done.nothing(blocks)
        try:
            for start in range(0, blocks, _RANGE):
                self._load(done, stage, slice(start, min(start + _RANGE, blocks)), durable)
        except _UNSOUND as error:
            raise damaged(self.path, error) from error
        return done

    def _load(self, done: Done, stage: int, blocks: slice, durable: int) -> None:
        """Load a range of blocks, in one piece where all of them are done: twice as fast."""
        values = stage, blocks.start, blocks.stop
        (found,) = self._tables.fetch(_KEYS_OF_RANGE, *values)
        count, first, last, keys = found
        if count == blocks.stop - blocks.start and (last <= durable or first > durable):
            done.note_range(blocks, keys, durable=last <= durable)
        elif count:
            done.note(self._tables.fetch(_KEYS, *values), durable)

    def counts(self, stage: int) -> Counts:
        """Return how many blocks of a stage are done. Reads all rows: 0.1 s for a million."""
        _, _, durable = self._marks()
        query = "SELECT count(*), coalesce(sum(epoch<=?), 0) FROM blocks WHERE stage=?"
        (found,) = self._tables.fetch(query, durable, stage)
        return Counts(*found)

    def journal_read(self, stage: int) -> dict[str, int]:
        """Return how far the files of a stage's journal were read, for `Journal`."""
        return {name: read for _, name, read in self._journals(stage)}

    def forget(self, stage: int, blocks: Iterable[int] | None = None) -> None:
        """Remove rows, all of a stage or those of some blocks, and what says they were given up.

        When this returns that survives a power cut: now the blocks' files may be overwritten.
        """
        with self._tables.writing(durable=True) as connection:
            if blocks is None:
                for of_stage, _ in _REMOVALS:
                    connection.execute(of_stage, (stage,))
            else:
                these = [(stage, int(block)) for block in blocks]
                for _, of_block in _REMOVALS:
                    connection.executemany(of_block, these)

    # -- what was given up, and other files -------------------------------------------------

    def quarantine(self, stage: int, block: int, report: Mapping[str, Any]) -> None:
        """Note that a block was given up; `report` is plain JSON data."""
        with self._tables.writing():
            self._tables.put("quarantine", sealed(stage, block, as_json(dict(report))))

    def quarantined(self) -> list[Quarantined]:
        """Return the blocks that were given up, in order."""
        query = "SELECT stage, block, report, crc FROM quarantine ORDER BY stage, block"
        return [
            Quarantined(s, b, self._tables.from_json(text))
            for s, b, text in self._tables.sound(query)
        ]

    def set_file(self, name: str, size: int, crc: int) -> None:
        """Note a published file that is no chunk (metadata, a table): its bytes and crc32c."""
        with self._tables.writing():
            self._tables.put("files", sealed(name, size, crc))

    def files(self) -> dict[str, tuple[int, int]]:
        """Return bytes and crc32c of the files that were noted."""
        rows = self._tables.sound("SELECT name, size, sum, crc FROM files ORDER BY name")
        return {name: (size, crc) for name, size, crc in rows}

    def _stored(self, stage: int, blocks: Iterable[int] | None) -> Iterator[Values]:
        if blocks is None:
            for rows in self._tables.parts(_ROWS + "stage=? ORDER BY block", stage):
                yield from rows
        else:
            for block in blocks:
                yield from self._tables.fetch(_ROWS + "stage=? AND block=?", stage, int(block))

    def _marks(self) -> Values:
        rows = self._tables.sound("SELECT id, epoch, durable, crc FROM marks")
        if len(rows) != 1:
            raise damaged(self.path, "its marks are gone")
        return rows[0]

    def _blocks_of(self, stage: int) -> int:
        for found in self.stages():
            if found.stage == stage:
                return found.blocks
        raise ValueError(f"stage {stage} was not begun")

    def _journals(self, stage: int) -> list[Values]:
        query = "SELECT id, stage, name, read, crc FROM journals WHERE stage=?"
        return [(number, name, read) for number, _, name, read in self._tables.sound(query, stage)]

    def _journal_numbers(
        self, stage: int, names: set[str], read: Mapping[str, int]
    ) -> dict[str, int]:
        known = {name: (number, at) for number, name, at in self._journals(stage)}
        (top,) = self._tables.fetch("SELECT coalesce(max(id), 0) FROM journals")
        following = int(top[0]) + 1
        for name in sorted(names | read.keys()):
            number, at = known.get(name, (following, 0))
            following += number == following
            if name not in known or read.get(name, at) != at:
                at = read.get(name, at)
                self._tables.put("journals", sealed(number, stage, name, at))
            known[name] = number, at
        return {name: number for name, (number, _) in known.items()}
