"""What one process puts on its shelf others read whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.cache import neighbours, shelf
from lepton_pipe.cache.shelf import Shelf
from tests.command import PATIENCE

pytestmark = pytest.mark.skipif(not neighbours.AVAILABLE, reason="needs Linux")


@contextmanager
def another_process(folder, does="shelf.put('a', [b'some', b'thing'])"):
    """Run another process that has a shelf, and says when it is ready; end it as a kill does."""
    script = f"""
import time
from pathlib import Path
from lepton_pipe.cache.shelf import Shelf
shelf = Shelf(Path({str(folder)!r}))
{does}
print("ready", flush=True)
time.sleep({PATIENCE})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def taken(segment):
    """Return the bytes that a segment takes of the memory."""
    return 512 * os.fstat(segment.descriptor).st_blocks


def test_what_another_process_has_put_is_found(tmp_path):
    here = Shelf(tmp_path)
    assert here.find("a") is None
    assert here.stamp("a") is None
    with another_process(tmp_path):
        assert here.find("a") == b"something"
        assert here.stamp("a") == Shelf(tmp_path).stamp("a") is not None
        assert here.find("b") is None


def test_what_a_process_had_that_was_killed_is_found_no_more(tmp_path):
    with another_process(tmp_path):
        pass
    here = Shelf(tmp_path)
    assert here.find("a") is None
    entry = here.put("a", [b"again"])
    assert here.find("a") == Shelf(tmp_path).find("a") == b"again"
    assert entry.stamp == here.stamp("a")


def test_what_is_freed_is_found_no_more_and_its_memory_is_given_back(tmp_path):
    here, before = Shelf(tmp_path), open_files()
    entries = [here.put(str(n), [bytes([n]) * 100_000]) for n in range(9)]
    (segment,) = {e._segment for e in entries}
    full = taken(segment)
    entries[4].free()
    assert here.find("4") is None
    assert full - taken(segment) >= 100_000 - 2 * 4096
    assert [here.find(str(n)) for n in (3, 5)] == [bytes([n]) * 100_000 for n in (3, 5)]
    for entry in entries[:4] + entries[5:]:
        entry.free()
    assert taken(segment) <= 10 * 4096  # pages that two have shared
    assert list(tmp_path.iterdir()) == []
    del here, entries, entry, segment
    assert open_files() == before


def test_a_segment_goes_with_the_last_of_its_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "SEGMENT_BYTES", 1000)
    here, before = Shelf(tmp_path), open_files()

    def segments():
        assert (open_files() - before) % 2 == 0
        return (open_files() - before) // 2

    entries = [here.put(str(n), [b"x" * 300]) for n in range(7)]  # three to a segment
    assert segments() == 3
    large = here.put("large", [b"y" * 5000])  # has one to itself
    for entry in entries[:2]:
        entry.free()
    entry = entries[2]
    assert segments() == 4
    entries[2].free()
    assert here.find("3") == b"x" * 300
    del entries[:3], entry
    assert segments() == 3
    large.free()
    del large
    assert segments() == 3  # there may be room for more in the last one
    assert here.put("more", [b"z" * 5001])
    assert segments() == 3


def test_segments_are_few_however_much_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "SEGMENT_BYTES", 1000)
    here = Shelf(tmp_path)
    entries = [here.put(str(n), [bytes([n % 256]) * 900]) for n in range(5000)]
    assert len({e._segment.descriptor for e in entries}) <= 120
    monkeypatch.setattr(shelf, "MOST_SEGMENTS", 3)
    there = Shelf(tmp_path)
    entries = [there.put(f"there {n}", [b"x" * 900]) for n in range(4)]
    assert entries[3] is None
    entries[1].free()
    assert there.put("there 3", [b"x" * 900])


def test_what_has_taken_the_place_of_an_entry_stays_when_that_is_freed(tmp_path):
    here = Shelf(tmp_path)
    old = here.put("a", [b"old"])
    with another_process(tmp_path, "shelf.put('a', [b'new'])"):
        assert here.find("a") == b"new"
        old.free()
        assert here.find("a") == b"new"
        assert here.stamp("a") != old.stamp


@pytest.mark.parametrize("lacks", ["memfd_create", "posix_fallocate", "symlink"])
def test_where_the_system_refuses_nothing_is_put(tmp_path, monkeypatch, lacks):
    def refuse(*_, **__):
        raise OSError(12, "refused")

    here = Shelf(tmp_path)
    monkeypatch.setattr(os, lacks, refuse)
    assert here.put("a", [b"something"]) is None
    monkeypatch.undo()
    assert here.find("a") is None
    assert here.put("a", [b"something"])
    assert here.find("a") == b"something"


@pytest.mark.parametrize("where", ["short", "pipe", "closed"])
def test_another_file_under_the_descriptor_is_not_taken_for_an_entry(tmp_path, where):
    here, descriptors = Shelf(tmp_path), []
    here.put("a", [b"something"])
    (link,) = tmp_path.iterdir()
    if where == "short":
        (tmp_path / "short").write_bytes(b"x")
        descriptors.append(os.open(tmp_path / "short", os.O_RDONLY))
    elif where == "pipe":  # to open one that nobody writes to would wait for ever
        descriptors.extend(os.pipe())
    _, _, *rest = link.readlink().name.split(":")
    link.unlink()
    link.symlink_to(
        ":".join([str(os.getpid()), str(descriptors[0] if descriptors else 9999), *rest])
    )
    assert here.find("a") is None
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_is_no_link_of_ours_is_left_alone(tmp_path):
    here = Shelf(tmp_path)
    entry = here.put("a", [b"something"])
    (link,) = tmp_path.iterdir()
    link.unlink()
    link.symlink_to("/dev/null")
    assert here.find("a") is here.stamp("a") is None
    entry.free()
    assert link.is_symlink()


def test_who_reads_while_entries_come_and_go_reads_whole_ones(tmp_path):
    here, other, over = Shelf(tmp_path), Shelf(tmp_path), threading.Event()
    seen = set()

    def read(_):
        while not over.is_set():
            data = other.find("a")
            if data is not None:
                assert data == bytes([data[0]]) * 50_000
                seen.add(data[0])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, n) for n in range(3)]
        old = None
        for n in range(1, 400):
            entry = here.put("a", [bytes([n % 250 + 1]) * 50_000])
            if old is not None:
                old.free()
            if n % 7 == 0:
                entry.free()
                entry = None
            old = entry
        over.set()
        for reader in readers:
            reader.result()
    assert 0 not in seen  # what is freed is zeros


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3000), st.booleans()), max_size=40),
    st.integers(1, 2000),
)
def test_what_was_put_last_is_found_unless_it_was_freed(tmp_path_factory, puts, segment):
    here, there = Shelf(tmp_path_factory.mktemp("shelf")), {}
    before, shelf.SEGMENT_BYTES = shelf.SEGMENT_BYTES, segment
    try:
        for serial, (name, size, freed) in enumerate(puts):
            data = bytes([serial + 1]) * size
            if (old := there.pop(name, None)) is not None:
                old[0].free()
            entry = here.put(str(name), [data[: size // 2], data[size // 2 :]])
            if freed:
                entry.free()
            else:
                there[name] = entry, data
            found = {n: here.find(str(n)) for n in range(10)}
            assert found == {n: there[n][1] if n in there else None for n in range(10)}
            assert all(e.view == d and here.stamp(str(n)) == e.stamp for n, (e, d) in there.items())
    finally:
        shelf.SEGMENT_BYTES = before
