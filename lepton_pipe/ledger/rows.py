"""Rows of blocks in a ledger, each with a checksum, and what is known of all blocks of a stage."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.ledger.journal import Place
from lepton_pipe.ledger.receipts import Unit, pack_units, unpack_units
from lepton_pipe.store.checksums import crc32c

KEY_BYTES = 16
_FACTS = struct.Struct("<QQQqqQQ")
_CRC = struct.Struct("<I")

Stored = tuple[int, bytes, bytes, int, int, int, int, int]
"""Block, key, units and checksum, journal (0: no partial), offset, length, attempts, epoch."""


class Row(NamedTuple):
    """What a ledger knows of a block that is done.

    Attributes
    ----------
    block
        Its number in the stage.
    key
        Content key that it was run for, 16 bytes.
    units
        The files it wrote.
    place
        Where its partial lies in the stage's journal; None where it has none.
    attempts
        How often it was tried, the last time with success.
    durable
        Whether the files survive a power cut. Else they are to be believed only when their bytes
        match. Not looked at when a row is recorded.
    """

    block: int
    key: bytes
    units: tuple[Unit, ...] = ()
    place: Place | None = None
    attempts: int = 1
    durable: bool = False


def to_stored(stage: int, row: Row, journal: int, epoch: int) -> Stored:
    """Return a row as it is stored; `journal` is the number of its journal's file."""
    if len(row.key) != KEY_BYTES:
        raise ValueError(f"block {row.block} has a key of {len(row.key)} bytes, not {KEY_BYTES}")
    offset, length = (row.place.offset, row.place.length) if row.place else (0, 0)
    numbers = (journal, offset, length, row.attempts, epoch)
    units = pack_units(row.units)
    crc = _crc(stage, row.block, row.key, units, numbers)
    return (row.block, row.key, units + _CRC.pack(crc), *numbers)


def _crc(stage: int, block: int, key: bytes, units: bytes, numbers: tuple[int, ...]) -> int:
    return crc32c(b"".join((_FACTS.pack(stage, block, *numbers), key, units)))


def from_stored(stage: int, stored: Any, journals: dict[int, str], durable: int) -> Row:
    """Return a row that was stored.

    Parameters
    ----------
    journals
        Files of the stage's journal by number.
    durable
        The last epoch whose rows survive a power cut.

    Raises
    ------
    ValueError, TypeError, KeyError, struct.error
        When it is not as it was stored.
    """
    block, key, data, *numbers = stored
    units = data[: -_CRC.size]
    (crc,) = _CRC.unpack(data[-_CRC.size :])
    if crc != _crc(stage, block, key, units, tuple(numbers)):
        raise ValueError(f"the row of block {block} does not match its checksum")
    journal, offset, length, attempts, epoch = numbers
    place = Place(journals[journal], offset, length) if journal else None
    return Row(block, key, unpack_units(units), place, attempts, epoch <= durable)


@dataclass(frozen=True)
class Done:
    """What is known of the blocks of a stage, by block number.

    Attributes
    ----------
    known
        Which blocks are done; bool.
    keys
        The keys they were run for, of dtype V16; zeros where a block is not done.
    durable
        Which of them survive a power cut; bool.
    """

    known: NDArray[np.bool_]
    keys: NDArray[np.void]
    durable: NDArray[np.bool_]

    @classmethod
    def nothing(cls, blocks: int) -> Done:
        """Return that no block of so many is done."""
        empty = np.zeros(blocks, bool)
        return cls(empty, np.zeros(blocks, f"V{KEY_BYTES}"), empty.copy())

    def note(self, rows: Iterable[tuple[Any, ...]], durable: int) -> None:
        """Take in rows: block, key, epoch. Rows up to the epoch `durable` survive a power cut.

        Raises
        ------
        ValueError, TypeError, IndexError, OverflowError
            When they are not as they were stored.
        """
        blocks, keys, epochs = zip(*rows, strict=True)
        at = np.fromiter(blocks, np.int64, len(blocks))
        self.keys[at] = np.frombuffer(b"".join(keys), self.keys.dtype, len(keys))
        self.durable[at] = np.fromiter(epochs, np.int64, len(epochs)) <= durable
        self.known[at] = True

    def note_range(self, blocks: slice, keys: str, *, durable: bool) -> None:
        """Take in blocks that follow one another, by their keys in hexadecimal digits.

        Raises
        ------
        ValueError
            When these are not as many keys as blocks.
        """
        self.keys[blocks] = np.frombuffer(bytes.fromhex(keys), self.keys.dtype)
        self.durable[blocks] = durable
        self.known[blocks] = True

    def same(self, keys: NDArray[np.void]) -> NDArray[np.bool_]:
        """Return which blocks are done for exactly these keys, ``(blocks,)`` of dtype V16."""
        equal: NDArray[np.bool_] = (_words(self.keys) == _words(keys)).all(axis=1)
        return equal & self.known


def _words(keys: NDArray[np.void]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(np.uint64).reshape(-1, KEY_BYTES // 8)
