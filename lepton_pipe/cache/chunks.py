"""The decoded chunks of this process, so that blocks which overlap decode a chunk once.

Each process has one cache, shared by its threads; its budget is 0, which is no cache at all, until
`resize` gives it bytes. Processes of one run on one machine `join` theirs: what one of them holds,
the others need not decode.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from itertools import compress
from operator import not_
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.cache.counts import Tier
from lepton_pipe.cache.neighbours import MOST_OFFERS, Neighbours, Offer

Array = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """What a cache holds and has done.

    Attributes
    ----------
    budget, held_bytes
        Bytes that may be held, and that are.
    entries
        Chunks held.
    hits
        Chunks handed out without decoding, those that another thread was decoding among them, and
        those of other processes.
    misses, decoded_bytes
        Chunks that were decoded, and their bytes.
    evictions
        Chunks dropped to make room.
    """

    budget: int = 0
    held_bytes: int = 0
    entries: int = 0
    hits: int = 0
    misses: int = 0
    decoded_bytes: int = 0
    evictions: int = 0


class ChunkCache:
    """Read-only arrays, the least recently used dropped first when their bytes exceed a budget.

    Arrays held never exceed the budget; those being decoded, and those handed out that are still
    in use, come on top. So do those that are kept: who keeps them knows how many they are.

    Parameters
    ----------
    budget
        Bytes that may be held; 0 holds nothing and shares nothing.
    """

    def __init__(self, budget: int = 0) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Array] = OrderedDict()
        self._pending: dict[Hashable, _Pending] = {}
        self._kept: dict[Hashable, Array] = {}
        self._retained: frozenset[Hashable] = frozenset()
        self._neighbours: Neighbours | None = None
        self._offers: dict[Hashable, Offer] = {}
        self._budget = budget
        self._bytes = 0
        self._hits = self._misses = self._decoded = self._evictions = 0
        self._told = Tier()

    def get(self, key: Hashable, decode: Callable[[], Array]) -> Array:
        """Return the array under `key`, made by `decode` where it is not held; read-only.

        Threads that ask for the same key at the same time decode it once. What `decode` raises is
        raised, and nothing is held; a thread that was waiting for it tries for itself.
        """
        (found,) = self.each([key], lambda key: key, lambda _: decode())
        return found[1]

    def each(
        self, items: Iterable[T], key: Callable[[T], Hashable], decode: Callable[[T], Array]
    ) -> Iterator[tuple[T, Array]]:
        """Yield each of several items with its array, as `get` returns it, in the order they come.

        First come those that are held, which making others could push out; then those that nobody
        is decoding. So threads that want the same share the work, and wait at the end alone. A
        thread that waits has nothing begun that another could wait for.
        """
        if not self.enabled():
            yield from ((item, self._decoded_now(partial(decode, item))) for item in items)
            return
        left = self._held_first([(key(item), item) for item in items])
        while left:
            busy = []
            for name, item in left:
                found = self._now(name, partial(decode, item))
                if found is None:
                    busy.append((name, item))
                    continue
                yield item, found
                # The caller is done with it: it must not stay while the next is decoded.
                del found
            if len(busy) == len(left):
                name, item = busy.pop(0)
                waited = self._waited(name)
                if waited is None:
                    busy.append((name, item))
                else:
                    yield item, waited
                    del waited
            left = busy

    def join(self, folder: Path | None) -> None:
        """Share what is held with other processes from now on, by a folder of theirs; or not."""
        before = self._neighbours
        if folder == (before and before.folder):  # asked for each block
            return
        with self._lock:
            self._neighbours = Neighbours(folder) if folder is not None else None
        self.clear()

    def resize(self, budget: int) -> None:
        """Change the budget, in bytes, and drop at once what no longer fits."""
        with self._lock:
            self._budget = max(0, budget)
            self._evict(0)

    def retain(self, groups: frozenset[Hashable]) -> None:
        """Keep arrays of these groups from now on, and drop what is kept of all others."""
        if groups == self._retained:  # asked for each block
            return
        with self._lock:
            self._retained = groups
            self._kept = {k: v for k, v in self._kept.items() if _group(k) in groups}

    def keep(self, key: Hashable, array: Array) -> None:
        """Keep an array until its group, the first part of its key, is retained no more.

        Of other groups nothing is kept.
        """
        with self._lock:
            if _group(key) in self._retained:
                self._kept[key] = _read_only(array)

    def enabled(self) -> bool:
        """Tell whether anything can be held, or is kept."""
        return self._budget > 0 or bool(self._kept)

    def clear(self) -> None:
        """Drop every array; the budget, the groups and the counts stay."""
        with self._lock:
            self._held.clear()
            self._kept.clear()
            self._bytes = 0
            for offer in self._offers.values():
                offer.withdraw()
            self._offers.clear()

    def snapshot(self) -> Snapshot:
        """Return what is held and what was counted so far."""
        with self._lock:
            return Snapshot(
                self._budget,
                self._bytes,
                len(self._held),
                self._hits,
                self._misses,
                self._decoded,
                self._evictions,
            )

    def take(self) -> Tier:
        """Return what was counted since the last time."""
        with self._lock:
            now = Tier(self._hits, self._misses, self._misses, self._evictions)
            now.nbytes = now.raw_bytes = self._decoded
            told, self._told = self._told, now
        return Tier(*(a - b for a, b in zip(astuple(now), astuple(told), strict=True)))

    def _held_first(self, wanted: list[tuple[Hashable, T]]) -> list[tuple[Hashable, T]]:
        """Return what is held before what is not, and mark it as used, so that it stays."""
        with self._lock:
            held = [key in self._held for key, _ in wanted]
            for (key, _), is_held in zip(wanted, held, strict=True):
                if is_held:
                    self._held.move_to_end(key)
        return [*compress(wanted, held), *compress(wanted, map(not_, held))]

    def _now(self, key: Hashable, decode: Callable[[], Array]) -> Array | None:
        """Return an array that is held, or decode it; None where somebody is decoding it."""
        with self._lock:
            held = self._kept.get(key)
            if held is None and (held := self._held.get(key)) is not None:
                self._held.move_to_end(key)
            if held is not None:
                self._hits += 1
                return held
            if key in self._pending:
                return None
            mine = self._pending[key] = _Pending()
        return self._fill(key, mine, decode)

    def _waited(self, key: Hashable) -> Array | None:
        """Wait for what is decoded elsewhere; None if that failed, or is to be asked for again."""
        with self._lock:
            pending = self._pending.get(key)
        if pending is None:
            if self._neighbours is not None:
                self._neighbours.wait(key)
            return None
        pending.done.wait()
        if pending.value is not None:
            with self._lock:
                self._hits += 1
        return pending.value

    def _fill(self, key: Hashable, pending: _Pending, decode: Callable[[], Array]) -> Array | None:
        try:
            pending.value = self._found_or_decoded(key, decode)
            return pending.value
        finally:
            with self._lock:
                del self._pending[key]
            pending.done.set()

    def _found_or_decoded(self, key: Hashable, decode: Callable[[], Array]) -> Array | None:
        """Return an array of another process, or decode it; None where one is decoding it."""
        neighbours = self._neighbours
        if neighbours is None:
            return self._hold(key, self._decoded_now(decode))
        found = self._found(neighbours, key)
        if found is not None:
            return found
        with neighbours.claim(key) as free:
            if not free:
                return None
            found = self._found(neighbours, key)  # decoded since it was looked for
            return self._hold(key, self._decoded_now(decode)) if found is None else found

    def _found(self, neighbours: Neighbours, key: Hashable) -> Array | None:
        found = neighbours.find(key)
        if found is not None:
            with self._lock:
                self._hits += 1
        return found

    def _decoded_now(self, decode: Callable[[], Array]) -> Array:
        value = _read_only(decode())
        with self._lock:
            self._misses += 1
            self._decoded += value.nbytes
        return value

    def _hold(self, key: Hashable, value: Array) -> Array:
        """Hold an array, if that fits; return it, or what other processes share of it."""
        size, neighbours = memory_of(value), self._neighbours
        if not size <= self._budget:
            return value
        with self._lock:
            self._evict(size)
            self._bytes += size
        offer = None
        if neighbours and size == value.nbytes and len(self._offers) < MOST_OFFERS:
            offer = neighbours.offer(key, value)
        with self._lock:
            if offer is not None:
                self._offers[key], value = offer, offer.array
            self._held[key] = value
        return value

    def _evict(self, room: int) -> None:
        while self._held and self._bytes + room > self._budget:
            key, oldest = next(iter(self._held.items()))
            offer = self._offers.get(key)
            if offer is not None and offer.is_used():
                self._held.move_to_end(key)
                continue
            if offer is not None:
                self._offers.pop(key).withdraw()
            del self._held[key]
            self._bytes -= memory_of(oldest)
            self._evictions += 1


class _Pending:
    """A chunk that one thread is decoding while others wait for `done`; no value if it failed."""

    __slots__ = ("done", "value")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Array | None = None


def _group(key: Hashable) -> Hashable:
    return key[0] if isinstance(key, tuple) else key


def _read_only(array: Array) -> Array:
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def memory_of(array: Array) -> int:
    """Return the bytes that an array spans in memory: few for one value shown many times."""
    if array.size == 0:
        return 0
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(high - low)


shared = ChunkCache()
"""The cache of this process."""

get = shared.get
each = shared.each
join = shared.join
resize = shared.resize
retain = shared.retain
keep = shared.keep
clear = shared.clear
enabled = shared.enabled
snapshot = shared.snapshot
take = shared.take
