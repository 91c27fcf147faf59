"""Versions of files: told by size and time, or by digests of their bytes.

A file that is replaced by one of the same size and time is another to its digest alone, and one
that is copied or touched is the same to its digest alone. A digest costs reading the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

from lepton_pipe.store.source import file_stamp
from lepton_pipe.store.stamps import (
    ABSENT,
    STAMP_BYTES,
    file_version,
    known_version,
    never,
    together,
)

# Files that are read at once, and bytes held of each.
_AT_ONCE = 16
_PIECE = 1 << 20


def file_versions(paths: Sequence[str], *, by_bytes: bool) -> list[bytes]:
    """Return the stamps of files: `ABSENT` for one that is not there, `never` if it cannot be read.

    Parameters
    ----------
    by_bytes
        Whether to read them, and return digests; else size and time are taken.
    """
    return file_digests(paths) if by_bytes else [file_version(path) for path in paths]


def opened_version(paths: Sequence[str | Path], stamp: tuple[int, ...], *, by_bytes: bool) -> bytes:
    """Return the stamp of what lies in files together, as they were when they were opened.

    Parameters
    ----------
    stamp
        The `file_stamp` of each, one after the other, from when they were opened.
    by_bytes
        As for `file_versions`. What was opened may be read still when the files are others by
        now: then the stamp equals no other.
    """
    if not by_bytes:
        return known_version(stamp)
    digests = file_digests([os.fspath(path) for path in paths])
    is_as_opened = sum(map(file_stamp, paths), ()) == stamp
    return together(digests) if is_as_opened else never()


def file_digests(paths: Sequence[str]) -> list[bytes]:
    """Return digests of the bytes of files, read side by side; see `file_versions`."""
    stop = Event()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            return list(pool.map(partial(_digest, stop), paths))
        except BaseException:
            stop.set()  # an interrupt does not wait for the end of large files
            raise


def _digest(stop: Event, path: str) -> bytes:
    state = hashlib.blake2b(digest_size=STAMP_BYTES)
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (asked for every chunk)
            while not stop.is_set() and (piece := file.read(_PIECE)):
                state.update(piece)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError:
        return never()
    return state.digest()
