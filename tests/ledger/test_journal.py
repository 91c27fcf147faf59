"""What workers note in a journal: who writes, what is found, and a system that refuses."""

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

from lepton_pipe.errors import RunError
from lepton_pipe.ledger import journal as module
from lepton_pipe.ledger import records
from lepton_pipe.ledger.journal import Entry, Journal, Receipt, append
from lepton_pipe.ledger.receipts import decode, encode, is_whole
from tests.ledger.receipts import RECEIPTS, read, receipt, write

ROOT = Path(__file__).parents[2]


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


def test_what_is_read_elsewhere_is_closed_and_goes_to_the_same_file(folder):
    def is_open():
        targets = (p.readlink() for p in Path("/proc/self/fd").iterdir() if p.is_symlink())
        return any(t.parent == folder for t in targets)

    append(folder, receipt(1))
    assert is_open()
    for number in (2, 3):
        append(folder, receipt(number), elsewhere=True)
        assert not is_open()
    append(folder, receipt(4))
    assert len(list(folder.iterdir())) == 1
    assert [e.block for e in Journal(folder).new()] == [1, 2, 3, 4]
