"""NumPy arrays, in memory and in .npy files, as sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import InputError
from lepton_pipe.geometry import Region
from lepton_pipe.store.axes import AxisMap, Found, Wanted, resolve
from lepton_pipe.store.file_digests import opened_version
from lepton_pipe.store.source import Source, file_stamp, handles
from lepton_pipe.store.stamps import STAMP_BYTES

_STAMPED_BYTES = 2**20


@dataclass(frozen=True)
class ArraySource(Source):
    """An array in memory; it is pickled whole, so it suits small images."""

    array: NDArray[Any] = field(repr=False, compare=False)

    def _read(self, region: Region) -> NDArray[Any]:
        return self.array[region.slices].copy()

    def identity(self) -> dict[str, Any]:
        """Return a digest of the values."""
        return {
            "uri": self.uri,
            "format": "array",
            "shape": list(self.type.grid.shape),
            "dtype": self.type.dtype.str,
            "digest": _values(self.array).hex(),
        }

    @property
    def stamp_unit(self) -> tuple[int, ...]:
        """Shape of parts of up to a MiB, as near to cubes as can be."""
        unit = list(self.array.shape)
        while prod(unit) * self.array.itemsize > _STAMPED_BYTES and max(unit) > 1:
            longest = unit.index(max(unit))
            unit[longest] = -(-unit[longest] // 2)
        return tuple(unit)

    def unit_stamps(self, units: Sequence[tuple[int, ...]]) -> list[bytes]:
        """Return digests of the values."""
        shape = self.stamp_unit
        parts = [
            tuple(slice(i * n, i * n + n) for i, n in zip(u, shape, strict=True)) for u in units
        ]
        return [_values(self.array[part]) for part in parts]

    def stored_bytes(self) -> int | None:
        """Return the bytes of the array."""
        return self.array.nbytes

    def saved(self, path: Path) -> Source:
        """Save the array as a .npy file and return that as a source, for other processes to map."""
        np.save(path, self.array)
        mapped = open_npy(path, Wanted(axes="".join(self.type.grid.axes)))
        return replace(mapped, type=self.type)


def open_array(array: NDArray[Any], wanted: Wanted) -> Source:
    """Return a source for an array in memory; raise `InputError` when it cannot be an image."""
    _refuse_level("array", wanted)
    found = Found("array", array.shape, array.dtype)
    image_type, axis_map = resolve(found, wanted)
    canonical = axis_map.canonical(array)
    return ArraySource("array", image_type, (1,) * canonical.ndim, canonical)


@dataclass(frozen=True)
class NpySource(Source):
    """A .npy file, mapped into memory, so that only what is read is loaded."""

    axis_map: AxisMap
    stamp: tuple[int, ...]

    def _read(self, region: Region) -> NDArray[Any]:
        mapped = handles.get((self.uri, self.stamp), lambda: _map(Path(self.uri)))
        part = mapped[self.axis_map.selection(region)]
        return np.array(self.axis_map.canonical(part), order="C")

    def _form(self) -> tuple[Any, ...]:
        return (self.axis_map.order,)

    def unit_stamps(self, units: Sequence[tuple[int, ...]]) -> list[bytes]:
        """Return the version of the file that was opened."""
        known = opened_version(self.paths(), self.stamp, by_bytes=self.by_bytes)
        return [known] * len(units)

    def identity(self) -> dict[str, Any]:
        """Return size and time of the file."""
        status = Path(self.uri).stat()
        return {
            "uri": self.uri,
            "format": "npy",
            "shape": list(self.type.grid.shape),
            "dtype": self.type.dtype.str,
            "bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }

    def stored_bytes(self) -> int | None:
        """Return the size of the file."""
        return Path(self.uri).stat().st_size

    def paths(self) -> tuple[Path, ...]:
        """Return the file."""
        return (Path(self.uri),)


def open_npy(path: Path, wanted: Wanted) -> Source:
    """Open a .npy file; raise `InputError` when it is damaged or holds no image."""
    _refuse_level(str(path), wanted)
    try:
        mapped = _map(path)
    except MemoryError:
        raise
    except Exception as error:  # NumPy parses a header as Python, and raises what that raises
        raise InputError(f"{path}: cannot be read as a .npy file ({error})") from error
    found = Found(str(path), mapped.shape, mapped.dtype)
    image_type, axis_map = resolve(found, wanted)
    shape = image_type.grid.shape
    # planes (or rows of a plane) are what a mapped file reads in one go
    chunks = tuple(n if i >= len(shape) - 2 else 1 for i, n in enumerate(shape))
    return NpySource(str(path), image_type, chunks, axis_map, file_stamp(path))


def _values(array: NDArray[Any]) -> bytes:
    native = array.dtype.newbyteorder("=")
    whole = np.ascontiguousarray(array, native).reshape(-1).view(np.uint8)
    return hashlib.blake2b(whole.data, digest_size=STAMP_BYTES).digest()


def _map(path: Path) -> NDArray[Any]:
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _refuse_level(where: str, wanted: Wanted) -> None:
    if wanted.level not in {None, 0}:
        raise InputError(f"{where}: has no scale level {wanted.level}, only level 0")
