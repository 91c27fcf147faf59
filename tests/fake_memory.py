"""The memory and the streams of the stand-in for a GPU: what is there, and what has happened yet.

Memory is counted array by array, has a limit, and can be made to fail. Copies between host and
device that name a stream are *not* made when they are asked for, but when something waits for them:
an event, the stream, or later work on the same stream. So a buffer that is filled again too early
spoils the image, what is read too early is garbage, and what one stream has not finished another
must not touch. A clock of each stream runs as its work would take.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GARBAGE = 0xA5
# Nanoseconds per byte: of a copy between host and device, and of any work on it.
COPY_NS, WORK_NS = 0.05, 0.01


class OutOfMemoryError(MemoryError):
    """What CuPy raises when the device has no room."""

    __module__ = "cupy.cuda.memory"


class CUDARuntimeError(RuntimeError):
    """What CuPy raises when there is no driver or no device, or when a context is lost."""

    __module__ = "cupy_backends.cuda.api.runtime"


class Stream:
    """A queue of work. https://docs.cupy.dev/en/stable/reference/generated/cupy.cuda.Stream.html."""

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        del null, non_blocking
        self.queue: deque[Callable[[], None]] = deque()
        self.begun = self.done = 0
        self.clock = 0.0
        self._lock = threading.RLock()

    def __enter__(self) -> Stream:
        _current().append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _current().pop()

    def put(self, work: Callable[[], None], seconds: float = 0.0) -> int:
        """Queue work; return its number."""

        def timed() -> None:
            self.clock += seconds
            work()

        with self._lock:
            self.queue.append(timed)
            self.begun += 1
            return self.begun

    def advance(self, to: int) -> None:
        """Do the work up to a number."""
        with self._lock:
            while self.done < to and self.queue:
                self.queue.popleft()()
                self.done += 1

    def synchronize(self) -> None:
        DEVICE.check()
        self.advance(self.begun)


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._timing = not disable_timing
        self._stream: Stream | None = None
        self._number = 0
        self._time = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or DEVICE.null
        self._number = self._stream.put(self._passed)

    def _passed(self) -> None:
        assert self._stream is not None
        self._time = self._stream.clock

    def synchronize(self) -> None:
        DEVICE.check()
        if self._stream is not None:
            self._stream.advance(self._number)

    @property
    def done(self) -> bool:
        return self._stream is None or self._stream.done >= self._number

    def time(self) -> float:
        assert self._timing, "this event keeps no time"
        assert self._stream is not None and self._stream.done >= self._number, "not there yet"
        return self._time


def get_elapsed_time(start: Event, end: Event) -> float:
    return 1000 * (end.time() - start.time())


class Pool:
    """CuPy's pool of device memory."""

    def get_limit(self) -> int:
        return DEVICE.limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        assert fraction is None
        DEVICE.limit = size or 0

    def free_all_blocks(self, stream: Any = None) -> None:
        DEVICE.freed_pool += 1


@dataclass
class Device:
    """The one device: its memory, its faults and what has happened to it."""

    limit: int = 0
    free: int = 2**33
    used: int = 0
    most: int = 0
    freed_pool: int = 0
    failing: deque[bool] = field(default_factory=deque)
    lost: str = ""
    lose_at: int = 0
    pinned: int = 0
    null: Stream = field(default_factory=Stream)
    _roots: dict[int, tuple[Stream, int]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def check(self) -> None:
        """Fail for ever once the context is lost."""
        with self._lock:
            if self.lose_at:
                self.lose_at -= 1
                if not self.lose_at:
                    self.lost = "cudaErrorIllegalAddress: an illegal memory access was encountered"
        if self.lost:
            raise CUDARuntimeError(self.lost)

    def take(self, voxels: np.ndarray) -> None:
        """Count the memory that an array takes, if it is not part of one that is counted."""
        root = _root(voxels)
        with self._lock:
            if id(root) in self._roots:
                return
            if self.failing and self.failing.popleft():
                raise OutOfMemoryError(f"Out of memory allocating {root.nbytes:,} bytes")
            if self.limit and self.used + root.nbytes > self.limit:
                raise OutOfMemoryError(
                    f"Out of memory allocating {root.nbytes:,} bytes (allocated so far: "
                    f"{self.used:,} bytes, limit set to: {self.limit:,} bytes)."
                )
            self.used += root.nbytes
            self.most = max(self.most, self.used)
            self._roots[id(root)] = (current(), 0)
            weakref.finalize(root, self._give_back, self._roots, id(root), root.nbytes)

    def _give_back(self, roots: dict[int, Any], root: int, nbytes: int) -> None:
        with self._lock:
            if roots is self._roots:  # else it was of a context before
                self.used -= nbytes
                del roots[root]

    def wrote(self, voxels: np.ndarray, stream: Stream, number: int) -> None:
        """Note that an array is not there before a stream has done its work up to a number."""
        self._roots[id(_root(voxels))] = (stream, number)

    def use(self, voxels: np.ndarray) -> np.ndarray:
        """Return the voxels for work on the current stream, whose earlier work is done now."""
        self.check()
        current().advance(current().begun)
        stream, number = self._roots.get(id(_root(voxels)), (current(), 0))
        assert stream.done >= number, "an array is used before its copy on another stream ended"
        current().clock += WORK_NS * voxels.nbytes / 1e9
        return voxels


DEVICE = Device()
_own = threading.local()


def _current() -> list[Stream]:
    if not hasattr(_own, "streams"):
        _own.streams = []
    found: list[Stream] = _own.streams
    return found


def current() -> Stream:
    """Return the stream that this thread's work goes to."""
    return _current()[-1] if _current() else DEVICE.null


def _root(voxels: np.ndarray) -> np.ndarray:
    while isinstance(voxels.base, np.ndarray):
        voxels = voxels.base
    return voxels


def alloc_pinned_memory(size: int) -> bytearray:
    DEVICE.pinned += size
    return bytearray(size)


def copy_in(target: np.ndarray, source: np.ndarray, stream: Stream) -> None:
    """Copy from host to device when the stream comes to it."""
    number = stream.put(lambda: np.copyto(target, source), COPY_NS * source.nbytes / 1e9)
    DEVICE.wrote(target, stream, number)


def copy_out(target: np.ndarray, source: np.ndarray, stream: Stream) -> None:
    """Copy from device to host when the stream comes to it; until then it is garbage."""
    target.view(np.uint8).fill(GARBAGE)
    stream.put(lambda: np.copyto(target, source), COPY_NS * source.nbytes / 1e9)


def reset() -> None:
    """Start anew: a process with a fresh context."""
    fresh = Device()
    for name in vars(fresh):
        setattr(DEVICE, name, getattr(fresh, name))
