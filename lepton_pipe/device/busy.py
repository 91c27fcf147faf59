"""For how long a device was busy: with each kind of work, the union over its lanes of when.

A lane's stream does one thing after the other, but lanes overlap; what they took summed up says
nothing of the device. So the spans of all lanes are laid over one another, on one clock::

    lane 0   in  kernels ---          kernels
    lane 1       in ---- kernels ----
    kernels      |---------------|    |-----|     counted once
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Literal

Doing = Literal["copy_in", "kernels", "copy_out"]
Span = tuple[float, float]


class Busy:
    """Seconds for which at least one lane did each thing, counted as lanes tell of it.

    What lies before anything that a lane can still tell of is counted and forgotten: the memory
    that this takes does not grow with the run.

    Parameters
    ----------
    clock
        Of the host, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[Any, float] = {}  # from when on each lane may tell of something
        self._open: dict[Doing, list[Span]] = defaultdict(list)
        self._counted: dict[Doing, float] = defaultdict(float)

    def enter(self, lane: Any) -> float:
        """Note that a lane begins to work; return the time."""
        with self._lock:
            self._since[lane] = now = self._clock()
            return now

    def add(self, lane: Any, spans: Iterable[tuple[Doing, float, float]], until: float) -> None:
        """Take in what a lane has done; all that it tells of later comes after `until`."""
        with self._lock:
            # The device's clock must not make it busy for longer than it was there.
            now = self._clock()
            for doing, start, stop in spans:
                if start < min(stop, now):
                    self._open[doing].append((start, min(stop, now)))
            self._since[lane] = until
            self._count()

    def leave(self, lane: Any) -> None:
        """Note that a lane has told everything."""
        with self._lock:
            self._since.pop(lane, None)
            self._count()

    def take(self) -> dict[Doing, float]:
        """Return the seconds counted since this was asked last."""
        with self._lock:
            counted, self._counted = self._counted, defaultdict(float)
            return counted

    def _count(self) -> None:
        settled = min(self._since.values(), default=inf)
        for doing, spans in self._open.items():
            merged = union(spans)
            self._counted[doing] += sum(min(b, settled) - a for a, b in merged if a < settled)
            self._open[doing] = [(max(a, settled), b) for a, b in merged if b > settled]


def union(spans: Iterable[Span]) -> list[Span]:
    """Return the spans that cover the same times and do not overlap, in order."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged
