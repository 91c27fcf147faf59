"""What is written must survive a power cut, and what a kill left half-written must go."""

from __future__ import annotations

import ctypes
import os
import sys
import uuid
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lepton_pipe.store.checksums import FileSum

_START_WRITING = 2
"""SYNC_FILE_RANGE_WRITE: begin to write dirty pages out, and do not wait for that."""
_PIECE = 1 << 22
_WORTH_STARTING = 1 << 20
"""Bytes from which a file is sent on its way by itself; for small ones the call costs too much."""


def write_whole(
    path: Path, pieces: Iterable[Any], *, within: Path | None = None
) -> tuple[int, int]:
    """Write a file from `pieces` of bytes, so that it is there whole or not at all.

    The way of a large file to the disk begins at once, so that the flush at the end takes less.
    Folders are made where they lack. A process that is killed leaves a ``*.partial`` behind.

    Parameters
    ----------
    within
        A folder that is not made: where it has gone, whoever writes to it is late.

    Returns
    -------
    tuple
        Size in bytes and sum of the file, see `FileSum`.

    Raises
    ------
    OSError
        When the system refuses; nothing of the file is left then.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        file = part.open("wb")
    except FileNotFoundError:
        if within is not None and not within.is_dir():
            raise
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("wb")
    written = FileSum()
    try:
        with file:
            for piece in pieces:
                file.write(piece)
                written.add(piece)
            file.flush()
            if written.size >= _WORTH_STARTING:
                _start_writing(file.fileno())
        part.replace(path)
    except Exception:
        part.unlink(missing_ok=True)
        raise
    return written.size, written.crc


def size_and_crc(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the sum of a file, as it can be read now; see `FileSum`."""
    found = FileSum()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            found.add(piece)
    return found.size, found.crc


def _start_writing(descriptor: int) -> None:
    """Tell the system to begin writing a file out; where it cannot, nothing is lost."""
    sync_file_range = _sync_file_range()
    if sync_file_range is not None:
        sync_file_range(descriptor, 0, 0, _START_WRITING)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


def remove_partials(path: Path) -> int:
    """Remove what killed writers left under `path`, and return how many files that were.

    A chunk is written to ``NAME.ID.partial`` and renamed; call this when no writer runs.
    """
    torn = list(path.rglob("*.partial"))
    for file in torn:
        file.unlink(missing_ok=True)
    return len(torn)


def sync_tree(path: Path) -> None:
    """Return when everything under `path`, and its place in its folder, survives a power cut.

    Raises
    ------
    OSError
        When the system reports that something could not be stored.
    """
    if not sync_filesystem(path if path.is_dir() else path.parent):
        _sync_files(path)
    for inner in (path, path.parent):
        sync_path(inner)


def sync_filesystem(folder: Path) -> bool:
    """Flush the file system that holds a folder; False where the system cannot.

    Raises
    ------
    OSError
        When the system reports that something could not be stored.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"syncfs: {os.strerror(code)}")
    finally:
        os.close(descriptor)
    return True


def _sync_files(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            sync_path(Path(folder) / name)
        sync_path(Path(folder))


def sync_path(path: Path) -> None:
    """Return when one file, or the entries of one folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
