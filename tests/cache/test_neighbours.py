"""Processes share decoded chunks: each is decoded once, and nothing is waited for that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.cache import neighbours
from lepton_pipe.cache.chunks import ChunkCache
from lepton_pipe.cache.neighbours import Neighbours
from tests.command import PATIENCE

KEY = ("/data/a.zarr", (1, 2, 3), (0, 4, 2))
CHUNK = np.arange(60_000, dtype=np.uint16).reshape(20, 30, 100)

pytestmark = pytest.mark.skipif(not neighbours.AVAILABLE, reason="needs Linux")


@contextmanager
def another_process(folder, does):
    """Run another process that says when it is ready; end it as a kill does."""
    script = f"""
import sys, time
import numpy as np
from tests.cache.test_neighbours import CHUNK, KEY
from lepton_pipe.cache.chunks import ChunkCache
from lepton_pipe.cache.neighbours import Neighbours
from pathlib import Path
folder = Path({str(folder)!r})
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


HOLDS = "cache = ChunkCache(10**6); cache.join(folder); cache.get(KEY, lambda: CHUNK)"
DECODES = "claim = Neighbours(folder).claim(KEY); assert claim.__enter__()"


def joined(folder, budget=10**6):
    cache = ChunkCache(budget)
    cache.join(folder)
    return cache


def open_files():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_what_another_process_holds_is_not_decoded(tmp_path):
    with another_process(tmp_path, HOLDS):
        cache = joined(tmp_path)
        found = cache.get(KEY, pytest.fail)
        assert found.dtype == CHUNK.dtype
        assert (found == CHUNK).all()
        assert not found.flags.writeable
        seen = cache.snapshot()
        assert (seen.hits, seen.misses, seen.held_bytes) == (1, 0, 0)
        assert cache.get(("other", KEY), lambda: CHUNK + 1)[0, 0, 0] == 1


def test_what_is_mapped_outlives_the_process_that_held_it(tmp_path):
    cache = joined(tmp_path)
    with another_process(tmp_path, HOLDS):
        found = cache.get(KEY, pytest.fail)
    assert (found == CHUNK).all()
    calls = []
    cache.get(KEY, lambda: calls.append(1) or CHUNK)
    assert calls == [1]
    assert (joined(tmp_path).get(KEY, pytest.fail) == CHUNK).all()  # the link leads here now


def test_who_decodes_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "WAIT_SECONDS", PATIENCE)
    shared, go = tmp_path / "shared", tmp_path / "go"
    shared.mkdir()
    slow = f"""
cache = ChunkCache(10**6); cache.join(folder)
import threading
def decode():
    print("ready", flush=True)
    while not Path({str(go)!r}).exists():
        time.sleep(0.01)
    return CHUNK
threading.Thread(target=cache.get, args=(KEY, decode)).start()
time.sleep({PATIENCE})
"""
    with another_process(shared, slow):
        cache = joined(shared)
        others = [(0,), KEY, (1,)]
        decoded = []
        for key, chunk in cache.each(others, lambda k: k, lambda k: decoded.append(k) or CHUNK):
            assert (chunk == CHUNK).all()
            last = key
            if key == (1,):
                go.touch()
        assert decoded == [(0,), (1,)]
        assert last == KEY  # what nobody is decoding comes first


def test_a_process_that_is_killed_while_it_decodes_is_waited_for_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "WAIT_SECONDS", PATIENCE)
    with another_process(tmp_path, DECODES) as process:
        threading.Timer(0.3, process.send_signal, [signal.SIGKILL]).start()
        began = time.monotonic()
        assert joined(tmp_path).get(KEY, lambda: CHUNK) is not None
        assert time.monotonic() - began < PATIENCE


def test_a_process_that_stands_still_is_waited_for_no_longer_than_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "WAIT_SECONDS", 0.1)
    with another_process(tmp_path, DECODES):
        cache, calls = joined(tmp_path), []
        assert (cache.get(KEY, lambda: calls.append(1) or CHUNK) == CHUNK).all()
        assert calls == [1]
        assert (joined(tmp_path).get(KEY, pytest.fail) == CHUNK).all()


def test_a_failure_is_told_here_and_tried_elsewhere(tmp_path):
    here, there = joined(tmp_path), joined(tmp_path)
    with pytest.raises(ZeroDivisionError):
        here.get(KEY, lambda: 1 // 0)
    assert (there.get(KEY, lambda: CHUNK) == CHUNK).all()
    assert (here.get(KEY, pytest.fail) == CHUNK).all()


def test_what_is_dropped_is_found_no_more_and_leaves_nothing_open(tmp_path):
    before = open_files()
    here, there = joined(tmp_path, budget=CHUNK.nbytes), joined(tmp_path, budget=0)
    there.resize(1)
    here.get("a", lambda: CHUNK)
    there.get("a", pytest.fail)
    here.get("b", lambda: CHUNK)
    here.get("c", lambda: CHUNK)
    calls = []
    there.get("a", lambda: calls.append(1) or CHUNK)
    assert calls == [1]
    assert here.snapshot().held_bytes == CHUNK.nbytes
    here.clear()
    here.join(None)
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []


def test_what_others_use_stays_longer(tmp_path):
    here, there = joined(tmp_path, budget=2 * CHUNK.nbytes), joined(tmp_path, budget=1)
    here.get("a", lambda: CHUNK)
    here.get("b", lambda: CHUNK)
    there.get("a", pytest.fail)
    here.get("c", lambda: CHUNK)
    there.get("a", pytest.fail)
    assert (there.get("b", lambda: CHUNK + 1) == CHUNK + 1).all()


def test_another_file_under_the_descriptor_is_not_taken_for_a_chunk(tmp_path):
    """A process has let go of a chunk, and opened something else, between two looks of another."""
    place = Neighbours(tmp_path)
    offer = place.offer(KEY, CHUNK)
    (link,) = tmp_path.iterdir()
    other = Neighbours(tmp_path).offer(("other",), CHUNK)
    for target in (
        f"/proc/{os.getpid()}/fd/{other._descriptor}",
        "/dev/null",
        str(tmp_path),
        "/proc/1/nothing",
    ):
        link.unlink()
        link.symlink_to(target)
        assert place.find(KEY) is None
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link.unlink()
    link.symlink_to(fifo)
    assert place.find(KEY) is None
    (tmp_path / "short").write_bytes(b"{}")
    link.unlink()
    link.symlink_to(tmp_path / "short")
    assert place.find(KEY) is None
    offer.withdraw()
    assert link.is_symlink()  # it leads to somebody else's
    other.withdraw()


@pytest.mark.parametrize("lacks", ["folder", "memory", "descriptors"])
def test_where_the_system_refuses_each_decodes_for_itself(tmp_path, monkeypatch, lacks):
    if lacks == "memory":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    elif lacks == "descriptors":
        monkeypatch.setattr(neighbours, "MOST_OFFERS", 0)
        monkeypatch.setattr("lepton_pipe.cache.chunks.MOST_OFFERS", 0)
    folder = tmp_path / "gone" if lacks == "folder" else tmp_path
    before = open_files()
    for _ in range(2):
        cache, calls = joined(folder), []
        for _ in range(2):
            assert (cache.get(KEY, lambda c=calls: c.append(1) or CHUNK) == CHUNK).all()
        assert calls == [1]  # its own is held as ever
    assert open_files() == before


def refuse(*_):
    raise OSError(28, "No space left on device")


def test_threads_of_several_caches_decode_each_chunk_once(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "WAIT_SECONDS", PATIENCE)
    caches, decoded = [joined(tmp_path, 10**8) for _ in range(3)], []

    def decode(key):
        decoded.append(key)
        time.sleep(0.001)
        return np.full(1000, key, np.int32)

    def work(number):
        keys = [(number + i) % 40 for i in range(40)]
        for key, chunk in caches[number % 3].each(keys, lambda k: k, decode):
            assert (chunk == key).all()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sorted(decoded) == list(range(40))


DTYPES = st.sampled_from(["u1", "<u2", ">i4", "<f4", "<f8", "?"])


@given(dtype=DTYPES, shape=st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple))
@settings(max_examples=30, deadline=None)
def test_a_chunk_is_found_as_it_was_offered(tmp_path_factory, dtype, shape):
    chunk = (np.arange(np.prod(shape)) * 37 % 251).astype(dtype).reshape(shape)
    place = Neighbours(tmp_path_factory.mktemp("n"))
    offer = place.offer(KEY, chunk)
    found = place.find(KEY)
    assert (found.dtype, found.shape) == (chunk.dtype, chunk.shape)
    assert found.tobytes() == chunk.tobytes() == offer.array.tobytes()
    assert place.find(("another",)) is None
    offer.withdraw()
    assert place.find(KEY) is None


@pytest.mark.parametrize("lacks", ["memfd_create", "open"])
def test_a_system_that_does_not_show_such_memory_to_others_is_told(monkeypatch, lacks):
    def refuse(*_):
        raise OSError(1, "not here")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, lacks, refuse)
    assert not neighbours._is_available()
    monkeypatch.delattr(os, "memfd_create")
    assert not neighbours._is_available()
    monkeypatch.undo()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
