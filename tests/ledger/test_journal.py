from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.ledger import journal as module
from lepton_pipe.ledger import records
from lepton_pipe.ledger.journal import Entry, Journal, Place, Receipt, Unit, append
from lepton_pipe.ledger.receipts import HEADER, MAGIC, MOST, decode, encode, is_whole
from lepton_pipe.store.checksums import crc32c

ROOT = Path(__file__).parents[2]

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
    return [_whole(journal, entry) for entry in journal.new()]


def _whole(journal: Journal, e: Entry) -> Receipt:
    partial = None if e.place is None else journal.partial(e.place, e.block)
    return Receipt(e.block, e.units, partial, e.key)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "journal" / "2"


# -- there and back -------------------------------------------------------------------------


@given(RECEIPTS)
def test_receipts_come_back_from_records(value):
    record = encode(value)
    assert is_whole(record)
    assert decode(record) == (value, value.partial is not None)


def test_what_is_appended_is_found(folder):
    values = [receipt(3), Receipt(4), Receipt(5, (), b""), receipt(6, 100_000)]
    for value in values:
        append(folder, value)
    assert read(folder) == values
    assert [p.stat().st_mode & 0o777 for p in folder.iterdir()] == [0o600]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_new_is_found_once(folder):
    journal = Journal(folder)
    assert journal.new() == []
    for block in range(3):
        append(folder, receipt(block))
        assert [e.block for e in journal.new()] == [block]
    assert journal.new() == []


def test_a_later_journal_goes_on_where_one_ended(folder):
    first = Journal(folder)
    for block in range(4):
        append(folder, receipt(block))
    assert [e.block for e in first.new(most=3)] == [0, 1, 2]
    second = Journal(folder, first.read)
    assert [e.block for e in second.new()] == [3]
    assert Journal(folder, second.read).new() == []


def test_new_receipts_can_be_taken_in_parts_over_many_files(folder):
    for file in range(3):
        write(folder, b"".join(encode(receipt(10 * file + i)) for i in range(5)), f"{file}.log")
    journal, found = Journal(folder), []
    while entries := journal.new(most=4):
        assert len(entries) <= 4
        found += [e.block for e in entries]
    assert found == [10 * file + i for file in range(3) for i in range(5)]


def test_records_larger_than_a_window_are_found(folder, monkeypatch):
    monkeypatch.setattr(records, "_WINDOW", 64)
    values = [receipt(i, size) for i, size in enumerate([0, 1, 7, 63, 64, 65, 1000, 3, 20_000])]
    for value in values:
        append(folder, value)
    assert read(folder) == values


def test_what_is_no_journal_is_left_alone(folder):
    append(folder, receipt(1))
    write(folder, b"rubbish", "notes.txt")
    assert [r.block for r in read(folder)] == [1]


# -- who writes -----------------------------------------------------------------------------


def test_threads_have_files_of_their_own(folder):
    def work(first: int) -> None:
        for i in range(50):
            append(folder, receipt(first + i))

    threads = [threading.Thread(target=work, args=(50 * t,)) for t in range(6)]
    for thread in threads:
        thread.start()
    journal, found = Journal(folder), []
    while any(t.is_alive() for t in threads):
        found += journal.new()
    found += journal.new()
    assert sorted(e.block for e in found) == list(range(300))
    assert len(list(folder.iterdir())) == 6
    assert sorted(read(folder)) == [receipt(i) for i in range(300)]


def _open_files() -> set[str]:
    """Return the journals that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue
    return {f for f in found if f.endswith(".log")}


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@linux
def test_a_thread_that_ends_closes_its_file(folder):
    before = _open_files()
    thread = threading.Thread(target=append, args=(folder, receipt(1)))
    thread.start()
    thread.join()
    assert _open_files() == before
    append(folder, receipt(2))
    assert len(_open_files() - before) == 1


@linux
def test_a_thread_keeps_few_files_open(tmp_path):
    before = _open_files()

    def work() -> None:
        for i in range(20):
            append(tmp_path / str(i), receipt(i))
            append(tmp_path / str(i), receipt(i))
        assert len(_open_files() - before) <= module._OPEN_FILES

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [len(list((tmp_path / str(i)).iterdir())) for i in range(20)] == [1] * 20
    assert all(len(read(tmp_path / str(i))) == 2 for i in range(20))


def test_a_process_that_was_forked_has_a_file_of_its_own(folder):
    append(folder, receipt(1))
    child = os.fork()
    if child == 0:
        append(folder, receipt(2))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    append(folder, receipt(3))
    by_file = {p: [e.block for e in _entries(p)] for p in folder.iterdir()}
    assert sorted(by_file.values()) == [[1, 3], [2]]


def _entries(path: Path) -> list[Entry]:
    return [e for e in Journal(path.parent).new() if e.place and e.place.file == path.name]


def test_a_folder_that_was_moved_away_is_not_written_to(folder, tmp_path):
    append(folder, receipt(1))
    published = tmp_path / "published"
    folder.rename(published)
    append(folder, receipt(2))
    assert [r.block for r in read(published)] == [1]
    assert [r.block for r in read(folder)] == [2]


def test_a_killed_process_leaves_whole_receipts_alone(folder):
    code = """
import sys, pathlib
from lepton_pipe.ledger.journal import Receipt, append
block = 0
while True:
    append(pathlib.Path(sys.argv[1]), Receipt(block, (), bytes(3000)))
    block += 1
"""
    started = [subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT) for _ in "ab"]
    journal, found = Journal(folder), []
    deadline = time.monotonic() + 60
    while len({e.place for e in found if e.block == 100}) < 2 and time.monotonic() < deadline:
        found += journal.new()
    for process in started:
        process.kill()
        process.wait()
    found += journal.new()
    by_file: dict[str, list[int]] = {}
    for entry in found:
        assert entry.place is not None
        by_file.setdefault(entry.place.file, []).append(entry.block)
        assert journal.partial(entry.place, entry.block) == bytes(3000)
    assert len(by_file) == 2
    assert all(blocks == list(range(len(blocks))) for blocks in by_file.values())


# -- a system that refuses ------------------------------------------------------------------


def test_what_there_was_no_room_for_is_cut_off(folder, monkeypatch):
    append(folder, receipt(1))
    real = os.write

    def short(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:30])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(RunError, match="disk full"):
            append(folder, receipt(2))
    (path,) = folder.iterdir()
    assert path.read_bytes() == encode(receipt(1))
    append(folder, receipt(3))
    assert sorted(r.block for r in read(folder)) == [1, 3]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file/journal"):
        append(tmp_path / "file" / "journal", receipt(1))


def test_a_partial_that_is_too_large_is_refused(folder, monkeypatch):
    monkeypatch.setattr("lepton_pipe.ledger.receipts.MOST", 1000)
    with pytest.raises(RunError, match="block 7 contributes"):
        append(folder, receipt(7, 2000))


def test_a_sync_reaches_the_file_and_its_folders(folder, monkeypatch):
    synced: list[Any] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    append(folder, receipt(1))
    assert synced == []
    append(folder, receipt(2), sync=True)
    (path,) = folder.iterdir()
    assert synced == [path, folder, folder.parent]
    append(folder, receipt(3), sync=True)
    assert synced[3:] == [path]


# -- torn and damaged files -----------------------------------------------------------------

THREE = [receipt(1), Receipt(2), receipt(3)]
BYTES = [encode(r) for r in THREE]
WHOLE = b"".join(BYTES)


def test_a_file_cut_off_anywhere_gives_the_records_before(folder):
    for size in range(len(WHOLE)):
        path = write(folder, WHOLE[:size])
        journal = Journal(folder)
        whole = [r for r, end in zip(THREE, _ends(), strict=True) if end <= size]
        assert [_whole(journal, e) for e in journal.new()] == whole
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
