"""Results that say who made them, and runs that are killed while they publish them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from lepton_pipe.failpoints import VARIABLE
from lepton_pipe.run.publish import MARKER, Staging
from tests.command import environment, names

_WORKS = """
import sys
from pathlib import Path
from lepton_pipe.run.publish import Staging
staging = Staging(Path(sys.argv[1]), overwrite=True)
(staging.path / "large").write_bytes(bytes(100_000))
print("staged", flush=True)
sys.stdin.read()
"""


@contextmanager
def working_on(out):
    """A process that has staged 100,000 bytes, and goes on until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _WORKS, str(out)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "staged\n"
        try:
            yield process
        finally:
            process.kill()


def written(staging, text):
    """Stage a result that says `text`."""
    (staging.path / "result").write_text(text)
    (staging.path / MARKER).write_text(json.dumps(_record(text)))
    return staging


def _record(text):
    return {"says": text, "measured": {"outputs": {"result": {"path": "result"}}}}


def published(out, text):
    """Publish a result that says `text`."""
    written(Staging(out), text).publish()
    return out


def publishes(out, text, resume=False):
    """Replace whatever is there by a result that says `text`."""
    written(Staging(out, overwrite=True, resume=resume), text).publish()


def content(out):
    """Return what a whole output says; fail on a mixture."""
    assert names(out) == {"result", MARKER}
    said = (out / "result").read_text()
    assert json.loads((out / MARKER).read_text()) == _record(said)
    return said


def killed_at(step, act, *words):
    """Do something in a process that dies at a failpoint; tell whether it came there."""
    pid = os.fork()
    if pid == 0:  # nothing of pytest may run here
        try:
            os.environ[VARIABLE] = step
            act(*words)
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def without_exchange(monkeypatch, publish):
    """Let publishing find a file system that cannot exchange two folders in one act."""
    monkeypatch.setattr(publish.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(publish, "sync_tree", lambda _path: None)
