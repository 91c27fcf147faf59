"""Try kernels of a user's own in a process of its own: they may end it, hang, or eat all memory.

The process is started afresh, not forked, and is sent the pipeline as workers are: as code where it
is of a script, a notebook or a file. It has the environment of a worker, and what kernels print
there goes to stderr.

    this process                          the process of the trial
      sys.path, part of the images  --->
                                    <---  begin, begin, step (seconds, bytes), begin, ...
      looks at its memory and the clock
                                    <---  end
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable
from typing import Any

import psutil

from lepton_pipe.report.plan_text import size
from lepton_pipe.run.ended import how_ended
from lepton_pipe.run.machine import PROCESS_ENVIRONMENT
from lepton_pipe.run.measure import Measured, Part
from lepton_pipe.spec.sent import sent
from lepton_pipe.streams import words_may_be_lost

# How often to look at memory and clock. Memory comes at some 8 GB/s at the most.
_LOOK_SECONDS = 0.05
# How long it may take without a word to the user.
_SILENT_SECONDS = 5.0
# How long the process may take to load what it needs, on a machine that does much else.
_START_SECONDS = 120.0
# How long a process may take to end that has said all, or whose end is known.
_END_SECONDS = 2.0

# The modules of the user may shadow any: the path is set before anything else is loaded.
_PROGRAM = """
import json, os
from multiprocessing.connection import Connection
link = Connection(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
try:
    path, work = link.recv_bytes(), link.recv_bytes()
except EOFError:
    os._exit(1)
import sys
sys.path[:] = json.loads(path)
from lepton_pipe.run.measure import main
main(link, work)
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a trial may take.

    Attributes
    ----------
    memory
        Bytes that its process may take besides what it has before the first kernel runs.
    seconds
        For each run of a kernel.
    """

    memory: int
    seconds: float


@dataclass
class Outcome:
    """What a trial found.

    Attributes
    ----------
    measured
        What steps took, by id.
    last
        Id of the step that ran last; empty where none did.
    error
        What it raised; empty where nothing did.
    lost
        How the process ended before it was done, or why it was ended; empty where it was not.
    """

    measured: dict[str, Measured] = field(default_factory=dict)
    last: str = ""
    error: str = ""
    lost: str = ""

    def take(self, news: dict[str, Any]) -> None:
        """Take in a message of the process."""
        if "step" in news:
            self.measured[news["step"]] = Measured(news["seconds"], news["bytes_besides"])
        self.last = news.get("begin", self.last)
        self.error = news.get("error", self.error)


def try_out(part: Part, limits: Limits) -> Outcome:
    """Measure the wanted steps of a pipeline in a process that is ended when it is done.

    Raises
    ------
    Exception
        When the pipeline cannot be sent, or no process be started.
    """
    work = sent(part)
    here, there = multiprocessing.Pipe()
    with here:
        with there:
            process = _started(there)
        try:
            return _Trial(process, here, limits).heard(work)
        finally:
            _end(process)


def _started(link: Connection) -> subprocess.Popen[bytes]:
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return subprocess.Popen(  # noqa: S603
        [get_executable(), *flags, "-P", "-c", _PROGRAM],
        stdin=link.fileno(),
        stdout=_stderr(),
        stderr=_stderr(),
        env={**PROCESS_ENVIRONMENT, **os.environ},
        # Ctrl-C is for this process, which ends the other.
        process_group=0,
    )


def _stderr() -> int:
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Trial:
    def __init__(self, process: subprocess.Popen[bytes], link: Connection, limits: Limits) -> None:
        self._process, self._link, self._limits = process, link, limits
        self._outcome = Outcome()
        self._before = 0
        self._silent_until = time.monotonic() + _SILENT_SECONDS

    def heard(self, work: bytes) -> Outcome:
        """Send what is to be done, and hear what comes of it."""
        outcome, deadline = self._outcome, time.monotonic() + _START_SECONDS
        with suppress(BrokenPipeError):  # it has ended: that is heard below
            self._link.send_bytes(json.dumps([p for p in sys.path if isinstance(p, str)]).encode())
            self._link.send_bytes(work)
        while True:
            if self._link.poll(_LOOK_SECONDS):
                try:
                    news = json.loads(self._link.recv_bytes())
                except (EOFError, OSError):
                    outcome.lost = f"it ended its process ({self._how()})"
                    return outcome
                if "end" in news:
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(_END_SECONDS)
                    return outcome
                if "begin" in news and not outcome.last:
                    self._before = self._resident()
                outcome.take(news)
                deadline = time.monotonic() + self._limits.seconds
            elif self._process.poll() is not None and not self._link.poll():
                outcome.lost = f"it ended its process ({self._how()})"
                return outcome
            elif why := self._too_much(deadline):
                outcome.lost = why
                return outcome

    def _too_much(self, deadline: float) -> str:
        """Return what limit the process is over; empty where it is over none."""
        now, limits = time.monotonic(), self._limits
        if self._outcome.last and self._resident() - self._before > limits.memory:
            return f"it took more than {size(limits.memory)} of memory"
        if now > deadline:
            limit = limits.seconds if self._outcome.last else _START_SECONDS
            return f"it was not done after {limit:g} s"
        if now > self._silent_until:
            self._silent_until = float("inf")
            _say(
                f"measuring what {self._outcome.last or 'kernels'} needs, on a part of the image; "
                f"each try may take {limits.seconds:g} s"
            )
        return ""

    def _how(self) -> str:
        try:
            return how_ended(self._process.wait(_END_SECONDS))
        except subprocess.TimeoutExpired:
            return "it no longer answers"

    def _resident(self) -> int:
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0


def _say(text: str) -> None:
    with words_may_be_lost():
        print(text, file=sys.stderr, flush=True)
