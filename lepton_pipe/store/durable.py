"""What is written must survive a power cut, and what a kill left half-written must go."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def remove_partials(path: Path) -> int:
    """Remove what killed writers left under `path`, and return how many files that were.

    zarr writes a chunk to ``NAME.ID.partial`` and renames it; call this when no writer runs.
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
    folder = os.open(path if path.is_dir() else path.parent, os.O_RDONLY)
    try:
        if not _sync_filesystem(folder):
            _sync_files(path)
    finally:
        os.close(folder)
    for inner in (path, path.parent):
        sync_path(inner)


def _sync_filesystem(folder: int) -> bool:
    """Flush the file system that holds an open folder; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(folder) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"syncfs: {os.strerror(code)}")
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
