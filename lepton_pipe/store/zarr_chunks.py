"""Open zarr arrays, and decode their single chunks without zarr in between where that is simple."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from zarr.api import asynchronous as zarr_async
from zarr.core.sync import sync
from zarr.storage import LocalStore

from lepton_pipe.errors import InputError
from lepton_pipe.geometry import Region
from lepton_pipe.store.checksums import Bytes
from lepton_pipe.store.chunked import touched
from lepton_pipe.store.file_digests import file_versions
from lepton_pipe.store.held import HeldFiles
from lepton_pipe.store.loop import run
from lepton_pipe.store.missing import Absent, Missing, refuse_missing
from lepton_pipe.store.source import file_stamp
from lepton_pipe.store.stamps import remote_versions
from lepton_pipe.store.storage import Index, Storage, shards_of, storage_of
from lepton_pipe.store.stores import METADATA_KEYS, AsyncArray, CheckedStore, WholeStore, store_at
from lepton_pipe.store.unit_files import Extent, LocalFiles, StoreFiles, UnitFiles


class ArrayHandle:
    """An open zarr array.

    Attributes
    ----------
    direct
        Its chunks without zarr in between; None where only zarr knows how.
    """

    def __init__(self, uri: str, missing: Missing = "refused") -> None:
        store = store_at(uri)
        self._uri, self._missing = uri, missing
        self._root = store.root if isinstance(store, LocalStore) else None
        # Stores that keep connections must use zarr's own loop.
        self._run = sync if self._root is None else run
        checked = CheckedStore(store) if isinstance(store, LocalStore) else store
        whole = checked if missing == "fill" else WholeStore(checked, self._refuse)
        self._array: AsyncArray = self._run(zarr_async.open_array(store=whole, mode="r"))
        chunks, units = self._array.chunks, self._array.shards or self._array.chunks
        self._per_unit = tuple(u // c for u, c in zip(units, chunks, strict=True))
        self._files = StoreFiles(checked, uri, kept=64 if self._root is None else 0)
        storage = storage_of(self._array)
        self._held = HeldFiles(self._root) if self._root and missing == "lost" else None
        files: UnitFiles = self._files
        if self._root is not None:
            files = self._held or LocalFiles(self._root)
        self.direct = None if storage is None else DirectChunks(files, storage, uri, missing)

    @property
    def unit(self) -> tuple[int, ...]:
        """What one file covers: a shard or a chunk."""
        unit: tuple[int, ...] = self._array.shards or self._array.chunks
        return unit

    def form(self) -> dict[str, Any]:
        """Return what the metadata says of how chunks become voxels."""
        facts = self._array.metadata.to_dict()
        return {n: v for n, v in facts.items() if n not in _NOT_OF_CHUNKS}

    def unit_stamps(self, units: Sequence[Index], *, by_bytes: bool = False) -> list[bytes]:
        """Return the stamps of shards or chunks, see `lepton_pipe.store.stamps`.

        Parameters
        ----------
        by_bytes
            Whether those of files on this machine are digests.
        """
        keys = map(self._array.metadata.encode_chunk_key, units)
        if self._root is None:
            return remote_versions(self._uri, list(keys), prod(self._counts()))
        root = os.fspath(self._root)
        return file_versions([f"{root}/{key}" for key in keys], by_bytes=by_bytes)

    def file_of(self, unit: Index) -> str:
        """Return where a shard or chunk is stored."""
        root = self._uri if self._root is None else os.fspath(self._root)
        return f"{root.rstrip('/')}/{self._array.metadata.encode_chunk_key(unit)}"

    def read(self, selection: tuple[slice, ...]) -> Any:
        """Return the voxels of `selection`, through zarr, in the array's own axis order.

        Raises
        ------
        DamagedError
            When a chunk is missing that may not be.
        """
        if self._array.shards is not None and self._missing != "fill":
            self._refuse_inner(selection)
        return self._run(self._array.getitem(selection))

    def absent(self) -> Absent | None:
        """Count the files of chunks that are not there; None for none, and for remote arrays."""
        if self._root is None:
            return None
        there, counts = _names_below(self._root), self._counts()
        # More may lie there than belongs to the array: what is missing then is found on reading.
        if len(there) >= prod(counts):
            return None
        keys = map(self._array.metadata.encode_chunk_key, np.ndindex(*counts))
        gone = [key for key in keys if key not in there]
        return Absent(len(gone), prod(counts), gone[0])

    @property
    def fill_value(self) -> Any:
        """What zarr makes of voxels that are not stored."""
        return self._array.metadata.fill_value

    def _counts(self) -> tuple[int, ...]:
        return tuple(-(-n // u) for n, u in zip(self._array.shape, self.unit, strict=True))

    def _refuse(self, key: str) -> NoReturn:
        """Raise for a unit that is not there."""
        index = tuple(int(n) for n in re.findall(r"\d+", key)[-self._array.ndim :])
        region = _covered(index, self.unit, self._array.shape)
        refuse_missing(self._uri, key, region, self._missing, self.fill_value)

    def _refuse_inner(self, selection: tuple[slice, ...]) -> None:
        """Raise for a chunk of `selection` that is missing in its shard; zarr would not see it."""
        storage = shards_of(self._array)
        if storage is None:
            raise InputError(
                f"{self._uri}: the index of its shards is stored in an unusual way, so that it "
                "cannot be told which chunks are missing; say --sparse (in Python sparse=True) to "
                "read it all the same, what is missing as fill values"
            )
        for index in touched(_region(selection, self._array.shape), storage.chunks):
            unit, inside = storage.unit_of(index)
            key = storage.key(unit)
            if not self._files.holds(storage, key, inside):
                region = _covered(index, storage.chunks, storage.shape)
                refuse_missing(self._uri, key, region, self._missing, self.fill_value)

    def stamp(self, chunk: Index) -> tuple[int, ...]:
        """Return what changes when the file of a chunk does; empty for none and remote ones."""
        if self._root is None:
            return ()
        unit = tuple(i // n for i, n in zip(chunk, self._per_unit, strict=True))
        key = self._array.metadata.encode_chunk_key(unit)
        held = self._held.stamp(key) if self._held else None
        return held or file_stamp(f"{self._root}/{key}")


# What may change in the metadata while chunks mean what they did; the shape is told by the grid.
_NOT_OF_CHUNKS = ("attributes", "dimension_names", "shape")


def _covered(index: Index, unit: tuple[int, ...], shape: tuple[int, ...]) -> Region:
    start = tuple(i * u for i, u in zip(index, unit, strict=True))
    return Region(start, tuple(min(a + u, n) for a, u, n in zip(start, unit, shape, strict=True)))


def _region(selection: tuple[slice, ...], shape: tuple[int, ...]) -> Region:
    spans = [s.indices(n) for s, n in zip(selection, shape, strict=True)]
    return Region(tuple(a for a, *_ in spans), tuple(b for _, b, _ in spans))


def _names_below(root: Path) -> set[str]:
    """Return the files below a folder that are not metadata, relative to it."""
    names, folders = set(), [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(f"{folder}{entry.name}/")
                elif entry.name not in METADATA_KEYS and not entry.name.endswith(".partial"):
                    names.add(f"{folder}{entry.name}")
    return names


@dataclass(frozen=True)
class DirectChunks:
    """The chunks of an array whose layout is understood; the values are those zarr would give.

    Attributes
    ----------
    files
        Where they are stored.
    storage
        How they are stored.
    where
        The array, for messages.
    missing
        What it means that a chunk is not there.
    """

    files: UnitFiles
    storage: Storage
    where: str
    missing: Missing

    def chunk(self, index: Index) -> NDArray[Any]:
        """Return a whole chunk, filled up beyond the array's edge; read-only.

        Raises
        ------
        DamagedError
            When the array is gone, the chunk an empty file, or missing though it may not be.
        Exception
            Of any kind that decoders raise, when it does not decode or match its checksum.
        """
        data = self.stored(index)
        return self.storage.fill() if data is None else self.storage.decode(data)

    def chunk_into(self, index: Index, out: NDArray[Any]) -> None:
        """Decode a whole chunk into `out`, C-contiguous; raise as `chunk` does."""
        self.storage.decode_into(self.stored(index), out)

    @property
    def is_plain(self) -> bool:
        """Whether files of this machine hold chunks as they lie in memory, with no checksum."""
        chain = self.storage.chain
        packed = chain.compressor != "none" or chain.checksum or chain.bits
        return isinstance(self.files, LocalFiles) and not packed

    def extent(self, index: Index) -> Extent | None:
        """Return where a plain chunk lies; None where `stored` has to tell why it does not."""
        assert isinstance(self.files, LocalFiles)
        unit, inside = self.storage.unit_of(index)
        found = self.files.extent(self.storage, self.storage.key(unit), inside)
        return found if found and found.nbytes == self.storage.chunk_bytes else None

    def stored(self, index: Index) -> Bytes | None:
        """Return the bytes of a chunk as they are stored; None for one of fill values.

        Raises
        ------
        DamagedError
            When the array is gone, the chunk an empty file, or missing though it may not be.
        """
        storage = self.storage
        unit, inside = storage.unit_of(index)
        key = storage.key(unit)
        data = self.files.read(storage, key, inside)
        if data is None and self.missing != "fill":
            region = _covered(index, storage.chunks, storage.shape)
            refuse_missing(self.where, key, region, self.missing, storage.fill_value)
        return data
