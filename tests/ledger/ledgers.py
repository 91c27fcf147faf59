"""Rows and ledgers to test with."""

from __future__ import annotations

import random

import numpy as np

from lepton_pipe.ledger.journal import Place, Unit
from lepton_pipe.ledger.ledger import Row


def key(block: int, seed: int = 0) -> bytes:
    return random.Random(1000 * seed + block).randbytes(16)  # noqa: S311


def row(block: int, seed: int = 0) -> Row:
    units = (Unit(0, block, 1000 + block, 5), Unit(1, block, 7, 8))
    return Row(block, key(block, seed), units[: block % 3], Place("a.log", 10 * block, 10))


def durable(rows: list[Row]) -> list[Row]:
    return [r._replace(durable=True) for r in rows]


def keys_of(rows: list[Row], blocks: int) -> np.ndarray:
    found = np.zeros(blocks, "V16")
    for r in rows:
        found[r.block] = np.void(r.key)
    return found
