"""Lanes of a device: how many blocks lie on it at once, each with a stream of its own.

Work on one stream is done in order; that of several streams overlaps. While one block is computed,
the next is copied in and the last one out::

    lane 0   in | kernels | out |      in | kernels | out
    lane 1        in      | kernels | out |   in    | kernels | out

Host memory that the device copies from must not move (it is *pinned*), and to pin it is slow. So
each lane keeps two small pinned buffers for either way: one is filled while the other is copied.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lepton_pipe.cuda import at_first_launch
from lepton_pipe.device.busy import Busy, Doing
from lepton_pipe.device.faults import device_faults
from lepton_pipe.device.memory import free_pool, limit_pool

STAGE_BYTES = 2**22
"""Bytes of a pinned buffer: PCIe is at full speed from about 1 MiB on."""
_BUFFERS = 2  # for either way
STAGING_BYTES = 2 * _BUFFERS * STAGE_BYTES
"""Pinned host memory of a lane."""


class _Buffer:
    """A pinned buffer, and the event after which what was copied through it is there."""

    def __init__(self, cupy: Any) -> None:
        self._memory = cupy.cuda.alloc_pinned_memory(STAGE_BYTES)
        self.bytes = np.frombuffer(self._memory, np.uint8, STAGE_BYTES)
        self.copied = cupy.cuda.Event(block=True)

    def of(self, part: Any) -> Any:
        """Return as much of it as `part` has, with its dtype."""
        return self.bytes[: part.nbytes].view(part.dtype)


class Lane:
    """One block's place on the device.

    What is copied and computed in it goes in order. Host arrays that were handed to `take_in`
    may be changed when it returns, and those of `bring_back` are whole then.

    Parameters
    ----------
    busy
        Is told when the lane's stream copied and computed.
    """

    def __init__(self, busy: Busy | None = None) -> None:
        self._cupy = importlib.import_module("cupy")
        self.stream = self._cupy.cuda.Stream(non_blocking=True)
        self._in = [_Buffer(self._cupy) for _ in range(_BUFFERS)]
        self._out = [_Buffer(self._cupy) for _ in range(_BUFFERS)]
        self.busy = busy or Busy()
        # Places in the stream, and what it does from each to the next; the time of the first.
        self._marks: deque[tuple[Doing | None, Any]] = deque()
        self._time = 0.0

    def take_in(self, array: Any) -> Any:
        """Return a copy of a host array on the device; the stream may still be copying it."""
        made = self._cupy.empty(array.shape, array.dtype)
        source, target = np.ascontiguousarray(array).reshape(-1), made.reshape(-1)
        for number, part in enumerate(_parts(source)):
            buffer = self._in[number % len(self._in)]
            buffer.copied.synchronize()
            staged = buffer.of(source[part])
            staged[...] = source[part]
            self._mark("copy_in")
            target[part].set(staged, stream=self.stream)
            buffer.copied = self._mark()
        return made

    def bring_back(self, array: Any) -> Any:
        """Return a host copy of an array of the device."""
        made = np.empty(array.shape, array.dtype)
        source = self._cupy.ascontiguousarray(array).reshape(-1)
        target = made.reshape(-1)
        parts = list(_parts(target))
        for number in range(len(parts) + 1):
            if number < len(parts):
                self._begin(source[parts[number]], self._out[number % len(self._out)])
            if number > 0:
                buffer, part = self._out[(number - 1) % len(self._out)], parts[number - 1]
                buffer.copied.synchronize()
                target[part] = buffer.of(target[part])
        return made

    def _begin(self, part: Any, buffer: _Buffer) -> None:
        self._mark("copy_out")
        part.get(stream=self.stream, out=buffer.of(part), blocking=False)
        buffer.copied = self._mark()

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Take what the stream does meanwhile for kernels.

        They begin with the first launch of one of ours: it was compiled before. Else they begin at
        once, and CuPy's wait for their launches is counted.
        """
        self._mark("kernels")

        def launched() -> None:
            self._marks[-1] = None, self._marks[-1][1]
            self._mark("kernels")

        with at_first_launch(launched):
            yield
        self._mark()

    def _mark(self, doing: Doing | None = None) -> Any:
        """Note when the stream comes here, and what it does from there on; return the event."""
        self._settle()
        event = self._cupy.cuda.Event(block=True)
        event.record(self.stream)
        self._marks.append((doing, event))
        return event

    def _settle(self) -> None:
        """Tell what the stream has done, and forget it."""
        spans = []
        while len(self._marks) > 1 and self._marks[1][1].done:
            doing, begin = self._marks.popleft()
            start = self._time
            self._time += self._cupy.cuda.get_elapsed_time(begin, self._marks[0][1]) / 1000
            if doing is not None:
                spans.append((doing, start, self._time))
        if spans:
            self.busy.add(self, spans, self._time)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have everything that this thread does on the device go to the lane's stream."""
        self._marks.clear()
        self._time = self.busy.enter(self)
        try:
            with device_faults(), self.stream:
                self._mark()  # the stream is empty: it comes here at once
                try:
                    yield
                finally:
                    self._mark().synchronize()
                    self._settle()
        finally:
            self.busy.leave(self)


def _parts(flat: Any) -> Iterator[slice]:
    step = max(1, STAGE_BYTES // flat.dtype.itemsize)
    for start in range(0, flat.size, step):
        yield slice(start, min(flat.size, start + step))


class Lanes:
    """The lanes of this process: a bounded number, lent to one block after the other.

    Parameters
    ----------
    count
        Blocks that lie on the device at once.
    limit
        Bytes of device memory that the process may take; 0 is no limit.

    Attributes
    ----------
    busy
        For how long any of them copied and computed.
    """

    def __init__(self, count: int, limit: int) -> None:
        limit_pool(limit)
        self.busy = Busy()
        self._count = count
        self._free = [Lane(self.busy) for _ in range(count)]
        self._changed = threading.Condition()
        self._wanted_alone = 0

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """Lend a lane, once there is one; nobody gets one while somebody wants to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._free and not self._wanted_alone)
            lane = self._free.pop()
        try:
            with lane.entered():
                yield lane
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[Lane]:
        """Lend a lane while no other is lent, with all the memory that this process may take.

        The caller must hold no lane.
        """
        with self._changed:
            self._wanted_alone += 1
            self._changed.wait_for(lambda: len(self._free) == self._count)
            lanes, self._free = self._free, []
        try:
            free_pool()
            with lanes[0].entered():
                yield lanes[0]
        finally:
            with self._changed:
                self._free, self._wanted_alone = lanes, self._wanted_alone - 1
                self._changed.notify_all()


_making = threading.Lock()
_made: dict[tuple[int, int], Lanes] = {}


def lanes_of(count: int, limit: int) -> Lanes:
    """Return the lanes of this process, see `Lanes`; those of another stage are given up."""
    key = (count, limit)
    with _making:
        if key not in _made:
            _made.clear()
            _made[key] = Lanes(count, limit)
        return _made[key]


def clear_lanes() -> None:
    """Give up the lanes of this process, and what its pools keep."""
    with _making:
        if _made:
            _made.clear()
            free_pool()
