"""Memory of a process from which the other processes of a run on this machine may read.

::

    process A   segments: memory without a name (`memfd_create`), filled from front to end
                  ^
    folder      link, called by the entry -> A's segment, and where in it
                  |
    process B   reads there as in a file

The memory goes with its process, however that ends, and what is left of it is a link to nothing.
No place in a segment is used twice. So whoever finds the link as it was before he read has read
what it stands for.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EMFILE
from itertools import count
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

SEGMENT_BYTES = 2**24
"""What is freed in one stays partly until all of it is."""
# Many small ones give memory back sooner; a process may have some thousand file descriptors.
_SHARE = 16
# Each takes two descriptors.
MOST_SEGMENTS = 128
# How often an entry is looked for that is put elsewhere while it is read.
_TRIES = 3

Bytes = bytes | memoryview


class _Target(NamedTuple):
    """What a link says."""

    process: int
    descriptor: int
    start: int
    size: int
    shelf: int
    serial: int

    @property
    def text(self) -> str:
        return ":".join(map(str, self))

    @classmethod
    def at(cls, link: Path) -> _Target | None:
        """Return what a link says; None where there is none of ours."""
        try:
            return cls(*map(int, os.readlink(link).split(":")))  # noqa: PTH115  text, not a path
        except (OSError, ValueError, TypeError):
            return None

    def read(self) -> bytes | None:
        """Return what lies there now; None where the process is gone, or has closed it."""
        try:
            # Another file may have the descriptor by now, and even be one that waits when opened.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(f"/proc/{self.process}/fd/{self.descriptor}", flags)
        except OSError:
            return None
        try:
            data = os.pread(descriptor, self.size, self.start)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return data if len(data) == self.size else None


class _Segment:
    """Some memory, and how many entries of it are in use; closed with the last of them."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("lepton-shelf", os.MFD_CLOEXEC)
        self.close = finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, size)
        self._memory = mmap.mmap(self.descriptor, size)
        self.size, self._end, self._used = size, 0, 0

    def take(self, size: int) -> int | None:
        """Return where an entry of some bytes may lie; None where there is no room for it."""
        if self.size - self._end < size:
            return None
        # Memory that is not there is refused here; to touch it would end the process.
        os.posix_fallocate(self.descriptor, self._end, size)
        start, self._end, self._used = self._end, self._end + size, self._used + 1
        return start

    def fill(self, start: int, pieces: Sequence[Bytes]) -> memoryview:
        """Write an entry where it may lie, and return what is seen of it there."""
        end = start
        for piece in pieces:
            self._memory[end : end + len(piece)] = piece
            end += len(piece)
        return memoryview(self._memory)[start:end].toreadonly()

    def free(self, start: int, size: int) -> None:
        """Give an entry's memory back: whole pages now, the rest with the last entry of all."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._memory.madvise(mmap.MADV_REMOVE, first, length)
        self._used -= 1

    @property
    def is_free(self) -> bool:
        """Whether no entry of it is in use."""
        return self._used == 0


@dataclass(frozen=True)
class Entry:
    """Some bytes that other processes may read.

    Attributes
    ----------
    view
        The bytes; zeros once they are freed.
    stamp
        What no other entry of any process has.
    """

    view: memoryview
    stamp: tuple[int, int]
    _shelf: Shelf
    _segment: _Segment
    _link: Path
    _target: _Target

    @property
    def is_current(self) -> bool:
        """Whether it is what is found under its name: nothing has taken its place."""
        return _Target.at(self._link) == self._target

    def free(self) -> None:
        """Let nobody find it any more, and give its memory back."""
        if self.is_current:
            self._link.unlink(missing_ok=True)
        self._shelf.free(self._segment, self._target.start, self._target.size)


class Shelf:
    """What this process and others of a run have put where all of them find it; for threads, too.

    Parameters
    ----------
    folder
        On this machine, for this user alone, the same for all processes; a run's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._token = secrets.randbits(62)
        self._serials = count(1)
        # Entries go to the last one alone.
        self._segments: list[_Segment] = []

    def put(self, name: str, pieces: Sequence[Bytes]) -> Entry | None:
        """Copy bytes to where other processes find them; None where the system refuses."""
        size, link = sum(map(len, pieces)), self._link(name)
        try:
            with self._lock:
                segment, start = self._room(size)
        except OSError:
            return None
        view = segment.fill(start, pieces)
        target = _Target(
            os.getpid(), segment.descriptor, start, size, self._token, next(self._serials)
        )
        try:
            made = link.with_name(f"{link.name}.{target.serial}.{target.process}")
            made.symlink_to(target.text)
            made.replace(link)
        except OSError:
            self.free(segment, start, size)
            return None
        return Entry(view, (target.shelf, target.serial), self, segment, link, target)

    def withdraw(self, name: str) -> None:
        """Let nobody find what any process has put under a name."""
        with suppress(OSError):
            self._link(name).unlink()

    def find(self, name: str) -> bytes | None:
        """Return what some process has put under a name; None where none has, or it is gone."""
        link = self._link(name)
        target = _Target.at(link)
        for _ in range(_TRIES):
            if target is None:
                return None
            data, before = target.read(), target
            target = _Target.at(link)
            if target == before:
                return data
        return None

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Return the stamp of what some process has put under a name; None where none has."""
        target = _Target.at(self._link(name))
        return None if target is None else (target.shelf, target.serial)

    def free(self, segment: _Segment, start: int, size: int) -> None:
        """Give memory back that an entry took."""
        with self._lock:
            segment.free(start, size)
            if segment.is_free and segment is not self._segments[-1]:
                self._segments.remove(segment)
                segment.close()

    def _room(self, size: int) -> tuple[_Segment, int]:
        """Return where an entry of some bytes may lie, in a new segment if need be."""
        last = self._segments[-1] if self._segments else None
        start = None if last is None else last.take(size)
        if last is not None and start is not None:
            return last, start
        if last is not None and last.is_free:
            self._segments.remove(last)
            last.close()
        if len(self._segments) == MOST_SEGMENTS:
            raise OSError(EMFILE, os.strerror(EMFILE))
        share = sum(s.size for s in self._segments) // _SHARE
        self._segments.append(made := _Segment(max(size, SEGMENT_BYTES, share)))
        start = made.take(size)
        assert start is not None
        return made, start

    def _link(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return self.folder / f"record-{digest}"
