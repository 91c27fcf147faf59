"""Write whole chunks: directly where the layout is understood, through zarr where it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.api import asynchronous as zarr_async
from zarr.storage import LocalStore

from lepton_pipe.geometry import Region
from lepton_pipe.store import held
from lepton_pipe.store.checksums import Bytes
from lepton_pipe.store.durable import size_and_crc, write_whole
from lepton_pipe.store.held import Place
from lepton_pipe.store.loop import run
from lepton_pipe.store.shards import assemble
from lepton_pipe.store.storage import Index, Storage, storage_of
from lepton_pipe.store.stores import AsyncArray, WriteOnceStore


class Written(NamedTuple):
    """A unit (shard or chunk) that was written.

    Attributes
    ----------
    unit
        Its number in C order of the array's units.
    size, crc
        Bytes of its file, and its sum, see `lepton_pipe.store.durable.FileSum`.
    """

    unit: int
    size: int
    crc: int


class Writer(Protocol):
    """An open array that is written in whole units (shards or chunks)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the array along each axis."""
        ...

    @property
    def unit(self) -> tuple[int, ...]:
        """Voxels of a shard, or of a chunk where there are no shards."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        ...

    def write(self, region: Region, values: NDArray[Any]) -> list[Written]:
        """Write `values` to the whole units that `region` covers."""
        ...


def open_writer(path: Path, place: Place = "disk", *, sampled: bool = False) -> Writer:
    """Open the array at `path` for writing.

    Parameters
    ----------
    place
        Where its chunks are kept; memory is for arrays of ours alone.
    sampled
        Whether chunks are stored as they are where a sample says that packing does not pay.
    """
    store = WriteOnceStore(LocalStore(path))
    opened: AsyncArray = run(zarr_async.open_array(store=store, mode="r+"))
    storage = storage_of(opened) if opened.metadata.zarr_format == 3 else None
    if storage is None or not storage.chain.writable:
        return ZarrWriter.of(path, opened)
    return DirectWriter(path, storage, place, sampled)


@dataclass(frozen=True)
class ZarrWriter:
    """Writes through zarr-python, whatever the codecs are."""

    path: Path
    array: AsyncArray
    shape: tuple[int, ...]
    unit: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, path: Path, opened: AsyncArray) -> ZarrWriter:
        """Return a writer for an open array that stores chunks of fill values as well."""
        # The setting cannot be given when an existing array is opened.
        array: AsyncArray = zarr.AsyncArray(
            metadata=opened.metadata,
            store_path=opened.store_path,
            config={"write_empty_chunks": True},
        )
        return cls(path, array, array.shape, array.shards or array.chunks, np.dtype(array.dtype))

    def write(self, region: Region, values: NDArray[Any]) -> list[Written]:
        """Write `values` to the whole units that `region` covers."""
        run(self.array.setitem(region.slices, np.ascontiguousarray(values)))
        key = self.array.metadata.encode_chunk_key
        return [
            Written(unit_number(index, self), *size_and_crc(self.path / key(index)))
            for index, _ in units_in(region, self.unit)
        ]


@dataclass(frozen=True)
class DirectWriter:
    """Encodes chunks in place and writes each file once; the files are those zarr would write."""

    path: Path
    storage: Storage
    place: Place = "disk"
    sampled: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the array along each axis."""
        return self.storage.shape

    @property
    def unit(self) -> tuple[int, ...]:
        """Voxels of a shard, or of a chunk where there are no shards."""
        return self.storage.unit

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.storage.chain.dtype.newbyteorder("=")

    def write(self, region: Region, values: NDArray[Any]) -> list[Written]:
        """Write `values` to the whole units that `region` covers."""
        return self.put(region, lambda covered: self._chunk(values[covered.inside(region)]))

    def put(self, region: Region, encoded: Callable[[Region], Iterable[Bytes]]) -> list[Written]:
        """Write the whole units that `region` covers, each chunk in them as `encoded` gives it.

        Pieces may be made while the file is written; what raises leaves nothing of it.
        """
        written = []
        for index, covered in units_in(region, self.unit):
            pieces = self._shard(covered, encoded) if self.storage.sharded else encoded(covered)
            file = self.path / self.storage.key(index)
            if self.place == "disk":
                size, crc = write_whole(file, pieces, within=self.path)
            else:
                raw = self.storage.chunk_bytes
                size, crc = held.put(file, self.path, index, pieces, raw, self.place)
            written.append(Written(unit_number(index, self), size, crc))
        return written

    def _shard(self, shard: Region, encoded: Callable[[Region], Iterable[Bytes]]) -> list[Bytes]:
        storage = self.storage
        chunks = {
            storage.unit_of(index)[1]: list(encoded(covered))
            for index, covered in units_in(shard, storage.chunks)
        }
        return assemble(chunks, storage.per_shard, index_first=storage.index_first)

    def _chunk(self, part: NDArray[Any]) -> list[Bytes]:
        """Encode a chunk; beyond the array's edge it is filled up, as the format asks."""
        storage = self.storage
        if part.shape == storage.chunks and part.flags.c_contiguous:
            return self._packed(part)
        buffer = _chunk_buffer(storage)
        if part.shape != storage.chunks:
            buffer[...] = storage.fill()
        buffer[tuple(slice(n) for n in part.shape)] = part
        pieces = self._packed(buffer)
        if storage.chain.encoder is None:
            # Not packed, the pieces are the buffer itself, which the next chunk overwrites.
            pieces = [bytes(piece) for piece in pieces]
        return pieces

    def _packed(self, chunk: NDArray[Any]) -> list[Bytes]:
        chain = self.storage.chain
        return chain.encode_if_it_pays(chunk) if self.sampled else chain.encode(chunk)


def unit_number(index: Index, writer: Writer) -> int:
    """Return the number of the unit at a position, in C order."""
    number = 0
    for i, n, u in zip(index, writer.shape, writer.unit, strict=True):
        number = number * -(-n // u) + i
    return number


def units_in(region: Region, unit: tuple[int, ...]) -> Iterator[tuple[Index, Region]]:
    """Yield position and region of each unit in `region`, which starts at one; cut at its end."""
    spans = (
        range(start // u, -(-stop // u))
        for start, stop, u in zip(region.start, region.stop, unit, strict=True)
    )
    for index in product(*spans):
        start = tuple(i * u for i, u in zip(index, unit, strict=True))
        stop = tuple(a + u for a, u in zip(start, unit, strict=True))
        yield index, Region(start, stop).intersect(region)


_local = threading.local()


def _chunk_buffer(storage: Storage) -> NDArray[Any]:
    """Return room for one chunk, the same for each chunk that this thread encodes.

    Fresh memory would cost a page fault every 4 KiB, a tenth of what encoding costs.
    """
    held: bytearray | None = getattr(_local, "buffer", None)
    if held is None or len(held) < storage.chunk_bytes:
        held = _local.buffer = bytearray(storage.chunk_bytes)
    room = np.frombuffer(held, storage.chain.dtype, int(np.prod(storage.chunks)))
    return room.reshape(storage.chunks)
