"""Checksums of chunks and of the files they are in: crc32c, as zarr's codec of that name has it."""

from __future__ import annotations

from crc32c import crc32c as _crc32c

Bytes = bytes | memoryview


def crc32c(data: Bytes, value: int = 0) -> int:
    """Return the crc32c of what `value` is the crc32c of, and `data` behind it."""
    crc: int = _crc32c(data, value)
    return crc


class Checksum(bytes):
    """What zarr's crc32c codec appends to a chunk: its sum in 4 bytes, little-endian."""

    @classmethod
    def of(cls, data: Bytes) -> Checksum:
        """Return the checksum of some bytes."""
        return cls(crc32c(data).to_bytes(4, "little"))


class FileSum:
    """Adds up a file piece by piece.

    The sum is the crc32c of two things: of the crc32c of all but the last four bytes, and of these.
    Chunks end with their own crc32c, and the plain one of what ends so is the same for all: any
    sound chunk would pass for any other.

    A file that is one piece and its `Checksum` is read no second time for that.
    """

    _HELD_BACK = 4

    def __init__(self) -> None:
        self.size = 0
        self._first: memoryview | None = None
        self._crc = 0
        self._last = b""

    def add(self, piece: Bytes) -> None:
        """Take in the next bytes of the file, which stay as they are until the sum is taken."""
        data = memoryview(piece).cast("B")
        first, self._first = self._first, None
        if self.size == 0:
            self._first = data
        elif first is not None and isinstance(piece, Checksum):
            self._crc, self._last = int.from_bytes(piece, "little"), bytes(piece)
        else:
            for part in (first, data):
                if part is not None:
                    self._take_in(part)
        self.size += len(data)

    def _take_in(self, data: memoryview) -> None:
        if len(data) < self._HELD_BACK:
            joined = self._last + data
            self._last, data = joined[-self._HELD_BACK :], memoryview(joined)
            self._crc = crc32c(data[: -self._HELD_BACK], self._crc)
        else:
            self._crc = crc32c(data[: -self._HELD_BACK], crc32c(self._last, self._crc))
            self._last = bytes(data[-self._HELD_BACK :])

    @property
    def crc(self) -> int:
        """The sum of what was taken in so far."""
        if self._first is not None:
            first, self._first = self._first, None
            self._take_in(first)
        return crc32c(self._crc.to_bytes(4, "little") + self._last)

    @classmethod
    def of(cls, data: bytes) -> FileSum:
        """Return the sum of a file of these bytes."""
        made = cls()
        made.add(data)
        return made
