"""Measure the kernels of a pipeline on a part of its images, in the process of a trial.

Each kernel runs several times on the same arrays::

    first        loads and compiles what it needs; for steps in between, this is all
    again        its time, on a heap that is warm, as that of a worker is
    resident     what the process grew by: counts what any library takes, but also what the
                 system rounds up
    traced       what Python and NumPy took: exact, but blind to memory of other libraries

A slow kernel is not run for every figure: the resident bytes have to do.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter as _now
from typing import Any

from lepton_pipe.heap import give_back, small_pages
from lepton_pipe.spec import Spec, compute_step

# What Python itself takes besides a kernel's arrays.
_PYTHON_BYTES = 2**16
# What a process may grow by besides: libraries' own, and what the system counts late.
_PROCESS_BYTES = 2**20
# A kernel as slow as this is not run again for a better figure.
_SLOW_SECONDS = 2.0
_SELF = Path("/proc/self")

Compute = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a step took: seconds, and bytes besides its result at the most."""

    seconds: float
    bytes_besides: int


@dataclass(frozen=True)
class Part:
    """A pipeline bound to parts of its images, and these.

    Attributes
    ----------
    wanted
        Ids of the steps to be measured.
    """

    spec: Spec
    arrays: dict[str, Any]
    wanted: frozenset[str]


def measured(part: Part, begin: Callable[[str], None]) -> Iterator[tuple[str, Measured]]:
    """Run the steps of a pipeline up to the last that is wanted; yield what each of these took.

    Parameters
    ----------
    begin
        Called with the id of a step each time that it is about to run.
    """
    results, wanted = dict(part.arrays), set(part.wanted)
    for step in part.spec.steps:
        if step.kernel is None:
            continue
        if not wanted:
            return

        def compute(id_: str = step.id) -> Any:
            begin(id_)
            return compute_step(part.spec, part.spec[id_], results)

        results[step.id], seconds = _timed(compute)
        if step.id in wanted:
            yield step.id, _measured(compute, seconds)
            wanted.remove(step.id)


def _measured(compute: Compute, seconds: float) -> Measured:
    """Measure a step that has run once and took so many seconds."""
    if seconds < _SLOW_SECONDS:
        seconds = min(seconds, _timed(compute)[1])
    resident, again = _resident_besides(compute)
    seconds = min(seconds, again)
    traced = 0
    if resident is None or seconds < _SLOW_SECONDS:
        traced = max(0, _traced_besides(compute) - _PYTHON_BYTES)
    # Where they agree, the one that is exact counts.
    unseen = resident is not None and resident > traced + _PROCESS_BYTES
    return Measured(seconds, resident if unseen and resident is not None else traced)


def _timed(compute: Compute) -> tuple[Any, float]:
    started = _now()
    made = compute()
    return made, _now() - started


def _traced_besides(compute: Compute) -> int:
    """Return the most bytes of Python and NumPy that a computation holds besides its result."""
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        made = compute()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before - _nbytes(made)


def _resident_besides(compute: Compute) -> tuple[int | None, float]:
    """Return the most bytes that a computation has this process grow by, besides its result.

    Returns
    -------
    int or None
        Bytes; None where the system does not tell, and nothing was computed.
    float
        The seconds that it took; infinite where nothing was computed.
    """
    give_back()  # else it would take what the run before it left
    with small_pages():
        before = _fresh_peak()
        if before is None:
            return None, float("inf")
        made, seconds = _timed(compute)
        peak = _peak()
    return (None if peak is None else peak - before - _nbytes(made)), seconds


def _nbytes(made: Any) -> int:
    return int(getattr(made, "nbytes", 0))


def _fresh_peak() -> int | None:
    """Have the peak begin at what is resident now, and return that; None where that cannot be."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int | None:
    with suppress(OSError, ValueError):
        for line in (_SELF / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 2**10
    return None


# -- in the process of a trial --------------------------------------------------------------------


def main(link: Connection, work: bytes) -> None:
    """Measure what was sent, and tell the process that started this one.

    Each message is a JSON object: ``begin`` names a step that is about to run, ``step`` one that
    was measured, ``error`` says why there is no more; ``end`` is the last.

    Parameters
    ----------
    work
        A `Part`, as `lepton_pipe.spec.sent.sent` packs it.
    """
    threading.Thread(target=_leave_with, args=(link,), daemon=True).start()
    _be_first_to_go()
    try:
        part: Part = pickle.loads(work)  # noqa: S301  from the process that started this one
        for step, took in measured(part, lambda id_: _tell(link, begin=id_)):
            _tell(link, step=step, seconds=took.seconds, bytes_besides=took.bytes_besides)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, it is told
        _tell(link, error=f"{type(error).__name__}: {error}")
    _tell(link, end=True)


def _tell(link: Connection, **news: Any) -> None:
    link.send_bytes(json.dumps(news).encode())


def _leave_with(link: Connection) -> None:
    """End this process when the one that started it is gone: it says nothing more, so it is then.

    Its kernel may never come back.
    """
    with suppress(OSError):
        link.poll(None)
    os._exit(1)


def _be_first_to_go() -> None:
    """Have the system end this process, and no other, where memory runs out."""
    with suppress(OSError):
        (_SELF / "oom_score_adj").write_text("1000")
