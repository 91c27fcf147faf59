"""Kernels that no other process can be sent stay in this one, and the user is told."""

from __future__ import annotations

import json
import signal
import threading

import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.check import check
from lepton_pipe.errors import UsageError
from tests.command import lepton

IMAGE = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)


def with_a_lock():
    lock = threading.Lock()

    @lp.kernel(depth=1, scratch=8.0, cost=50.0)
    def guarded(image):
        with lock:
            return image + image.dtype.type(1)

    return guarded


by_value = with_a_lock()  # under another name than its own: it cannot be imported


@lp.pipeline
def one_at_a_time(raw: lp.Image):
    return {"out": by_value(raw)}


@pytest.mark.parametrize("words", [{}, {"serial": True}, {"on_error": "skip"}, {"threads": 2}])
def test_they_run_in_this_process(tmp_path, words):
    plan = one_at_a_time.plan(raw=IMAGE, out=tmp_path / "o", memory="1GiB", **words)
    assert plan.data.resources.in_process
    assert any("can be sent guarded (TypeError: cannot pickle" in note for note in plan.notes)
    report = plan.run(progress=False)
    assert not report.quarantine
    made = zarr.open_group(str(tmp_path / "o" / "out"), mode="r")["0"]
    assert (made[...] == IMAGE + 1).all()


@pytest.mark.parametrize("words", [{"workers": 2}, {"scheduler": "tcp://127.0.0.1:1"}])
def test_workers_that_are_asked_for_are_refused_before_anything_runs(tmp_path, words):
    with pytest.raises(UsageError, match=r"guarded \(TypeError.*test_unsent.*--workers"):
        one_at_a_time.plan(raw=IMAGE, out=tmp_path / "o", **words)
    assert list(tmp_path.iterdir()) == []


def test_they_are_checked_in_this_process():
    assert check(one_at_a_time, raw=IMAGE, part=24).equal


KILLED = """
import os, threading
from pathlib import Path
import lepton_pipe as lp

def with_a_lock():
    lock = threading.Lock()
    @lp.kernel(depth=1, scratch=8.0, cost=50.0)
    def guarded(image, place):
        if any(place.write.start) and Path("kill").exists():
            Path("kill").unlink()
            os.kill(os.getpid(), 9)
        with lock:
            return image + image.dtype.type(1)
    return guarded

by_value = with_a_lock()  # under another name than its own: it cannot be imported

@lp.pipeline
def one_at_a_time(raw: lp.Image):
    return {"out": by_value(raw)}
"""


def test_the_same_command_goes_on_after_a_kill(tmp_path):
    (tmp_path / "mine.py").write_text(KILLED)
    np.save(tmp_path / "raw.npy", np.zeros((2000, 2000), np.uint16))
    (tmp_path / "kill").touch()
    words = ("run", "mine.py", "raw=raw.npy", "out=o", "--chunks", "y=256,x=256", "--json")
    assert lepton(*words, cwd=tmp_path).returncode == -signal.SIGKILL
    again = lepton(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["out"].endswith("o")
