"""Run the command line in a process of its own, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_pipe.run.clean import clean

ROOT = Path(__file__).resolve().parent.parent
LEPTON = (sys.executable, "-m", "lepton_pipe.cli")
# Nothing is to take that long; a machine that does much else besides must not make a test fail.
PATIENCE = 240


def environment(**more: str) -> dict[str, str]:
    """Return the environment in which lepton_pipe is found, also where it is not installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def lepton(*words: object, cwd: Path, seconds: float = PATIENCE, **env: str):
    """Run ``lepton-pipe`` with these words and return the finished process."""
    return subprocess.run(
        [*LEPTON, *map(str, words)],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def python(*words: object, cwd: Path, seconds: float = PATIENCE, **more):
    """Run Python with these words and return the finished process."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
        **more,
    )


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "that never came"
        time.sleep(0.01)
    return found


def names(folder: Path) -> set[str]:
    """Return what lies in a folder, hidden files too."""
    return {entry.name for entry in folder.iterdir()}


def cleaned(out: Path) -> set[str]:
    """Give up what a stopped run keeps for the next one, and return what lies beside an output."""
    clean(out)
    return names(out.parent)


def assert_refused(result, status: int, *words: str) -> str:
    """Assert one clear message on stderr with these words, nothing on stdout, no traceback."""
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("lepton-pipe: ") == 1
    assert result.stdout == ""
    message = result.stderr[result.stderr.index("lepton-pipe: ") :]
    for word in words:
        assert word in message, message
    return message
