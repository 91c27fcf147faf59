"""Run the command line in a process that has all it needs in memory already: a tenth of the time.

The processes are forked from a server that has loaded much and run nothing, so each is a fresh one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.command import PATIENCE

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("lepton_pipe.cli", "lepton_pipe.api", "lepton_pipe.run.driver", "lepton_pipe.run.verify"),
        *("lepton_pipe.kernels", "numba", "scipy.ndimage", "scipy.linalg", "pyarrow.parquet"),
    ]
)

PLANTED = ("inputs-unseen", "damage-unseen")
"""Bugs that can be planted: changed inputs, or damaged files, are taken for what they were."""


class Ended(NamedTuple):
    """How a command ended: its status, negative for a signal, and what it said."""

    status: int
    said: str


def lepton(*words: object, cwd: Path, env: Mapping[str, str], bug: str | None = None) -> Ended:
    """Run ``lepton-pipe`` with these words, and with one of `PLANTED` if wanted."""
    log = cwd / "said"
    process = _SERVER.Process(target=_main, args=([*map(str, words)], cwd, dict(env), log, bug))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{words} did not end")
    said = log.read_text()
    log.unlink()
    return Ended(process.exitcode, said)


class Begun:
    """The command line in a forked process: what of `subprocess.Popen` the tests use.

    Parameters
    ----------
    env
        What is added to the environment.
    notes
        A folder for what it says.
    """

    def __init__(self, words: list[str], env: Mapping[str, str], notes: Path) -> None:
        self.args = words
        said = tempfile.mkdtemp(prefix="said-", dir=notes)
        self._said = Path(said, "out"), Path(said, "err")
        self._process = _SERVER.Process(target=_begin, args=(words, dict(env), notes, self._said))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        out, err = (path.read_text() for path in self._said)
        return out, err


def _begin(words: list[str], env: dict[str, str], notes: Path, said: tuple[Path, Path]) -> None:
    os.setsid()
    os.chdir(notes)
    os.environ.update(env)
    for stream, path in zip((sys.stdout, sys.stderr), said, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    from lepton_pipe.cli import main

    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _main(words: list[str], cwd: Path, env: dict[str, str], log: Path, bug: str | None) -> None:
    os.chdir(cwd)
    os.environ.update(env)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    if bug is not None:
        _plant(bug)
    from lepton_pipe.cli import main

    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _plant(bug: str) -> None:
    from lepton_pipe.run.units import StageFiles
    from lepton_pipe.store import file_digests

    if bug == "inputs-unseen":
        file_digests.file_version = lambda _: b"the same version"
    else:
        StageFiles.hold = lambda *_, **__: True
