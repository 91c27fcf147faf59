"""Small runs, in threads of the driver's own process: the same bytes, and the same endings."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run import executors
from lepton_pipe.run.driver import run_plan
from tests.command import PATIENCE, cleaned, names
from tests.run.five import FIVE, bind, fingerprints, picture

VOLUME = (9, 61, 70)
TILING = {"z": 4, "y": 17, "x": 23}
THREADS = Resources(2**33, workers=0, threads=3)
SERIAL = Resources(2**33, serial=True)


def run(pipeline, image, out, resources=THREADS, watcher=None):
    spec, sources = bind(pipeline, image)
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, resources, TILING)
    return run_plan(plan, sources, out, watcher=watcher or Silent())


@pytest.mark.parametrize("pipeline", FIVE, ids=lambda p: p.name)
def test_threads_publish_the_bytes_of_the_serial_executor(pipeline, tmp_path):
    image = picture(VOLUME, "uint16", 7)
    run(pipeline, image, tmp_path / "serial", SERIAL)
    run(pipeline, image, tmp_path / "threads")
    serial = fingerprints(tmp_path / "serial")
    assert len(serial) > 20
    assert fingerprints(tmp_path / "threads") == serial
    assert names(tmp_path) == {"serial", "threads"}


def at_once(kernel):
    """Return a pipeline of the kernel, which is told how many blocks run, and the most seen."""
    lock, seen = threading.Lock(), {"now": 0, "most": 0, "blocks": 0}

    @lp.kernel
    def counted(block, place):
        with lock:
            seen["blocks"] += 1
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
        try:
            return kernel(block, place)
        finally:
            with lock:
                seen["now"] -= 1

    @lp.pipeline
    def watched(raw: lp.Image):
        return counted(raw)

    return watched, seen


def test_as_many_blocks_run_at_once_as_the_plan_says(tmp_path):
    together = threading.Barrier(3, timeout=PATIENCE)
    pipeline, seen = at_once(lambda block, _: (together.wait(), block)[1])
    report = run(pipeline, picture(VOLUME, "uint16", 3), tmp_path / "o")
    assert seen["most"] == 3
    assert seen["blocks"] == report.stages[0].stats.blocks == 48


class Ticks(Silent):
    def __init__(self):
        self.ticks, self.said = 0, []

    def tick(self):
        self.ticks += 1

    def say(self, text):
        self.said.append(text)


def test_every_block_ticks_once(tmp_path):
    pipeline, _ = at_once(lambda block, _: block)
    watcher = Ticks()
    run(pipeline, picture(VOLUME, "uint16", 3), tmp_path / "o", watcher=watcher)
    assert watcher.ticks == 48


def test_a_failure_ends_the_run_when_the_blocks_that_run_have_ended(tmp_path, monkeypatch):
    awaited = threading.Event()

    class Awaited(threading.Thread):
        def join(self, timeout=None):
            awaited.set()
            super().join(timeout)

    def fails(block, place):
        if place.write.start == (0, 0, 0):
            raise ValueError("no luck")
        assert awaited.wait(PATIENCE)
        return block

    monkeypatch.setattr(executors, "Thread", Awaited)
    monkeypatch.setattr(executors, "STOP_SECONDS", PATIENCE)
    pipeline, seen = at_once(fails)
    with pytest.raises(KernelError, match="no luck"):
        run(pipeline, picture(VOLUME, "uint16", 3), tmp_path / "o")
    assert seen["now"] == 0
    # The thread of the one that failed may have begun another before it was told to stop.
    assert seen["blocks"] <= 4
    assert cleaned(tmp_path / "o") == set()


def test_a_kernel_that_never_ends_does_not_hold_a_run_that_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "STOP_SECONDS", 0.2)
    waiting, free = threading.Event(), threading.Event()

    def fails_or_waits(block, place):
        if place.write.start != (0, 0, 0):
            waiting.set()
            assert free.wait(PATIENCE)
        else:
            assert waiting.wait(PATIENCE)
            raise ValueError("no luck")
        return block

    pipeline, seen = at_once(fails_or_waits)
    with pytest.raises(KernelError, match="no luck"):
        run(pipeline, picture(VOLUME, "uint16", 3), tmp_path / "o")
    assert seen["now"] > 0
    free.set()
    mine = [t for t in threading.enumerate() if t.name.startswith("lepton-block")]
    assert all(t.daemon for t in mine)
    for thread in mine:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_no_thread_is_left(tmp_path):
    before = set(threading.enumerate())
    pipeline, _ = at_once(lambda block, _: block)
    run(pipeline, np.zeros(VOLUME, np.uint8), tmp_path / "o")
    assert set(threading.enumerate()) == before
