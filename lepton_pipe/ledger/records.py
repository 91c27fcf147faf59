"""Finding the whole records of a file that may be growing, torn or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from lepton_pipe.ledger.receipts import HEADER, MAGIC, MOST, is_whole

_WINDOW = 1 << 20


class Records:
    """A file of records, opened for reading; use as a context manager.

    Parameters
    ----------
    ahead
        Whether to read more at a time than is asked for.

    Attributes
    ----------
    size
        Bytes of the file when it was opened. What comes later is not looked at.

    Raises
    ------
    OSError
        From here and all methods, when the system refuses.
    """

    def __init__(self, path: Path, *, ahead: bool = True) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.size = os.fstat(self._descriptor).st_size
        self._ahead = _WINDOW if ahead else 0
        self._window = b""
        self._start = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def after(self, start: int) -> Iterator[tuple[int, memoryview]]:
        """Yield where each record begins, from byte `start` on, and the record."""
        at = start
        while (found := self._next(at)) is not None:
            yield found
            at = found[0] + len(found[1])

    def at(self, offset: int, length: int) -> memoryview | None:
        """Return bytes of the file; None where it has not so many."""
        if not 0 <= offset <= offset + length <= self.size:
            return None
        if not self._start <= offset <= offset + length <= self._stop:
            self._load(offset, max(length, min(self._ahead, self.size - offset)))
        place = offset - self._start
        part = memoryview(self._window)[place : place + length]
        return part if len(part) == length else None

    @property
    def _stop(self) -> int:
        return self._start + len(self._window)

    def _load(self, start: int, length: int) -> None:
        self._window, self._start = b"", start
        pieces, at = [], start
        while at < start + length:
            piece = os.pread(self._descriptor, start + length - at, at)
            if not piece:  # the file has become shorter
                break
            pieces.append(piece)
            at += len(piece)
        self._window = b"".join(pieces)

    def _next(self, at: int) -> tuple[int, memoryview] | None:
        while (place := self._magic(at)) is not None:
            record = self._record(place)
            if record is not None:
                return place, record
            at = place + 1
        return None

    def _record(self, place: int) -> memoryview | None:
        header = self.at(place, HEADER.size)
        if header is None:
            return None
        _, length, _ = HEADER.unpack(header)
        record = self.at(place, HEADER.size + length) if length <= MOST else None
        return record if record is not None and is_whole(record) else None

    def _magic(self, at: int) -> int | None:
        """Return where a record may begin, at byte `at` or behind it."""
        while self.at(at, len(MAGIC)) is not None:
            found = self._window.find(MAGIC, at - self._start)
            if found >= 0:
                return self._start + found
            at = self._stop - len(MAGIC) + 1
        return None
