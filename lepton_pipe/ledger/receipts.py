"""What a worker says of a block that is done, as bytes with a checksum.

A record stands by itself, so that what comes after a torn one can still be found::

    magic   8 bytes
    length  4 bytes     of the body
    crc32c  4 bytes     of length and body
    body    block, bytes of the key, number of units, bytes of the partial (-1: there is none);
            then the key, the units, the partial

All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from lepton_pipe.errors import RunError
from lepton_pipe.store.checksums import crc32c

Bytes = bytes | memoryview

MAGIC = b"\x89lpR\r\n\x1a\x01"
HEADER = struct.Struct("<8sII")
MOST = 1 << 30
"""Bytes of a record at most: the system writes no more than 2 GiB in one call."""

_LENGTH = struct.Struct("<I")
_BODY = struct.Struct("<QBIq")
_UNIT = struct.Struct("<HQQI")


class Unit(NamedTuple):
    """A file that a block wrote: one chunk or shard.

    Attributes
    ----------
    target
        Number of the array, among those that the stage writes.
    unit
        Its number, in C order of the array's grid of units.
    size, crc
        Bytes of the file, and its sum, see `lepton_pipe.store.durable.FileSum`.
    """

    target: int
    unit: int
    size: int
    crc: int


class Receipt(NamedTuple):
    """What a worker says of a block that is done.

    Attributes
    ----------
    block
        Its number in the stage.
    units
        What it wrote.
    partial
        What it contributes to reductions, packed; None where the stage has none.
    key
        Content key that the block was run for, up to 255 bytes: what is found in a journal after
        a crash is believed for that key alone.
    """

    block: int
    units: tuple[Unit, ...] = ()
    partial: bytes | None = None
    key: bytes = b""


def pack_units(units: Iterable[Unit]) -> bytes:
    """Return units as bytes, 22 for each."""
    return b"".join([_UNIT.pack(*unit) for unit in units])


def unpack_units(data: Bytes) -> tuple[Unit, ...]:
    """Return the units that `pack_units` made `data` of; raise `ValueError` if it did not."""
    if len(data) % _UNIT.size:
        raise ValueError(f"{len(data)} bytes are no number of units")
    return tuple(map(Unit._make, _UNIT.iter_unpack(data)))


def encode(receipt: Receipt) -> bytes:
    """Return a receipt as a record.

    Raises
    ------
    RunError
        When the partial is larger than a record can be.
    """
    partial = receipt.partial
    units = pack_units(receipt.units)
    size = -1 if partial is None else len(partial)
    head = _BODY.pack(receipt.block, len(receipt.key), len(receipt.units), size)
    body = b"".join((head, receipt.key, units, partial or b""))
    if len(body) > MOST:
        raise RunError(
            f"block {receipt.block} contributes {len(body)} bytes to a reduction, and a journal "
            f"takes {MOST} at most: take smaller blocks, or let the kernel return less"
        )
    length = _LENGTH.pack(len(body))
    return HEADER.pack(MAGIC, len(body), crc32c(body, crc32c(length))) + body


def is_whole(record: Bytes) -> bool:
    """Tell whether bytes are a record, all of it, as it was written."""
    if len(record) < HEADER.size + _BODY.size:
        return False
    magic, length, crc = HEADER.unpack_from(record)
    body = memoryview(record)[HEADER.size :]
    if magic != MAGIC or length != len(body):
        return False
    return bool(crc == crc32c(body, crc32c(_LENGTH.pack(length))))


def decode(record: Bytes, *, partial: bool = True) -> tuple[Receipt, bool]:
    """Return the receipt of a record that is whole, and whether there is a partial in it.

    Parameters
    ----------
    partial
        Whether to copy the partial; else it is None.

    Raises
    ------
    ValueError
        When its parts do not add up to it.
    """
    block, keys, units, size = _BODY.unpack_from(record, HEADER.size)
    key_at = HEADER.size + _BODY.size
    units_at = key_at + keys
    partial_at = units_at + units * _UNIT.size
    if size < -1 or partial_at + max(0, size) != len(record):
        raise ValueError(f"the parts of a record do not add up to its {len(record)} bytes")
    view = memoryview(record)
    found = unpack_units(view[units_at:partial_at])
    kept = bytes(view[partial_at:]) if partial and size >= 0 else None
    return Receipt(block, found, kept, bytes(view[key_at:units_at])), size >= 0
