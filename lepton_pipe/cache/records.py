"""Packed chunks that one stage leaves in memory for a later one, and on disk where memory ends.

::

    put --> memory (packed) --> disk         a record that is read farthest from now goes first
            ^  within a budget   each in its file, written whole
            |
    get ----+-- not here: in the memory of another process of the run, or its file is read by
                whoever asked

What is kept is a hint: a record that is lost makes its reader fail as one whose file is damaged
does, and the blocks that made it are run again. Records carry their own checksum, which is checked
by whoever unpacks them.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Sequence
from itertools import count
from math import ceil, inf
from pathlib import Path

from lepton_pipe.cache.counts import Counter, Tier
from lepton_pipe.cache.record import OVERHEAD_BYTES, Files, Pieces, Record
from lepton_pipe.cache.shelf import Shelf
from lepton_pipe.cache.uses import Held, Prefix

# Share of the budget beyond which records are spilled in the background, so that there is room.
_HIGH = 0.875
# How long a file is waited for that is being written.
_STOP_SECONDS = 10
_NEVER = (inf, inf)


def room_for(records: int, nbytes: int) -> int:
    """Return the budget, in bytes, of which so many records of so many bytes fill so little.

    None of them is spilled then, not even ahead of time.
    """
    return ceil((nbytes + records * OVERHEAD_BYTES) / _HIGH)


When = tuple[float, float]
"""A stage and a block in it, by their numbers."""


class RecordStore:
    """Records in memory within a budget; safe to share between threads.

    Bytes in memory never exceed the budget, those on their way to the disk among them. Where the
    disk refuses, a record stays in memory as long as there is room, and is dropped after that.

    Parameters
    ----------
    files
        The tier below.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._held = Held("", 0, 0)
        self._shelf: Shelf | None = None
        self._bytes = 0
        self._serials = count(1)
        self._ended = Prefix()
        # Records by when they are read next, the farthest first; what is out of date is put right
        # when it comes to the top.
        self._farthest: list[tuple[tuple[float, ...], int, str]] = []
        self._dying: list[tuple[int, str]] = []
        self._spiller: threading.Thread | None = None
        self._refused = False
        self._memory, self._disk = Counter(), Counter()

    # -- what is kept -----------------------------------------------------------------------

    def join(self, folder: Path | None) -> None:
        """Put records from now on where other processes find them, by a folder of theirs; or not.

        What they keep is found here as well.
        """
        shelf = self._shelf
        if folder != (shelf and shelf.folder):  # asked for each block
            self._shelf = Shelf(folder) if folder is not None else None

    def retain(self, held: Held) -> None:
        """Keep from now on what a stage says, and drop what else there is of its run."""
        with self._lock:
            before, self._held = self._held, held
            same_stage = (held.run, held.stage) == (before.run, before.stage)
            if same_stage and held.budget == before.budget:  # asked for each block
                return
            if not same_stage:
                self._begin_stage()
        while self._spill_one(held.budget):
            pass

    def _begin_stage(self) -> None:
        held = self._held
        self._ended, self._refused = Prefix(), False
        self._farthest, self._dying = [], []
        for record in list(self._records.values()):
            if record.file.startswith(held.run) and record.group not in held.uses:
                self._forget(record)
            else:
                self._enlist(record)

    def ended(self, stage: int, block: int) -> None:
        """Note that a block has ended, and free what no block reads that is still to come."""
        over = []
        with self._lock:
            if stage != self._held.stage:
                return
            self._ended.add(block)
            while self._dying and self._dying[0][0] < self._ended.length:
                _, file = heapq.heappop(self._dying)
                record = self._records.get(file)
                if record is not None:
                    self._free(record)
                    over += [file] if record.on_disk and not record.stored else []
        for file in over:
            self._files.remove(file)

    def clear(self, run: str = "") -> None:
        """Drop what a run has kept; return when nothing of it is being written."""
        with self._lock:
            for record in list(self._records.values()):
                if record.file.startswith(run):
                    self._forget(record)
            self._held = Held("", 0, 0)
            spiller = self._spiller
        if spiller is not None:
            spiller.join(_STOP_SECONDS)

    # -- records ----------------------------------------------------------------------------

    def put(
        self, file: str, group: str, place: Sequence[int], pieces: Pieces, *, on_disk: bool = False
    ) -> None:
        """Keep a record; never fails, but may keep nothing.

        Parameters
        ----------
        file
            Where it lies once it is on disk; also its name.
        group, place
            The array, and the chunk's position in it.
        on_disk
            Whether its file is written already.
        """
        with self._lock:
            if (old := self._records.get(file)) is not None:
                self._forget(old)
            shelf = self._shelf
            record = Record(file, group, place, pieces, next(self._serials))
            record.on_disk = record.stored = on_disk
            self._records[file] = record
        if shelf is not None:
            shelf.withdraw(file)  # it may be damaged
        if not on_disk:
            self._files.remove(file)  # of a run before, perhaps with other parameters
        if self._make_room(record) and self._shelve(record, pieces):
            with self._lock:
                self._enlist(record)
            self._spill_ahead()
        else:
            self._move(record, must=True)
            with self._lock:
                self._enlist(record)

    def get(self, file: str) -> bytes | None:
        """Return a record that is in memory, of this process or of another; None where none is."""
        with self._lock:
            record, shelf = self._records.get(file), self._shelf
            if record is not None:
                record.seen = next(self._serials)
        if record is None and shelf is None:
            return None
        pieces = None if record is None else self.pieces(file)
        found = None if pieces is None else b"".join(pieces)
        if shelf is not None and (pieces is None or record is None or record.pieces is not pieces):
            found = shelf.find(file)  # not here, or freed while it was copied
        self._memory.add(hits=found is not None, misses=found is None)
        return found

    def stamp(self, file: str) -> tuple[int, ...] | None:
        """Return what changes when a record does, wherever it lies; None for one not known."""
        with self._lock:
            record, shelf = self._records.get(file), self._shelf
        found = None if shelf is None else shelf.stamp(file)
        return found or (None if record is None else record.stamp)

    def pieces(self, file: str) -> Pieces | None:
        """Return the pieces of a record of this process, without counting that as a use.

        One that another process has made again since is none.
        """
        with self._lock:
            record = self._records.get(file)
            pieces, entry = (None, None) if record is None else (record.pieces, record.entry)
        return pieces if entry is None or entry.is_current else None

    def restored(self, file: str, seconds: float) -> None:
        """Note that the file of a record was read; of others nothing is noted."""
        with self._lock:
            known = file in self._records
        if known:
            self._memory.add(restores=1)
            self._disk.add(hits=1, seconds=seconds)

    def packed(self, raw_bytes: int, pieces: Pieces) -> None:
        """Note how much smaller packing made a record."""
        self._memory.add(put=1, raw_bytes=raw_bytes, nbytes=sum(map(len, pieces)))

    def take(self) -> dict[str, Tier]:
        """Return what memory and disk have done since the last time."""
        return {"packed": self._memory.take(), "disk": self._disk.take()}

    def reserve(self, nbytes: int) -> bool:
        """Take bytes of the budget for something else, for which records make room; or refuse."""
        while True:
            with self._lock:
                if self._bytes + nbytes <= self._held.budget:
                    self._bytes += nbytes
                    return True
                enough = nbytes <= self._held.budget
                victim = self._pop_farthest() if enough else None
            if victim is None:
                return False
            self._move(victim, must=True)

    def release(self, nbytes: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            self._bytes -= nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes in memory, those on their way to the disk among them."""
        with self._lock:
            return self._bytes

    # -- making room ------------------------------------------------------------------------

    def _make_room(self, record: Record) -> bool:
        """Count a record in, once those read later than it have made room; False if none are."""
        while True:
            with self._lock:
                if self._bytes + record.size <= self._held.budget:
                    self._bytes += record.size
                    record.counted = True
                    return True
                victim = self._pop_farthest(than=self._rank(record))
            if victim is None:
                return False
            self._move(victim, must=True)

    def _shelve(self, record: Record, pieces: Pieces) -> bool:
        """Put a record where other processes find it, if there are any; False if that fails."""
        entry = self._shelf.put(record.file, pieces) if self._shelf is not None else None
        if entry is None:
            return self._shelf is None
        with self._lock:
            current = record.pieces is not None
            if current:
                record.pieces, record.entry, record.stamp = (entry.view,), entry, entry.stamp
        if not current:  # something took its place
            entry.free()
        return True

    def _spill_ahead(self) -> None:
        """Begin to spill in the background where room is short."""
        with self._lock:
            if self._bytes <= _HIGH * self._held.budget or self._refused:
                return
            if self._spiller is None or not self._spiller.is_alive():
                self._spiller = threading.Thread(
                    target=self._spill_in_background, name="lepton-spill", daemon=True
                )
                self._spiller.start()

    def _spill_in_background(self) -> None:
        while self._spill_one(_HIGH * self._held.budget, must=False):
            pass

    def _spill_one(self, most: float, *, must: bool = True) -> bool:
        """Spill the record that is read last, where more than `most` bytes are held."""
        with self._lock:
            victim = self._pop_farthest() if self._bytes > most else None
        return victim is not None and self._move(victim, must=must)

    def _pop_farthest(self, than: tuple[float, ...] | None = None) -> Record | None:
        """Return the record that is read last, if that is later than something else."""
        while self._farthest:
            noted, serial, file = self._farthest[0]
            record = self._records.get(file)
            if record is None or record.serial != serial or record.pieces is None or record.moving:
                heapq.heappop(self._farthest)
                continue
            rank = _reversed(self._rank(record))
            if rank != noted:
                heapq.heapreplace(self._farthest, (rank, serial, file))
                continue
            if than is not None and rank >= _reversed(than):
                return None
            heapq.heappop(self._farthest)
            record.moving = True
            return record
        return None

    def _move(self, record: Record, *, must: bool) -> bool:
        """Move a record to the disk; where that refuses it is dropped if it must leave memory.

        Returns
        -------
        bool
            Whether it has left memory.
        """
        # What another process has made again since must not be overwritten.
        stale = record.entry is not None and not record.entry.is_current
        spilled = record.on_disk or (not stale and self._write(record))
        if must and not (spilled or stale):
            self._files.remove(record.file)  # nothing older may pass for it
        with self._lock:
            record.moving, record.on_disk, self._refused = False, spilled, not (spilled or stale)
            known = self._records.get(record.file) is record
            stays = known and not (spilled or must or stale)
            if stays:
                self._enlist(record)
            else:
                self._free(record)
        self._memory.add(spills=spilled, dropped=not (spilled or stale or stays))
        return not stays

    def _write(self, record: Record) -> bool:
        pieces, started = record.pieces, time.perf_counter()
        if pieces is None:
            return False
        try:
            self._files.write(record.file, record.group, pieces)
        except OSError:
            return False
        seconds, size = time.perf_counter() - started, sum(map(len, pieces))
        self._disk.add(put=1, nbytes=size, raw_bytes=size, seconds=seconds)
        return True

    def _forget(self, record: Record) -> None:
        self._records.pop(record.file, None)
        self._free(record)

    def _free(self, record: Record) -> None:
        """Give up the bytes of a record; one that is being written gives them up after that."""
        if not record.moving:
            self._bytes -= record.size if record.counted else 0
            entry, record.entry = record.entry, None
            record.counted, record.pieces = False, None
            if entry is not None:
                entry.free()

    # -- when it is read --------------------------------------------------------------------

    def _enlist(self, record: Record) -> None:
        """Put a record among those that can be spilled, and freed after their last use."""
        if record.pieces is not None:
            rank = _reversed(self._rank(record))
            heapq.heappush(self._farthest, (rank, record.serial, record.file))
        uses = self._held.uses.get(record.group, ())
        if len(uses) == 1 and uses[0].stage == self._held.stage:
            heapq.heappush(self._dying, (uses[0].span(record.place)[1], record.file))

    def _rank(self, record: Record) -> tuple[float, ...]:
        """Return what is larger for what goes first: read later, cheaper to make, unused longer."""
        stage, block = self._next(record)
        return stage, block, -self._held.costs.get(record.group, 0.0), -record.seen

    def _next(self, record: Record) -> When:
        for use in self._held.uses.get(record.group, ()):
            now = self._ended.length if use.stage == self._held.stage else 0
            block = use.next(record.place, now)
            if block is not None:
                return use.stage, block
        return _NEVER


def _reversed(rank: tuple[float, ...]) -> tuple[float, ...]:
    """Return a rank that is smallest where the other is largest, as heaps want it."""
    return tuple(-r for r in rank)
