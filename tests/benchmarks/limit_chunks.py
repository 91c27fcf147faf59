"""The hand-written limit: chunks of zarr arrays straight from and to files, each decoded once.

As ugly and as unsafe as it likes: no checks, no checksums, no flush to disk, no atomic publishing;
Blosc is called on buffers that are used again and again, from threads.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

blosc.use_threads = False  # contexts of their own, so that threads do not wait for each other

BLOSC_BLOCK = 1 << 20
At = tuple[int, ...]
_own = threading.local()


def buffer(name: str, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Return this thread's buffer of that name; what it holds is left from the last use."""
    held = _own.__dict__.setdefault(name, {})
    key = (tuple(shape), np.dtype(dtype))
    if key not in held:
        held[key] = np.empty(shape, dtype)
    return held[key]


def in_threads(work: Callable[[Any], None], tasks: Sequence[Any], threads: int) -> None:
    """Do all tasks, begun in their order."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, tasks):
            pass


class Chunks:
    """An existing zarr v3 array whose only codec is Blosc."""

    def __init__(self, path: Path) -> None:
        meta = json.loads((path / "zarr.json").read_text())
        self.shape: At = tuple(meta["shape"])
        self.chunks: At = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        self.dtype = np.dtype(meta["data_type"])
        self.counts: At = tuple(ceil(n / c) for n, c in zip(self.shape, self.chunks, strict=True))
        self._base = f"{path}/c/"

    def file(self, at: At) -> str:
        """Return the path of a chunk."""
        return self._base + "/".join(map(str, at))

    def all(self) -> list[At]:
        """Return all chunks in C order."""
        return list(product(*map(range, self.counts)))

    def box(self, at: At) -> tuple[At, At]:
        """Return start and stop of the part of a chunk that is within the array."""
        start = tuple(i * c for i, c in zip(at, self.chunks, strict=True))
        stop = tuple(min(s + c, n) for s, c, n in zip(start, self.chunks, self.shape, strict=True))
        return start, stop

    def decode(self, at: At, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a whole chunk, padding included; a chunk that is not stored is zero."""
        out = np.empty(self.chunks, self.dtype) if out is None else out
        try:
            with open(self.file(at), "rb", buffering=0) as file:  # noqa: PTH123
                blosc.decompress(file.read(), out)
        except FileNotFoundError:
            out[...] = 0
        return out

    def decode_inside(self, at: At) -> NDArray[Any]:
        """Return the part of a chunk within the array, in this thread's buffer, contiguous."""
        start, stop = self.box(at)
        whole = self.decode(at, buffer("decoded", self.chunks, self.dtype))
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        if shape == self.chunks:
            return whole
        inside = buffer("inside", shape, self.dtype)
        inside[...] = whole[tuple(map(slice, shape))]
        return inside


class Writer(Chunks):
    """A new zarr array, whose chunks are written as Blosc Zstd-1 with 1 MiB blocks."""

    def __init__(self, path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> None:
        from tests.benchmarks.arrays import create

        create(path, shape, chunks, dtype)
        super().__init__(path)
        self._folders: set[str] = set()

    def write(self, at: At, array: NDArray[Any]) -> None:
        """Encode and write one chunk; what is missing at the array's edge is padded."""
        if array.shape != self.chunks:
            padded = np.zeros(self.chunks, self.dtype)
            padded[tuple(slice(0, n) for n in array.shape)] = array
            array = padded
        self.write_bytes(at, encode(np.ascontiguousarray(array)))

    def write_bytes(self, at: At, data: bytes) -> None:
        """Write a chunk that is encoded already."""
        name = self.file(at)
        folder = name.rpartition("/")[0]
        if folder not in self._folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        with open(name, "wb", buffering=0) as file:  # noqa: PTH123
            file.write(data)


def encode(array: NDArray[Any], cname: bytes = b"zstd") -> bytes:
    """Encode as all limits do."""
    item = array.dtype.itemsize
    data: bytes = blosc.compress(
        array.reshape(-1).view(np.uint8),
        cname,
        1,
        blosc.SHUFFLE,
        BLOSC_BLOCK,
        item,
    )
    return data


class Shared:
    """Decoded chunks, each decoded once and let go after its last use.

    Parameters
    ----------
    source
        Array to read.
    radius
        How far tasks, one for each chunk, read beyond it along each axis.
    """

    def __init__(self, source: Chunks, radius: Sequence[int]) -> None:
        self.source, self.radius = source, tuple(radius)
        self._lock = threading.Lock()
        self._held: dict[At, Future[NDArray[Any]]] = {}
        self._free: list[NDArray[Any]] = []
        self._left = Counter(c for at in source.all() for c in self._needed(at))

    def _needed(self, at: At) -> Iterator[At]:
        start, stop = self.source.box(at)
        spans = zip(start, stop, self.source.shape, self.source.chunks, self.radius, strict=True)
        return product(
            *(range(max(0, a - r) // c, (min(n, b + r) - 1) // c + 1) for a, b, n, c, r in spans)
        )

    def _get(self, at: At) -> NDArray[Any]:
        with self._lock:
            future = self._held.get(at)
            mine = future is None
            if future is None:
                future = self._held[at] = Future()
            out = self._free.pop() if mine and self._free else None
        if mine:
            future.set_result(self.source.decode(at, out))
        return future.result()

    def _let_go(self, at: At) -> None:
        with self._lock:
            self._left[at] -= 1
            if not self._left[at]:
                self._free.append(self._held.pop(at).result())

    def grown(self, at: At) -> NDArray[Any]:
        """Return a chunk grown by the radius, mirrored at the array's edges; a thread's buffer."""
        start, stop = self.source.box(at)
        radius = self.radius
        low = [a - r for a, r in zip(start, radius, strict=True)]
        shape = [b + r - l for b, r, l in zip(stop, radius, low, strict=True)]  # noqa: E741
        out = buffer("grown", shape, self.source.dtype)
        for other in self._needed(at):
            first, last = self.source.box(other)
            here, there = [], []
            for i in range(len(shape)):
                a, b = max(first[i], low[i]), min(last[i], low[i] + shape[i])
                here.append(slice(a - low[i], b - low[i]))
                there.append(slice(a - first[i], b - first[i]))
            out[tuple(here)] = self._get(other)[tuple(there)]
            self._let_go(other)
        self._mirror(out, low)
        return out

    def _mirror(self, out: NDArray[Any], low: Sequence[int]) -> None:
        for i, n in enumerate(self.source.shape):
            rows = np.moveaxis(out, i, 0)
            before, after = max(0, -low[i]), max(0, low[i] + len(rows) - n)
            if before:
                rows[:before] = rows[before : 2 * before][::-1]
            if after:
                rows[len(rows) - after :] = rows[len(rows) - 2 * after : len(rows) - after][::-1]


def by_columns(source: Chunks) -> list[At]:
    """Return chunks so ordered that few are held: the first axis fastest, the last slowest."""
    return sorted(source.all(), key=lambda at: (*at[1:], at[0]))
