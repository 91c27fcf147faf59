"""Receipts, and journals of them that are read and written by hand."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from lepton_pipe.ledger.journal import Entry, Journal, Receipt, Unit

UNITS = st.builds(
    Unit,
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)
RECEIPTS = st.builds(
    Receipt,
    st.integers(0, 2**64 - 1),
    st.lists(UNITS, max_size=3).map(tuple),
    st.none() | st.binary(max_size=40),
    st.binary(max_size=16),
)


def receipt(block: int, size: int = 20) -> Receipt:
    units = (Unit(0, block, 1000 + block, 77),)
    return Receipt(block, units, bytes([block % 256]) * size, b"k" * 16)


def write(folder: Path, data: bytes, name: str = "host-1-1-a.log") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def read(folder: Path) -> list[Receipt]:
    """Return all receipts of a journal with their partials."""
    journal = Journal(folder)
    return [with_partial(journal, entry) for entry in journal.new()]


def with_partial(journal: Journal, e: Entry) -> Receipt:
    partial = None if e.place is None else journal.partial(e.place, e.block)
    return Receipt(e.block, e.units, partial, e.key)
