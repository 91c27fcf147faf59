"""Run candidates in processes of their own and look at them from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

SAMPLES_PER_SECOND = 20
# Looking at a process stops it for a moment; no more than this share of the time is spent so.
_LOOKING = 0.05
STARTUP_LIMIT = 180.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """One run: seconds of work, seconds before it, bytes at the worst moment.

    `failed` says why there is no result; ``over N s`` where it was stopped.
    """

    seconds: float | None = None
    startup: float | None = None
    peak_bytes: int = 0
    failed: str = ""


@dataclass
class Runs:
    """All runs of a candidate."""

    runs: list[Run] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Median of the work."""
        return _median([r.seconds for r in self.runs])

    @property
    def startup(self) -> float | None:
        """Median of the start-up."""
        return _median([r.startup for r in self.runs])

    @property
    def peak_bytes(self) -> int:
        """Largest peak."""
        return max((r.peak_bytes for r in self.runs), default=0)

    @property
    def failed(self) -> str:
        """Why there is no time; empty where there is one."""
        return "" if self.seconds is not None else next((r.failed for r in self.runs), "not run")

    def to_json(self) -> dict[str, Any]:
        """Return all that was measured."""
        return {
            "seconds": _rounded(self.seconds),
            "startup": _rounded(self.startup),
            "peak_mb": round(self.peak_bytes / 1e6),
            "runs": [_rounded(r.seconds) for r in self.runs],
            "failed": self.failed,
            "wrong": self.wrong,
        }


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def measured(workload: str, candidate: str, size: str, home: Path, out: Path, limit: float) -> Run:
    """Run a candidate once; its result is left at `out`.

    Parameters
    ----------
    limit
        Seconds of work after which all its processes are ended.
    """
    os.sync()
    command = [sys.executable, "-m", "tests.benchmarks.child", workload, candidate, size]
    command += [str(home), str(out), str(time.time())]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    log = out.parent / "stderr.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            return watch(process, limit, log)
        finally:
            end(process)


def watch(process: subprocess.Popen[bytes], limit: float, log: Path) -> Run:
    """Follow a child until it ends or its time is over; the caller ends what is left of it.

    Parameters
    ----------
    log
        Where its stderr goes, to say why it failed.
    """
    run, events = Run(), _Events(process)
    deadline = time.monotonic() + STARTUP_LIMIT
    while process.poll() is None:
        began = time.monotonic()
        if "ready" in events.seen and run.startup is None:
            run.startup = events.seen["ready"]["seconds"]
            deadline = began + limit
        if "done" not in events.seen:
            run.peak_bytes = max(run.peak_bytes, tree_bytes(process.pid))
            if began > deadline:
                run.failed = f"over {limit:.0f} s" if run.startup else "did not get ready"
                return run
        elif began > deadline + STARTUP_LIMIT:
            break  # the result is there, tidying up hangs
        took = time.monotonic() - began
        time.sleep(max(1 / SAMPLES_PER_SECOND - took, took * (1 / _LOOKING - 1)))
    events.finish()
    if "done" not in events.seen:
        run.failed = f"failed: {_last_line(log)}"
        return run
    run.seconds = events.seen["done"]["seconds"]
    run.startup = events.seen["done"]["startup"]
    return run


class _Events:
    """Lines of JSON that a child prints, read as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.seen: dict[str, Any] = {}
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b'{"event"'):
                event = json.loads(line)
                self.seen[event["event"]] = event

    def finish(self) -> None:
        """Wait for the last line."""
        self._thread.join(5)


def _last_line(log: Path) -> str:
    """Return the last line that names an error."""
    lines = log.read_text(errors="replace").strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Killed\w*)\b", line)]
    return (named or lines or ["no message"])[-1][:200]


def end(process: subprocess.Popen[bytes]) -> None:
    """End the child and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and all below it; shared pages are counted once.

    That is the proportional set size, where the system tells it, else the resident one.
    """
    return sum(map(_process_bytes, tree(pid)))


def tree(pid: int) -> list[int]:
    """Return a process and all below it, without going through all there are where possible."""
    try:
        return [pid, *(p for child in _children(pid) for p in tree(child))]
    except OSError:
        return _tree_by_search(pid)


def _children(pid: int) -> list[int]:
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise FileNotFoundError  # a system, or a kernel, that does not tell
    try:
        tasks = [t.name for t in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:  # it has ended
        return []
    found: list[int] = []
    for task in tasks:
        with (
            suppress(FileNotFoundError),
            open(f"/proc/{pid}/task/{task}/children") as file,  # noqa: PTH123
        ):
            found += map(int, file.read().split())
    return found


def _tree_by_search(pid: int) -> list[int]:
    try:
        return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def _process_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
