"""Copy chunks as they are stored, for an output level whose pixels are those of an input.

Encoding costs three to five times what decoding costs. Chunks are decoded all the same, because
what does not decode must not be copied, and because what follows wants the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec

from lepton_pipe.errors import RunError
from lepton_pipe.geometry import Region
from lepton_pipe.store.checksums import Bytes, Checksum
from lepton_pipe.store.chunked import place_in, touched
from lepton_pipe.store.source import Source
from lepton_pipe.store.storage import Storage
from lepton_pipe.store.target import ArrayTarget
from lepton_pipe.store.writers import DirectWriter, Writer, Written
from lepton_pipe.store.zarr_source import ZarrSource


def copyable(source: Source) -> tuple[BytesBytesCodec, ...] | None:
    """Return the codecs that an output must have to take over the chunks of `source` as bytes.

    They are those of the source, and a checksum. The output must have chunks of
    ``source.chunks``, and may gather them in any shards. None where chunks cannot be copied: the
    source is remote or no zarr array, has its axes in another order, is not stored in little-endian
    C order, or has codecs other than Blosc, Zstd and crc32c behind its plain bytes.
    """
    storage = _storage(source)
    return None if storage is None else storage.chain.checked_codecs()


def copy_block(
    source: Source, target: ArrayTarget, write: Region, read: Region | None = None
) -> tuple[NDArray[Any], list[Written]]:
    """Copy the chunks in `write` from `source` to `target`.

    Returns
    -------
    tuple
        The voxels of `read`, and what was written.

    Parameters
    ----------
    source
        One for which `copyable` gives codecs.
    target
        An array of the same shape, dtype and chunks, laid out with those codecs.
    write
        Whole chunks (or shards) of the target.
    read
        What to read; must contain `write`, and is `write` unless given.

    Raises
    ------
    DamagedError
        When stored data is missing or does not decode; chunks before it may have been copied.
    RunError
        When the system refuses, or the two arrays are not of one kind.
    ValueError
        When `write` cuts a chunk or shard of the target.
    """
    read = read or write
    writer = target.opened()
    if _storage(source) is None or not _alike(source, writer):
        raise RunError(
            f"{target.array_path}: is not laid out for the chunks of {source.uri}; nothing was "
            "written: give the output the same chunks, or let it be encoded anew"
        )
    assert isinstance(source, ZarrSource) and isinstance(writer, DirectWriter)
    array = np.empty(read.shape, source.type.dtype)
    with target.writing(write, writer):
        written = writer.put(write, partial(_taken_over, source, writer.storage, array, read))
    for index in touched(read, source.chunks):
        if not write.contains(source.region_of(index)):
            with source.reading(read):
                source.paste(array, read, index, source.held(index))
    return array, written


def _taken_over(
    source: ZarrSource, kept: Storage, array: NDArray[Any], read: Region, covered: Region
) -> Iterator[Bytes]:
    """Give what stores one chunk in the target, and end once it has been decoded into `array`.

    In this order, since what was just read is written from the processor's cache: twice as fast.
    What does not decode raises before the last piece was taken, so that no chunk becomes of it.
    """
    index = tuple(a // c for a, c in zip(covered.start, kept.chunks, strict=True))
    storage = source.storage
    assert storage is not None
    place = place_in(array, read, covered) if covered.shape == kept.chunks else None
    chunk = np.empty(kept.chunks, array.dtype) if place is None else place
    with source.reading(covered):
        data = source.stored(index)
        yield from kept.chain.encode(storage.fill()) if data is None else [data]
        if data is not None and not storage.chain.checksum:
            yield Checksum.of(data)
        storage.decode_into(data, chunk)
    if place is None:
        source.paste(array, read, index, chunk)


def _alike(source: Source, writer: Writer) -> bool:
    """Tell whether chunks of the source mean the same in the target."""
    chain = copyable(source)
    if chain is None or not isinstance(writer, DirectWriter):
        return False
    kept = writer.storage
    alike = (
        kept.shape == source.type.grid.shape
        and kept.chunks == source.chunks
        and kept.chain.dtype == source.type.dtype
        and kept.chain.checksum
    )
    return alike and kept.chain.checked_codecs() == chain


def _storage(source: Source) -> Storage | None:
    if not isinstance(source, ZarrSource) or not source.in_order:
        return None
    storage = source.storage
    if storage is None or not storage.chain.writable or storage.chain.bits:
        return None
    return None if storage.chain.dtype.byteorder == ">" else storage
