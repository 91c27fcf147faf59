"""What is said while a run goes on, and how numbers are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from lepton_pipe.report.memory import Family, PeakMemory
from lepton_pipe.report.plan_text import depth_text, duration, size
from lepton_pipe.report.progress import Silent, Terminal
from lepton_pipe.report.report import value_json
from tests.command import wait_for


def test_without_a_terminal_each_stage_is_a_line_on_stderr(capsys):
    with Terminal() as watcher:
        watcher.say("dashboard: http://[::1]:1/status")
        watcher.stage("gaussian", 3)
        watcher.tick()
        watcher.stage("label", 1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "dashboard: http://[::1]:1/status",
        "gaussian: 3 blocks",
        "label: 1 block",
    ]


def test_silence(capsys):
    watcher = Silent()
    watcher.say("x")
    watcher.stage("x", 1)
    watcher.tick()
    assert capsys.readouterr() == ("", "")


def test_the_peak_of_memory_is_seen():
    # In a process of its own: this one may hold freed memory that it would only use again.
    child = "import sys; block = b'x' * 2**28; sys.stdin.read()"
    with PeakMemory() as before:
        pass
    with PeakMemory() as memory:
        with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as process:
            wait_for(lambda: memory.peak_bytes > before.peak_bytes + 2**28 * 0.9)
            process.stdin.close()
        assert memory.peak_bytes < before.peak_bytes + 2**29


def test_a_child_that_has_just_been_forked_is_not_counted_as_a_second_parent():
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os.execvp("sleep", ["sleep", "60"])  # noqa: S606  (no shell is wanted)
    try:
        family = Family()
        assert child not in [p.pid for p in family.look()]
        os.write(tell, b".")
        while psutil.Process(child).name() != "sleep":
            time.sleep(0.01)
        assert child in [p.pid for p in family.look()]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_that_runs_on_as_a_copy_of_its_parent_is_counted():
    child = os.fork()
    if child == 0:
        time.sleep(60)
    try:
        family = Family()
        looks = [[p.pid for p in family.look()] for _ in range(40)]
        assert child not in looks[0]
        assert child in looks[-1]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (10 * 2**20, "10 MiB"),
        (2**40, "1.0 TiB"), (5000 * 2**40, "5000.0 TiB"),
    ],
)  # fmt: skip
def test_bytes_for_people(n, text):
    assert size(n) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0.2, "a second"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_times_for_people(n, text):
    assert duration(n) == text


def test_depth_for_people():
    assert depth_text(((0, 0), (0, 0))) == "-"
    assert depth_text(((0, 0), (2, 2), (0, 1))) == "0,2,0/1"


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (1, 1), (np.float64(0.5), 0.5), (np.nan, "nan"), (np.inf, "inf"), (np.True_, True),
        (np.array([1.0, -np.inf]), [1.0, "-inf"]), ((1, np.int64(2)), [1, 2]),
    ],
)  # fmt: skip
def test_values_as_json(value, data):
    assert value_json(value) == data
