"""Hold signals back over a step that must not be left half-done, and let none be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Signals that end a run.
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_arrived: list[int] = []


@contextmanager
def signals_held(*, deliver: bool = True) -> Iterator[None]:
    """Deliver an interrupt or termination that arrives inside the block at its end instead.

    Only the main thread can be interrupted; elsewhere this does nothing.

    Parameters
    ----------
    deliver
        Whether to deliver it at all: not where the work is complete at the end of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.signal(number, note) for number in _HELD}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived and deliver:
            signal.raise_signal(arrived[0])


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Note the signals that arrive inside the block, for `raise_lost_interrupt`.

    A handler raises in the middle of whatever Python code the main thread runs. Where that is a
    finalizer or a callback of the garbage collector (Dask has one), the exception is printed and
    dropped, and the run would go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Callable[[int, FrameType | None], Any]] = {
        n: h for n in _HELD if callable(h := signal.getsignal(n))
    }

    def note(number: int, frame: FrameType | None) -> None:
        _arrived.append(number)
        before[number](number, frame)

    _arrived.clear()
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _arrived.clear()


def raise_lost_interrupt() -> None:
    """Raise again what a signal raised where it was dropped; call this where nothing drops it."""
    if _arrived and threading.current_thread() is threading.main_thread():
        signal.raise_signal(_arrived[0])
