"""A packed chunk that was kept, in memory or no longer, and where it goes then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lepton_pipe.cache.shelf import Bytes, Entry

OVERHEAD_BYTES = 600
"""What a record takes besides its bytes: its entry, its name, its place among the others."""

Pieces = tuple[Bytes, ...]


class Record:
    """A record, or what is known of one that was put here and is no longer in memory."""

    __slots__ = (
        "counted",
        "entry",
        "file",
        "group",
        "moving",
        "on_disk",
        "pieces",
        "place",
        "seen",
        "serial",
        "size",
        "stamp",
        "stored",
    )

    def __init__(
        self, file: str, group: str, place: Sequence[int], pieces: Pieces, serial: int
    ) -> None:
        self.file, self.group, self.place = file, group, tuple(place)
        self.pieces: Pieces | None = pieces
        self.size = sum(map(len, pieces)) + OVERHEAD_BYTES
        self.serial = self.seen = serial
        self.stamp: tuple[int, ...] = (serial,)
        self.entry: Entry | None = None
        self.on_disk = self.stored = self.moving = self.counted = False


class Files(Protocol):
    """Where records go that memory has no room for: each has a file of its own."""

    def write(self, file: str, group: str, pieces: Pieces) -> None:
        """Write a file whole or not at all; raise `OSError` where there is no room for it."""
        ...

    def remove(self, file: str) -> None:
        """Remove a file, if there is one."""
        ...
