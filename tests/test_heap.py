"""One heap: set for a process without threads, left alone where there are some."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from lepton_pipe import heap
from tests.command import python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")

# Blocks of one thread after the other, each leaving small things between its arrays.
SCRIPT = """
import threading
import sys
import numpy as np
from lepton_pipe.heap import give_back, one_heap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) >> 8

def work():
    for _ in range(4):
        arrays = [np.ones(2**20) for _ in range(4)]
        pins.append(np.ones(2**16))

pins = []
start = resident()
one_heap()
for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
kept = resident() - start
give_back()
print(kept, resident() - start)
"""


def test_what_is_freed_is_kept_for_the_next_block_and_given_back_in_the_end(tmp_path):
    done = python("-c", SCRIPT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept, after = map(int, done.stdout.split())
    # Arrays of 64 MiB at a time, old and new; with an arena for each thread it would be more.
    assert 64 <= kept < 96
    assert after < kept - 16


def huge_pages() -> bool:
    status = Path("/proc/self/status").read_text()
    (told,) = (line for line in status.splitlines() if line.startswith("THP_enabled:"))
    return told.split()[1] == "1"


def test_pages_are_small_meanwhile_and_as_they_were_before_afterwards():
    before = huge_pages()
    with heap.small_pages():
        assert not huge_pages()
        with heap.small_pages():
            assert not huge_pages()
        assert not huge_pages()
    assert huge_pages() == before


def test_a_process_with_threads_is_left_alone(monkeypatch):
    changed = []
    monkeypatch.setattr(heap, "_libc", lambda _name: lambda *setting: changed.append(setting))
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    heap.one_heap()
    assert changed == []
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    heap.one_heap()
    assert len(changed) == len(heap.ENVIRONMENT)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_libc", lambda _name: None)
    heap.one_heap()
    heap.give_back()
