"""Measure the memory of the whole run from outside: this process and all its children."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import psutil

# A block takes about as long; a sample takes some 30 us for each process.
SAMPLE_SECONDS = 0.03
# Finding one's children means looking at every process of the machine: not at each sample.
_SAMPLES_PER_FAMILY = 30


class PeakMemory:
    """Samples the resident bytes of the process tree while it is entered.

    Pages that processes share are counted once for each of them, so the figure errs upwards.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="lepton-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        family = Family()
        while True:
            self.peak_bytes = max(self.peak_bytes, resident_bytes(family.look()))
            if self._stop.wait(SAMPLE_SECONDS):
                return


class Family:
    """This process and its children, those apart that have only just been forked.

    Until it runs a program of its own, a child is seen with the whole memory of its parent. One
    that still does at the next search is one that never will, and is counted from then on.
    """

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._ours = tuple(self._me.cmdline())
        self._members = [self._me]
        self._unborn: set[psutil.Process] = set()
        self._looks = 0

    def look(self) -> list[psutil.Process]:
        """Return the processes, looked for again where that is due."""
        if self._looks % _SAMPLES_PER_FAMILY == 0:
            self._search()
        elif self._unborn:
            self._members += [p for p in self._unborn if not self._is_unborn(p)]
            self._unborn -= set(self._members)
        self._looks += 1
        return self._members

    def _search(self) -> None:
        found = self._me.children(recursive=True)
        unborn = {p for p in found if p not in self._unborn and self._is_unborn(p)}
        known = set(self._members)
        self._unborn = unborn - known
        self._members = [self._me, *(p for p in found if p not in self._unborn)]

    def _is_unborn(self, process: psutil.Process) -> bool:
        try:
            return tuple(process.cmdline()) == self._ours
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def own_bytes() -> int:
    """Return the resident bytes of this process."""
    return resident_bytes([psutil.Process()])


def resident_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the resident bytes of some processes; those that have ended count nothing."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the look
    return total
