"""How a zarr array is laid out in files, where that is simple enough to go there directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from lepton_pipe.store.checksums import Bytes
from lepton_pipe.store.codecs import Chain, chain_of, chain_of_v2
from lepton_pipe.store.shards import INDEX_CODECS, index_bytes

Index = tuple[int, ...]

_UNKNOWN = Chain(np.dtype(np.uint8), "unknown", None, 1, checksum=False)
"""Stands for codecs that only zarr knows."""


@dataclass(frozen=True)
class Storage:
    """The files of a zarr array.

    Attributes
    ----------
    shape, chunks
        Of the array; chunks are what is encoded, those inside shards where there are any.
    unit
        What one file covers: a shard or a chunk.
    chain
        How a chunk is encoded.
    fill_value
        Value of voxels in chunks that are not there.
    key
        From the position of a unit to its file, relative to the array.
    sharded
        Whether files are shards.
    index_first
        Whether the index stands at the start of a shard.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    unit: tuple[int, ...]
    chain: Chain
    fill_value: Any
    key: Callable[[Index], str]
    sharded: bool = False
    index_first: bool = False

    @property
    def per_shard(self) -> tuple[int, ...]:
        """Chunks of a unit along each axis."""
        return tuple(u // c for u, c in zip(self.unit, self.chunks, strict=True))

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index."""
        return index_bytes(self.per_shard)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunks) * self.chain.dtype.itemsize

    def unit_of(self, chunk: Index) -> tuple[Index, Index]:
        """Return the unit that a chunk lies in, and its position there."""
        split = [divmod(i, n) for i, n in zip(chunk, self.per_shard, strict=True)]
        return tuple(a for a, _ in split), tuple(b for _, b in split)

    def decode(self, data: Bytes) -> NDArray[Any]:
        """Return the chunk stored as `data`; read-only."""
        return self.chain.decode(data, self.chunks)

    def decode_into(self, data: Bytes | None, out: NDArray[Any]) -> None:
        """Decode the chunk stored as `data` into `out`, C-contiguous; fill values if it is None."""
        if data is None:
            out[...] = self.fill()
        else:
            self.chain.decode_into(data, out)

    def fill(self) -> NDArray[Any]:
        """Return a chunk of fill values that takes no memory; read-only."""
        value = 0 if self.fill_value is None else self.fill_value
        return np.broadcast_to(np.asarray(value, self.chain.dtype), self.chunks)


def storage_of(array: zarr.AsyncArray[Any]) -> Storage | None:
    """Return where and how the chunks of an array are stored, or None where only zarr knows."""
    storage = _layout(array)
    return None if storage is None or storage.chain is _UNKNOWN else storage


def shards_of(array: zarr.AsyncArray[Any]) -> Storage | None:
    """Return how the shards of an array are laid out, though only zarr may decode their chunks.

    None where there are no shards, or where their index is stored in another way than usual.
    """
    storage = _layout(array)
    return storage if storage is not None and storage.sharded else None


def _layout(array: zarr.AsyncArray[Any]) -> Storage | None:
    metadata: Any = array.metadata
    facts = metadata.to_dict()
    dtype = np.dtype(array.dtype)
    if 0 in array.shape or array.ndim == 0:
        return None
    if facts["zarr_format"] == 2:
        chain = chain_of_v2(facts, dtype)
        chunks = tuple(facts["chunks"])
        key = metadata.encode_chunk_key
        whole = (array.shape, chunks, chunks)
        return None if chain is None else Storage(*whole, chain, metadata.fill_value, key)
    grid = facts["chunk_grid"]
    if grid["name"] != "regular" or facts.get("storage_transformers"):
        return None
    unit = tuple(int(n) for n in grid["configuration"]["chunk_shape"])
    return _storage_v3(array, metadata, unit, facts["codecs"])


def _storage_v3(
    array: zarr.AsyncArray[Any], metadata: Any, unit: Index, codecs: Sequence[Mapping[str, Any]]
) -> Storage | None:
    dtype, chunks, index_first = np.dtype(array.dtype), unit, False
    sharded = codecs[0]["name"] == "sharding_indexed"
    if sharded:
        settings = codecs[0]["configuration"]
        index_codecs = settings["index_codecs"]
        if len(codecs) > 1 or not _plain_index(index_codecs):
            return None
        chunks = tuple(int(n) for n in settings["chunk_shape"])
        codecs = settings["codecs"]
        index_first = settings.get("index_location", "end") == "start"
    return Storage(
        array.shape,
        chunks,
        unit,
        chain_of(codecs, dtype) or _UNKNOWN,
        metadata.fill_value,
        metadata.encode_chunk_key,
        sharded,
        index_first,
    )


def _plain_index(codecs: Sequence[Mapping[str, Any]]) -> bool:
    endian = codecs[0].get("configuration", {}).get("endian", "little")
    return [codec["name"] for codec in codecs] == INDEX_CODECS and endian == "little"
