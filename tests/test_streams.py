"""Streams that are closed or full lose words, never work; and nothing is written in their place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.command import LEPTON, PATIENCE, environment
from tests.run.five import fingerprints

MINE = """
import os
from contextlib import suppress
import lepton_pipe as lp

@lp.kernel
def loud(block):
    with suppress(OSError):
        os.write(2, b"warning: so it goes")
    return block + 1

@lp.pipeline
def mine(raw: lp.Image):
    '''Complain on the second stream in each block.'''
    return loud(raw)
"""
RUN = "run mine.py raw=raw.npy out={} --serial --chunks y=16,x=16"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "mine.py").write_text(MINE)
    np.save(folder / "raw.npy", np.arange(1024, dtype=np.uint16).reshape(32, 32))
    assert shell(RUN.format("whole"), folder).returncode == 0
    return folder


def shell(words, folder, redirected=""):
    command = " ".join([*LEPTON, words, redirected])
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        # As users have it: what is told on stderr may wait to be written too.
        env={n: v for n, v in environment().items() if n != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("redirected", [">/dev/full", "2>/dev/full", "&>/dev/full", "0<&- 2>&-"])
def test_a_run_is_published_whatever_becomes_of_its_words(place, redirected):
    out = place / f"o{abs(hash(redirected))}"
    done = shell(RUN.format(out), place, redirected)
    assert done.returncode == 0
    assert fingerprints(out) == fingerprints(place / "whole")
    if redirected == ">/dev/full":
        assert "is published and whole; the report went nowhere: No space left" in done.stderr
        assert "Traceback" not in done.stderr


def test_all_streams_closed(place):
    done = shell(RUN.format("closed"), place, "0<&- >&- 2>&-")
    assert done.returncode == 0
    assert fingerprints(place / "closed") == fingerprints(place / "whole")
    assert shell("verify closed", place).returncode == 0


@pytest.mark.parametrize("words", ["status whole", "verify whole --json", "list", "--help"])
def test_a_command_whose_words_are_all_it_does_fails_plainly(place, words):
    done = shell(words, place, ">/dev/full")
    assert done.returncode == 2
    wanted = "lepton-pipe: standard output could not be written to (No space left on device)"
    assert done.stderr.strip() == wanted


def test_a_failure_has_its_status_though_nobody_can_be_told(place):
    assert shell("run mine.py raw=none.npy out=none", place, "2>/dev/full").returncode == 1
    assert shell("verify none", place, "2>&-").returncode == 4
