"""Bytes of stored chunks: from files of this machine, or from a store that answers by requests."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from lepton_pipe.errors import DamagedError
from lepton_pipe.store.checksums import Bytes
from lepton_pipe.store.shards import ABSENT, decode_index
from lepton_pipe.store.source import HandleCache, stamp_of
from lepton_pipe.store.storage import Index, Storage
from lepton_pipe.store.stores import refuse_empty, refuse_gone

_indexes = HandleCache(16)
"""Indexes of shards that were read last."""


class Extent(NamedTuple):
    """Where the bytes of a chunk lie: in a file of some `file_stamp`, from an offset on."""

    path: str
    offset: int
    nbytes: int
    stamp: tuple[int, ...]


class UnitFiles(Protocol):
    """Where the files of an array lie."""

    def read(self, storage: Storage, key: str, inside: Index) -> Bytes | None:
        """Return the bytes of a chunk; None for one that is not there.

        Parameters
        ----------
        key
            The file that holds it.
        inside
            Its position there, if that is a shard.
        """
        ...


@dataclass(frozen=True)
class LocalFiles:
    """Files below a folder."""

    root: Path

    def read(self, storage: Storage, key: str, inside: Index) -> Bytes | None:
        """Return the bytes of a chunk; None for one that is not there.

        Raises
        ------
        DamagedError
            When the array is gone, or the file is empty.
        """
        path = self.root / key
        try:
            file = path.open("rb", buffering=0)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            refuse_gone(self.root)
            return None
        with file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                refuse_empty(self.root, key)
            if not storage.sharded:
                return file.readall()
            shard = _Shard(file.fileno(), status.st_size, storage)
            return shard.part(*_lies(path, status, shard, inside))

    def extent(self, storage: Storage, key: str, inside: Index) -> Extent | None:
        """Return where the bytes of a chunk are said to lie; None where that cannot be told.

        Of one that is absent in its shard that is nowhere: `ABSENT` bytes.
        """
        path = self.root / key
        try:
            with path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                shard = _Shard(file.fileno(), status.st_size, storage)
                offset, nbytes = 0, status.st_size
                if storage.sharded:
                    offset, nbytes = _lies(path, status, shard, inside)
        except (OSError, ValueError):
            return None
        return Extent(str(path), offset, nbytes, stamp_of(status))


@dataclass(frozen=True)
class _Shard:
    """An open shard."""

    descriptor: int
    size: int
    storage: Storage

    def index(self) -> NDArray[np.uint64]:
        count = self.storage.index_bytes
        start = 0 if self.storage.index_first else max(0, self.size - count)
        return decode_index(os.pread(self.descriptor, count, start), self.storage.per_shard)

    def part(self, offset: int, length: int) -> bytes | None:
        if offset == length == ABSENT:
            return None
        if offset + length > self.size:
            raise ValueError(f"a shard of {self.size} bytes cannot hold {length} at {offset}")
        return os.pread(self.descriptor, length, offset)


def _lies(path: Path, status: os.stat_result, shard: _Shard, inside: Index) -> tuple[int, int]:
    """Return offset and length of a chunk in its shard."""
    offset, length = _indexes.get((str(path), *stamp_of(status)), shard.index)[inside]
    return int(offset), int(length)


class StoreFiles:
    """What a zarr store gives, remote ones above all.

    Parameters
    ----------
    where
        The array, for messages.
    kept
        Indexes of shards that are not asked for again.
    """

    def __init__(self, store: Store, where: str, kept: int) -> None:
        self._store, self._where = store, where
        self._indexes = HandleCache(kept)

    def holds(self, storage: Storage, key: str, inside: Index) -> bool:
        """Tell whether a chunk is in its shard."""
        index = self._index(storage, key)
        return index is not None and bool((index[inside] != ABSENT).any())

    def read(self, storage: Storage, key: str, inside: Index) -> Bytes | None:
        """Return the bytes of a chunk; None for one that is not there.

        Raises
        ------
        DamagedError
            When the file is empty.
        RunError
            When the store does not answer, or with an error.
        """
        if not storage.sharded:
            return self._bytes(key, None)
        index = self._index(storage, key)
        if index is None:
            return None
        offset, length = (int(n) for n in index[inside])
        if offset == length == ABSENT:
            return None
        if offset + length >= ABSENT:
            raise ValueError(f"the index of shard {key} leads to byte {offset}")
        part = self._bytes(key, RangeByteRequest(offset, offset + length))
        if part is None or len(part) != length:
            raise ValueError(f"shard {key} has no {length} bytes at {offset}")
        return part

    def _index(self, storage: Storage, key: str) -> NDArray[np.uint64] | None:
        known: Hashable = (key, storage.per_shard)
        found: NDArray[np.uint64] | None = self._indexes.get(
            known, lambda: self._read_index(storage, key)
        )
        return found

    def _read_index(self, storage: Storage, key: str) -> NDArray[np.uint64] | None:
        count = storage.index_bytes
        where: ByteRequest = SuffixByteRequest(count)
        if storage.index_first:
            where = RangeByteRequest(0, count)
        data = self._bytes(key, where)
        return None if data is None else decode_index(data, storage.per_shard)

    def _bytes(self, key: str, part: ByteRequest | None) -> Bytes | None:
        value: Any = sync(self._store.get(key, default_buffer_prototype(), part))
        if value is not None and len(value) == 0:
            raise DamagedError(f"{self._where}: chunk {key} is an empty file; restore it")
        return None if value is None else memoryview(value.as_numpy_array())
