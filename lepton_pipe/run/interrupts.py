"""Hold signals back over a step that must not be left half-done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Signals that end a run.
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
