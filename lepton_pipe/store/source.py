"""What every input looks like to the rest of the house: a typed grid that can be read by region."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import DamagedError, LeptonError, RunError
from lepton_pipe.geometry import Region
from lepton_pipe.spec import ImageType

T = TypeVar("T")


@dataclass(frozen=True)
class Source(ABC):
    """An image that can be read by region; small, picklable, and safe to share between threads.

    Files are opened on the first read in each process and kept open for the next ones.

    Attributes
    ----------
    uri
        Where the data lies: an absolute path, a URL, or ``"array"`` for data in memory.
    type
        Grid (axes in the order t, c, z, y, x), dtype (native byte order) and kind.
    chunks
        Shape of the unit in which the data is stored, in the same order; for planning.
    """

    uri: str
    type: ImageType
    chunks: tuple[int, ...]

    @abstractmethod
    def _read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of `region`, which lies inside the grid."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return plain data that changes when the input changes, found without reading voxels."""

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of `region` as a C-contiguous array in canonical axis order.

        Raises
        ------
        DamagedError
            When stored data is missing, truncated, or does not match its checksum.
        RunError
            When the system cannot deliver it (a disk error, a lost connection).
        ValueError
            When `region` reaches outside the grid.
        """
        if not self.type.grid.region.contains(region):
            raise ValueError(f"region {region} reaches outside {self.uri}: {self.type.grid.shape}")
        try:
            array = self._read(region)
        except (LeptonError, MemoryError):
            raise
        except OSError as error:
            raise RunError(f"{self.uri}: cannot read region {region}: {error}") from error
        except Exception as error:
            raise DamagedError(
                f"{self.uri}: region {region} cannot be decoded ({error}); the stored data is "
                "damaged: restore the file or make it again"
            ) from error
        if array.shape != region.shape:
            raise DamagedError(
                f"{self.uri}: region {region} gave an array of shape {array.shape}; "
                "the input changed while it was read, or is damaged"
            )
        return np.ascontiguousarray(array, dtype=self.type.dtype)

    def stored_bytes(self) -> int | None:
        """Return the bytes that the data takes up where it is stored; None where unknown."""
        return None

    def paths(self) -> tuple[Path, ...]:
        """Return the files or folders on this machine that hold the data, as absolute paths."""
        return ()


class HandleCache:
    """Open files of this process, the least recently used dropped first.

    A dropped handle is closed when the last reader lets go of it. Two threads that ask for the
    same key open it once.

    Parameters
    ----------
    size
        Handles kept open.
    """

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._handles: OrderedDict[Hashable, _Slot] = OrderedDict()

    def get(self, key: Hashable, opener: Callable[[], T]) -> T:
        """Return the handle for `key`, made by `opener` when there is none."""
        with self._lock:
            slot = self._handles.setdefault(key, _Slot())
            self._handles.move_to_end(key)
            while len(self._handles) > self._size:
                self._handles.popitem(last=False)
        with slot.lock:
            if not slot.filled:
                slot.value = opener()
                slot.filled = True
        value: T = slot.value
        return value

    def clear(self) -> None:
        """Drop every handle."""
        with self._lock:
            self._handles.clear()


class _Slot:
    """Room for one handle, with the lock under which it is opened."""

    __slots__ = ("filled", "lock", "value")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.filled = False
        self.value: Any = None


handles = HandleCache()
"""The open files of this process."""
