"""Journals that are torn, cut off and damaged."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError
from lepton_pipe.ledger import records
from lepton_pipe.ledger.journal import Journal, Place, Receipt, append
from lepton_pipe.ledger.receipts import HEADER, MAGIC, MOST, encode
from lepton_pipe.store.checksums import crc32c
from tests.ledger.receipts import read, receipt, with_partial, write

THREE = [receipt(1), Receipt(2), receipt(3)]
BYTES = [encode(r) for r in THREE]
WHOLE = b"".join(BYTES)


def test_a_file_cut_off_anywhere_gives_the_records_before(folder):
    for size in range(len(WHOLE)):
        path = write(folder, WHOLE[:size])
        journal = Journal(folder)
        whole = [r for r, end in zip(THREE, _ends(), strict=True) if end <= size]
        assert [with_partial(journal, e) for e in journal.new()] == whole
        with path.open("ab") as file:  # the rest arrives
            file.write(WHOLE[size:])
        assert [e.block for e in journal.new()] == [r.block for r in THREE[len(whole) :]]


def _ends() -> list[int]:
    return [sum(map(len, BYTES[: i + 1])) for i in range(3)]


def test_a_flipped_bit_costs_its_own_record_alone(folder):
    for bit in range(8 * len(WHOLE)):
        data = bytearray(WHOLE)
        data[bit // 8] ^= 1 << bit % 8
        write(folder, bytes(data))
        hit = next(i for i, end in enumerate(_ends()) if bit // 8 < end)
        assert read(folder) == [r for i, r in enumerate(THREE) if i != hit]


def test_zeros_that_a_power_cut_left_are_passed_over(folder):
    write(folder, BYTES[0] + bytes(5000) + BYTES[2] + bytes(100))
    assert read(folder) == [THREE[0], THREE[2]]


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_rubbish_between_records_is_passed_over(tmp_path_factory, before, behind):
    folder = tmp_path_factory.mktemp("journal")
    write(folder, before + BYTES[0] + MAGIC[:5] + behind + BYTES[1] + MAGIC)
    assert read(folder) == THREE[:2]


def test_a_magic_at_the_end_of_a_window_is_found(folder, monkeypatch):
    monkeypatch.setattr(records, "_WINDOW", 64)
    for size in range(1, 140):
        write(folder, b"x" * size + BYTES[1])
        assert read(folder) == [THREE[1]]


def test_no_memory_is_taken_for_a_length_that_the_file_has_not(folder, monkeypatch):
    lie = HEADER.pack(MAGIC, MOST, 0)
    write(folder, lie + BYTES[0])
    asked = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda f, n, at: asked.append(n) or real(f, n, at))
    assert read(folder) == THREE[:1]
    assert max(asked) <= len(lie + BYTES[0])


@pytest.mark.parametrize(
    ("place", "block"),
    [
        (Place("host-1-1-a.log", 0, len(BYTES[0])), 2),
        (Place("host-1-1-a.log", len(BYTES[0]), len(BYTES[1])), 2),
        (Place("host-1-1-a.log", 1, len(BYTES[0])), 1),
        (Place("host-1-1-a.log", 0, len(BYTES[0]) + 1), 1),
        (Place("host-1-1-a.log", 0, 3), 1),
        (Place("host-1-1-a.log", 0, 0), 1),
        (Place("host-1-1-a.log", -1, 3), 1),
        (Place("host-1-1-a.log", 0, 1 << 62), 1),
        (Place("other.log", 0, len(BYTES[0])), 1),
        (Place("../outside.log", 0, len(BYTES[0])), 1),
        (Place("link.log", 0, len(BYTES[0])), 1),
        (Place("", 0, len(BYTES[0])), 1),
        (Place("a\0b", 0, len(BYTES[0])), 1),
    ],
)
def test_a_partial_that_is_not_there_is_refused(folder, place, block):
    write(folder, WHOLE)
    write(folder.parent, WHOLE, "outside.log")
    (folder / "link.log").symlink_to(folder.parent / "outside.log")
    journal = Journal(folder)
    assert journal.partial(Place("host-1-1-a.log", 0, len(BYTES[0])), 1) == THREE[0].partial
    with pytest.raises(DamagedError, match=f"block {block} "):
        journal.partial(place, block)


def test_a_partial_damaged_after_it_was_found_is_refused(folder):
    append(folder, receipt(1))
    journal = Journal(folder)
    (entry,) = journal.new()
    (path,) = folder.iterdir()
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert entry.place is not None
        with pytest.raises(DamagedError):
            journal.partial(entry.place, 1)


def test_parts_that_do_not_add_up_are_passed_over(folder):
    body = encode(receipt(1))[HEADER.size :]
    bad = body[:9] + b"\xff" + body[10:]
    length = len(bad).to_bytes(4, "little")
    write(folder, HEADER.pack(MAGIC, len(bad), crc32c(bad, crc32c(length))) + bad + BYTES[1])
    assert read(folder) == [THREE[1]]
    with pytest.raises(DamagedError):
        Journal(folder).partial(Place("host-1-1-a.log", 0, HEADER.size + len(bad)), 1)
