"""The records that this process keeps of intermediate arrays, and their files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Literal

from lepton_pipe.cache.record import Pieces
from lepton_pipe.cache.records import RecordStore
from lepton_pipe.store.checksums import Bytes, FileSum
from lepton_pipe.store.durable import write_whole
from lepton_pipe.store.storage import Index, Storage
from lepton_pipe.store.unit_files import LocalFiles

Place = Literal["disk", "memory", "both"]
"""Where the chunks of an array are kept: in files, in memory as long as there is room, in both."""

# What spilling leaves free of a disk, where results are still to be written.
_LEFT_FREE = 0.1
_LEFT_FREE_AT_MOST = 10 * 2**30


class _Files:
    """Files of records, where the chunks they are would have been written."""

    def write(self, file: str, group: str, pieces: Pieces) -> None:
        """Write a record's file; raise `OSError` where the disk is nearly full."""
        disk = shutil.disk_usage(group)
        if disk.free < min(_LEFT_FREE * disk.total, _LEFT_FREE_AT_MOST) + sum(map(len, pieces)):
            raise OSError(ENOSPC, os.strerror(ENOSPC), file)
        write_whole(Path(file), pieces, within=Path(group))

    def remove(self, file: str) -> None:
        """Remove the file of a record, if there is one."""
        Path(file).unlink(missing_ok=True)


shared = RecordStore(_Files())
"""The records of this process."""


def put(
    file: Path, group: Path, index: Index, encoded: Iterable[Bytes], raw: int, place: Place
) -> tuple[int, int]:
    """Keep a chunk that was packed; return size and sum of its file, written or not.

    Parameters
    ----------
    group
        Folder of the array.
    index
        The chunk's position there.
    raw
        Bytes before it was packed.

    Raises
    ------
    OSError
        When its file is wanted in any case and the system refuses; nothing is kept then.
    """
    pieces = tuple(p if isinstance(p, bytes) else bytes(p) for p in encoded)
    if place == "both":
        size, crc = write_whole(file, pieces, within=group)
    else:
        size, crc = _size_and_crc(pieces)
    shared.packed(raw, pieces)
    shared.put(_name(file), _name(group), index, pieces, on_disk=place == "both")
    return size, crc


def sums(files: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """Return size and sum, as they are now, of those of some files whose records are in memory."""
    found = ((file, shared.pieces(file)) for file in files)
    # Views, so that a checksum is not believed but the bytes before it are added up.
    return {f: _size_and_crc(map(memoryview, pieces)) for f, pieces in found if pieces is not None}


def _size_and_crc(pieces: Iterable[Bytes]) -> tuple[int, int]:
    made = FileSum()
    for piece in pieces:
        made.add(piece)
    return made.size, made.crc


def _name(path: Path) -> str:
    return str(path.absolute())


@dataclass(frozen=True)
class HeldFiles(LocalFiles):
    """Files below a folder, some of which are kept in memory instead."""

    def read(self, storage: Storage, key: str, inside: Index) -> Bytes | None:
        """Return the bytes of a chunk; None for one that is not there.

        Raises
        ------
        DamagedError
            When the array is gone, or the file is empty.
        """
        file = f"{self.root}/{key}"
        record = shared.get(file)
        if record is not None:
            return record
        started = time.perf_counter()
        found = super().read(storage, key, inside)
        if found is not None:
            shared.restored(file, time.perf_counter() - started)
        return found

    def stamp(self, key: str) -> tuple[int, ...] | None:
        """Return what changes when a chunk does that was made in this process; else None."""
        return shared.stamp(f"{self.root}/{key}")
