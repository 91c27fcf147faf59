"""Decoded chunks of the other processes of a run on this machine, which then decode none of them.

::

    process A   memory of a chunk, held as long as A's cache holds it
                  ^
    folder      link, called by the chunk -> /proc/A/fd/7
                  |
    process B   opens the link, maps the memory, and lets go of it after use

The memory is that of a file without a name (`memfd_create`): it goes with its process, however that
ends, and what is left of it is a link to nothing. Nothing here is ever waited for without end, and
where something cannot be had, whatever the reason, a chunk is decoded as if there was no neighbour.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WAIT_SECONDS = 10.0
"""How long another process may take to decode a chunk."""
_LOOK_SECONDS = 0.002
# Each takes a file descriptor, of which a process may have some thousand.
MOST_OFFERS = 256
# Behind the voxels, so that these begin at a page: which chunk it is, its dtype and its shape.
_TRAILER_BYTES = 1024


class Offer:
    """A chunk in memory that other processes may map.

    Attributes
    ----------
    array
        The chunk, read-only.
    """

    def __init__(self, link: Path, descriptor: int, array: Array) -> None:
        self._link, self._descriptor, self.array = link, descriptor, array
        self._target = _target(descriptor)
        self._used = self._last_use()

    def is_used(self) -> bool:
        """Tell whether another process has used it since this was asked last."""
        before, self._used = self._used, self._last_use()
        return self._used > before

    def withdraw(self) -> None:
        """Let nobody find it any more; its memory goes when the last who maps it has done so."""
        with suppress(OSError):
            if self._link.readlink() == self._target:
                self._link.unlink()
        os.close(self._descriptor)

    def _last_use(self) -> int:
        try:
            return self._link.lstat().st_mtime_ns
        except OSError:
            return 0


class Neighbours:
    """The chunks that processes have offered in a folder.

    Parameters
    ----------
    folder
        On this machine, for this user alone, the same for all processes; a run's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._overdue: set[str] = set()

    def find(self, key: Hashable) -> Array | None:
        """Return a chunk that another process holds, read-only; None where none does."""
        name = _name(key)
        link = self.folder / name
        try:
            # Another file may have the descriptor by now, and even be one that waits when opened.
            descriptor = os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            size = os.fstat(descriptor).st_size
            mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)
        found = _chunk_in(mapped, name)
        if found is not None:
            with suppress(OSError):
                os.utime(link, follow_symlinks=False)
        return found

    def offer(self, key: Hashable, chunk: Array) -> Offer | None:
        """Copy a chunk to where other processes find it; None where the system refuses."""
        name, descriptor = _name(key), -1
        link = self.folder / name
        try:
            descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
            os.posix_fallocate(descriptor, 0, chunk.nbytes + _TRAILER_BYTES)
            mapped = mmap.mmap(descriptor, chunk.nbytes + _TRAILER_BYTES)
            array = np.frombuffer(mapped, chunk.dtype, chunk.size).reshape(chunk.shape)
            array[...] = chunk
            mapped[chunk.nbytes :] = _trailer(name, chunk)
            array.flags.writeable = False
            made = link.with_name(f"{name}.{os.getpid()}")
            made.symlink_to(_target(descriptor))
            made.replace(link)
        except OSError:
            if descriptor >= 0:
                os.close(descriptor)
            return None
        return Offer(link, descriptor, array)

    @contextmanager
    def claim(self, key: Hashable) -> Iterator[bool]:
        """Say that a chunk is being decoded here; False where another process says that it does.

        It ends with the process that makes it, and after `WAIT_SECONDS` it is not believed. Where
        none can be made, chunks are decoded without.
        """
        lock, free = self._lock(_name(key), os.O_CREAT)
        try:
            yield free
        finally:
            if lock >= 0:
                with suppress(OSError):
                    self._lock_file(_name(key)).unlink()
                os.close(lock)

    def wait(self, key: Hashable) -> None:
        """Wait while another process decodes a chunk, if one does."""
        name, deadline = _name(key), time.monotonic() + WAIT_SECONDS
        while True:
            lock, free = self._lock(name)
            if lock >= 0:
                os.close(lock)
            if free:
                return
            if time.monotonic() > deadline:
                self._overdue.add(name)
            time.sleep(_LOOK_SECONDS)

    def _lock(self, name: str, flags: int = 0) -> tuple[int, bool]:
        """Lock the file that claims a chunk.

        Returns
        -------
        descriptor, free
            -1 where it is not locked here; whether it is not locked by another process either.
        """
        if name in self._overdue:
            return -1, True
        descriptor = -1
        try:
            descriptor = os.open(self._lock_file(name), os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            return -1, not isinstance(error, BlockingIOError)
        return descriptor, True

    def _lock_file(self, name: str) -> Path:
        return self.folder / f"{name}.lock"


def _name(key: Hashable) -> str:
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


def _target(descriptor: int) -> Path:
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


def _trailer(name: str, chunk: Array) -> bytes:
    facts = {"chunk": name, "dtype": chunk.dtype.str, "shape": chunk.shape}
    return json.dumps(facts).encode().ljust(_TRAILER_BYTES)


def _is_available() -> bool:
    if not hasattr(os, "memfd_create"):
        return False
    descriptor = -1
    try:
        descriptor = os.memfd_create("lepton-probe", os.MFD_CLOEXEC)
        os.close(os.open(_target(descriptor), os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


AVAILABLE = _is_available()
"""Whether the system has such memory and shows it to others; Linux does, some sandboxes do not."""


def _chunk_in(mapped: mmap.mmap, name: str) -> Array | None:
    """Return the chunk in some memory; None where that is something else."""
    try:
        facts = json.loads(mapped[-_TRAILER_BYTES:])
        dtype, shape = np.dtype(facts["dtype"]), tuple(facts["shape"])
        if facts["chunk"] == name:
            return np.frombuffer(mapped, dtype, prod(shape)).reshape(shape)
    except (ValueError, TypeError, KeyError):
        pass  # it is none of ours
    return None
