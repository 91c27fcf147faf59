"""One heap for the arrays of all blocks of a process.

Arrays of a block are as large as those of the block before: they come from a heap that is kept, in
one arena for all threads. With glibc's usual threshold each would be mapped afresh, faulted in page
by page and given back: ten times the page faults, and a third of the CPU time of a run. With its
usual arenas, one for each thread, every thread keeps what it freed, and a run takes half as much
memory again as its arrays do; with one it is a fifth to a quarter.

What is larger than the threshold (64 MiB, the most that older versions take) or free at the end of
the heap beyond 256 MiB is given back, so that the heap cannot creep.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Name in the environment of a process that starts, number for one that runs (malloc.h), value.
_SETTINGS = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 64 * 2**20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 256 * 2**20),
    ("MALLOC_ARENA_MAX", -8, 1),
)

_SET_THP_DISABLE, _GET_THP_DISABLE = 41, 42  # prctl.h

ENVIRONMENT = {name: str(value) for name, _, value in _SETTINGS}
"""For processes that are started."""


def one_heap() -> None:
    """Have one heap in this process from now on, if it has no other thread yet.

    Where there are other threads they have arenas of their own, and the settings would only make
    each of these keep more: the process is left as it is, and so it is where the C library is not
    glibc. Settings cannot be asked for and put back; they change no result.
    """
    change = _libc("mallopt")
    if change is not None and threading.active_count() == 1:
        for _, number, value in _SETTINGS:
            change(number, value)


def give_back() -> None:
    """Give back to the system what the heap has kept."""
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def small_pages() -> Iterator[None]:
    """Have memory handed out in small pages meanwhile, where the system is Linux.

    Where it comes in pages of 2 MiB, it cannot be told how much of them is used.
    """
    control = _libc("prctl")
    if control is None:
        yield
        return
    before = control(_GET_THP_DISABLE, 0, 0, 0, 0)
    control(_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        control(_SET_THP_DISABLE, before, 0, 0, 0)


def _libc(name: str) -> ctypes._NamedFuncPointer | None:
    """Return a function of the C library; None where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # Windows
        return None
