"""What rivals read and write: zarr arrays, through zarr-python or TensorStore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from zarr.codecs import BloscCodec

Box = tuple[slice, ...]


def create(path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> zarr.Array[Any]:
    """Make a zarr array as all rivals write it: Blosc Zstd-1 with shuffle, nothing else."""
    item = np.dtype(dtype).itemsize
    cut = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
    return zarr.create_array(
        str(path),
        shape=tuple(shape),
        chunks=cut,
        dtype=dtype,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=item),
        fill_value=0,
    )


class Door(Protocol):
    """A library that reads and writes zarr."""

    def read(self, path: Path) -> Any:
        """Open an array: it has shape and dtype, and slices of it are NumPy arrays."""
        ...

    def create(self, path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> Any:
        """Make an array that slices can be assigned to."""
        ...


class ZarrDoor:
    """zarr-python, as it comes."""

    def read(self, path: Path) -> Any:
        """Open an array."""
        return zarr.open_array(str(path), mode="r")

    def create(self, path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> Any:
        """Make an array."""
        return create(path, shape, chunks, dtype)


class TensorStoreDoor:
    """TensorStore, with a cache of decoded chunks for reading.

    Parameters
    ----------
    cache_bytes
        What the cache may hold.
    """

    def __init__(self, cache_bytes: int) -> None:
        import tensorstore

        self._ts = tensorstore
        self._cache = tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        self._plain = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})

    def _open(self, path: Path, context: Any) -> Any:
        place = {"driver": "file", "path": f"{path}/"}
        spec = {"driver": "zarr3", "kvstore": place, "recheck_cached_data": False}
        return _Sliced(self._ts.open(spec, context=context).result())

    def read(self, path: Path) -> Any:
        """Open an array."""
        return self._open(path, self._cache)

    def create(self, path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> Any:
        """Make an array."""
        create(path, shape, chunks, dtype)
        return self._open(path, self._plain)


class _Sliced:
    """A TensorStore that reads and writes at once when it is sliced."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.shape = tuple(store.shape)
        self.dtype = store.dtype.numpy_dtype
        self.chunks = tuple(store.chunk_layout.read_chunk.shape)

    def __getitem__(self, box: Any) -> Any:
        return self._store[box].read().result()

    def __setitem__(self, box: Any, values: Any) -> None:
        self._store[box].write(values).result()


def boxes(shape: Sequence[int], block: Sequence[int]) -> Iterator[Box]:
    """Cut an array into blocks."""
    ranges = [range(0, n, b) for n, b in zip(shape, block, strict=True)]
    for corner in product(*ranges):
        yield tuple(slice(s, min(s + b, n)) for s, b, n in zip(corner, block, shape, strict=True))


def grow(box: Box, depth: Sequence[int], shape: Sequence[int]) -> tuple[Box, Box]:
    """Return a box grown within the array, and where the box lies in it."""
    grown = tuple(
        slice(max(0, s.start - d), min(n, s.stop + d))
        for s, d, n in zip(box, depth, shape, strict=True)
    )
    inner = tuple(
        slice(s.start - g.start, s.stop - g.start) for s, g in zip(box, grown, strict=True)
    )
    return grown, inner


def level_path(image: Path, level: int) -> Path:
    """Return where a scale level lies; the names are read from OME metadata where there is any."""
    plain = image / str(level)
    if plain.exists():
        return plain
    attributes = dict(zarr.open_group(str(image), mode="r").attrs)
    scales: Any = attributes.get("ome", attributes)
    return image / str(scales["multiscales"][0]["datasets"][level]["path"])
