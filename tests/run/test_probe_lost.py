"""Kernels that end, hang or fill the process in which they are measured take nothing along."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import lepton_pipe as lp
from lepton_pipe.plan.rates import rate_key
from lepton_pipe.run import trial
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH
from tests.command import LEPTON, PATIENCE, environment, lepton, names, wait_for
from tests.run.probing import IMAGE, probed


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@lp.kernel
def exits(block):
    os._exit(3)


@lp.kernel
def crashes(block):
    ctypes.string_at(0)
    return block


@lp.kernel
def killed(block):
    os.kill(os.getpid(), signal.SIGKILL)
    return block


@lp.kernel
def leaves_quietly(block):
    os._exit(0)


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        (exits, "exit status 3"),
        (crashes, "SIGSEGV"),
        (killed, "SIGKILL"),
        (leaves_quietly, "exit status 0"),
    ],
)
def test_a_kernel_that_ends_its_process_is_told_of(kernel, how):
    _, found = probed(kernel)
    assert found.lost == kernel.name
    assert found.scratch == {}
    (note,) = found.notes
    for word in (
        f"{kernel.name} could not",
        how,
        "probing.py",
        f"{UNDECLARED_SCRATCH:g} bytes",
    ):
        assert word in note


@lp.kernel
def goes_well(block):
    return block + 1


def test_what_was_measured_before_is_kept_when_a_kernel_ends_the_process():
    spec, found = probed(exits, before=goes_well)
    assert list(found.scratch) == [rate_key(spec, spec["goes_well"])]
    assert found.lost == "exits"


@lp.kernel
def hangs(block):
    time.sleep(3600)
    return block


@lp.kernel
def hangs_in_c(block):
    """Hold the GIL for ever."""
    ctypes.PyDLL(None).pause()
    return block


@pytest.mark.parametrize("kernel", [hangs, hangs_in_c])
def test_a_kernel_that_hangs_is_ended(kernel, monkeypatch, capsys):
    monkeypatch.setattr(trial, "_SILENT_SECONDS", 0.0)
    others = psutil.Process().children()  # of a cluster that other tests use
    _, found = probed(kernel, before=lambda raw: raw, seconds=1.0)
    assert found.lost == kernel.name
    assert "not done after 1 s" in found.notes[0]
    assert capsys.readouterr().err.count("measuring what") == 1
    assert set(psutil.Process().children()) <= set(others)


@lp.kernel
def eats(block):
    """Take memory until there is no more."""
    eaten = []
    while len(eaten) < 4000:
        eaten.append(np.ones(2**20, np.uint8))
        time.sleep(0.001)
    return block


def test_a_kernel_that_takes_more_than_the_run_may_is_ended():
    _, found = probed(eats, memory=2**28)
    assert found.lost == "eats"
    assert "more than 256 MiB" in found.notes[0]


@lp.kernel
def quits(block):
    sys.exit("no more of this")


def test_a_kernel_that_raises_is_told_of_and_lost_is_nothing():
    _, found = probed(quits)
    assert found.lost == ""
    assert found.notes == [
        "kernels could not be measured on a part of the image: SystemExit: no more of this"
    ]


def test_a_kernel_that_cannot_be_sent_is_told_of():
    lock = threading.Lock()

    @lp.kernel
    def locked(block):
        with lock:
            return block + 1

    _, found = probed(locked)
    assert found.scratch == {}
    assert "lock" in found.notes[0]


MINE = """
import os
import sys
import time
from pathlib import Path
import lepton_pipe as lp

@lp.kernel
def dies(block):
    print("on the way out", flush=True)
    os._exit(3)

@lp.kernel
def talks(block):
    print("it goes well")
    os.write(1, b"very well indeed")
    return block + 1

@lp.kernel
def waits(block):
    Path("pid").write_text(str(os.getpid()))
    time.sleep(3600)
    return block

@lp.pipeline
def dying(raw: lp.Image):
    return dies(raw)

@lp.pipeline
def talking(raw: lp.Image):
    return talks(raw)

@lp.pipeline
def waiting(raw: lp.Image):
    return waits(raw)
"""


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    np.save(tmp_path / "raw.npy", IMAGE)
    return tmp_path


def test_a_plan_with_a_kernel_that_ends_its_process_says_so(place):
    done = lepton("plan", "mine.py:dying", "raw=raw.npy", "out=o", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "dies could not be measured" in done.stdout
    assert "exit status 3" in done.stdout
    assert "tasks on 1 x" in done.stdout
    assert "blocks run in worker processes" in done.stdout
    assert "on the way out" in done.stderr


def test_a_plan_that_is_to_run_in_this_process_says_what_comes_of_it(place):
    done = lepton("plan", "mine.py:dying", "raw=raw.npy", "out=o", "--serial", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "on one process" in done.stdout
    assert "with --workers 1 it has a process of its own" in done.stdout


def test_a_run_with_a_kernel_that_ends_its_process_ends_with_our_own_error(place):
    done = lepton("run", "mine.py:dying", "raw=raw.npy", "out=o", cwd=place)
    assert done.returncode == 2
    assert "dies could not be measured" in done.stderr
    last = done.stderr[done.stderr.index("lepton-pipe: ") :]
    assert "ended its worker process 3 times" in last
    assert "mine.py:" in last
    assert "o" not in names(place)


def test_what_a_kernel_prints_while_it_is_measured_is_not_on_stdout(place):
    done = lepton("plan", "mine.py:talking", "raw=raw.npy", "out=o", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"]
    assert "it goes well" in done.stderr
    assert "very well indeed" in done.stderr


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "0<&- >&- 2>&-"])
def test_a_plan_is_made_whatever_becomes_of_the_words_of_its_kernels(place, redirected):
    words = [*LEPTON, "plan", "mine.py:talking", "raw=raw.npy", "out=o", redirected]
    done = subprocess.run(
        ["bash", "-c", " ".join(words)], cwd=place, env=environment(), timeout=PATIENCE
    )
    assert done.returncode == 0
    kept = json.loads((place / "cache" / "lepton_pipe" / "rates.json").read_text())
    assert len(kept["rates"]["scratch"]) == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_command_that_is_stopped_takes_the_kernel_along(place, number, status):
    command = subprocess.Popen(
        [*LEPTON, "plan", "mine.py:waiting", "raw=raw.npy", "out=o"],
        cwd=place,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    there = psutil.Process(int(wait_for(lambda: pid_in(place))))
    os.killpg(command.pid, number)  # as a terminal does
    _, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == status
    assert "Traceback" not in told
    there.wait(PATIENCE)


def pid_in(place):
    file = place / "pid"
    return file.exists() and file.read_text()
