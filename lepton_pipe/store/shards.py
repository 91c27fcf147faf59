"""Shards: many chunks in one file, with an index of where each of them lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.store.checksums import Bytes, Checksum
from lepton_pipe.store.codecs import CRC_BYTES, without_crc32c

ABSENT = 2**64 - 1
"""Offset and length, in the index, of a chunk that is not there."""

INDEX_CODECS = ["bytes", "crc32c"]
"""How an index is stored in all shards that are understood here: little-endian, with a checksum."""


def index_bytes(counts: Sequence[int]) -> int:
    """Return the bytes of the index of a shard with `counts` chunks along each axis."""
    return 16 * int(np.prod(counts)) + CRC_BYTES


def decode_index(data: Bytes, counts: tuple[int, ...]) -> NDArray[np.uint64]:
    """Return offset and length of each chunk, ``(*counts, 2)``; read-only.

    Raises
    ------
    ValueError
        When the index is cut off or does not match its checksum.
    """
    if len(data) != index_bytes(counts):
        raise ValueError(f"a shard's index has {len(data)} bytes, not {index_bytes(counts)}")
    return np.frombuffer(without_crc32c(memoryview(data)), "<u8").reshape(*counts, 2)


def assemble(
    chunks: dict[tuple[int, ...], list[Bytes]], counts: tuple[int, ...], *, index_first: bool
) -> list[Bytes]:
    """Return the pieces of a shard: its chunks along a Morton curve, and the index.

    Parameters
    ----------
    chunks
        Pieces of each chunk, by its position in the shard; the others are marked as absent.
    counts
        Chunks of a shard along each axis.
    index_first
        Whether the index stands before the chunks.
    """
    index: NDArray[Any] = np.full((*counts, 2), ABSENT, "<u8")
    offset = index_bytes(counts) if index_first else 0
    pieces: list[Bytes] = []
    for position in morton_order(counts):
        own = chunks.get(position)
        if own is None:
            continue
        size = sum(len(piece) for piece in own)
        index[position] = offset, size
        offset += size
        pieces += own
    stored = index.tobytes()
    tail: list[Bytes] = [stored, Checksum.of(stored)]
    return tail + pieces if index_first else pieces + tail


@lru_cache(maxsize=64)
def morton_order(counts: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the positions in a grid of `counts` along the Morton curve that zarr-python follows.

    Bits of the coordinates are interleaved, the lowest first, the first axis first; an axis that
    has run out of bits is passed over.
    """
    bits = [(n - 1).bit_length() for n in counts]
    return tuple(sorted(np.ndindex(*counts), key=lambda position: _interleaved(position, bits)))


def _interleaved(position: tuple[int, ...], bits: Sequence[int]) -> int:
    return sum(bit << place for place, bit in enumerate(_bits(position, bits)))


def _bits(position: tuple[int, ...], bits: Sequence[int]) -> Iterator[int]:
    for place in range(max(bits)):
        for coordinate, count in zip(position, bits, strict=True):
            if place < count:
                yield coordinate >> place & 1
