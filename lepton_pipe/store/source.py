"""What every input looks like to the rest of the house: a typed grid that can be read by region."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import DamagedError, LeptonError, RunError
from lepton_pipe.geometry import Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import stamps
from lepton_pipe.store.urls import is_url

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
    opened
        How `lepton_pipe.open_image` was asked for it: ``at`` and further arguments.
    by_bytes
        Whether a version of its files is told by digests of their bytes, not by size and time.
    """

    uri: str
    type: ImageType
    chunks: tuple[int, ...]
    opened: Mapping[str, Any] | None = field(default=None, kw_only=True, compare=False, repr=False)
    by_bytes: bool = field(default=False, kw_only=True, repr=False)

    def remembering(self, what: Any, how: Mapping[str, Any]) -> Self:
        """Return the image with a note of how it was opened, if it was by a path or URL.

        Parameters
        ----------
        what
            What it was opened from.
        how
            The other arguments of `lepton_pipe.store.open_source`.
        """
        if not isinstance(what, str | os.PathLike):
            return self
        address = os.fspath(what)
        at = address if is_url(address) else str(Path(address).expanduser().absolute())
        given = {n: v for n, v in how.items() if v not in (None, False)}
        return replace(self, opened={"at": at, **given})

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
        with self.reading(region):
            array = self._read(region)
        if array.shape != region.shape:
            raise DamagedError(
                f"{self.uri}: region {region} gave an array of shape {array.shape}; "
                "the input changed while it was read, or is damaged"
            )
        return np.ascontiguousarray(array, dtype=self.type.dtype)

    @contextmanager
    def reading(self, region: Region) -> Iterator[None]:
        """Raise what goes wrong while `region` is read as an error of ours that names it."""
        try:
            yield
        except (LeptonError, MemoryError):
            raise
        except OSError as error:
            raise RunError(f"{self.uri}: cannot read region {region}: {error}") from error
        except Exception as error:
            raise DamagedError(
                f"{self.uri}: region {region} cannot be decoded ({error}); the stored data is "
                "damaged: restore the file or make it again"
            ) from error

    @property
    def stamp_unit(self) -> tuple[int, ...]:
        """Shape of the parts of the grid that have a stamp each: what is stored as one file."""
        return self.type.grid.shape

    def known_by_bytes(self) -> Self:
        """Return the image with versions of its files told by their bytes.

        One at a URL is known by what the server says, and an array by its values, in any case.
        """
        return replace(self, by_bytes=True) if self.paths() else self

    def form_stamp(self) -> bytes:
        """Return what changes when the same files would be understood as other voxels.

        It changes as well with what tells versions of these files.
        """
        return stamps.digest(
            [type(self).__name__, self._place(), self.type.dtype.str, *self._form()]
        )

    def _place(self) -> str:
        if self.by_bytes:
            return "anywhere"
        # A link may lead to other files now, which can have the same sizes and times.
        return os.path.realpath(self.uri) if self.paths() else self.uri

    def _form(self) -> tuple[Any, ...]:
        """Return plain data on how files become voxels: axes, codecs."""
        return ()

    def unit_stamps(self, units: Sequence[tuple[int, ...]]) -> list[bytes]:
        """Return the stamps of some units, see `lepton_pipe.store.stamps`.

        Parameters
        ----------
        units
            Their positions in the grid, counted in units.

        Returns
        -------
        list
            `STAMP_BYTES` for each. What cannot be told to be unchanged has another every time.
        """
        return [stamps.never() for _ in units]

    def file_of(self, region: Region) -> str:  # noqa: ARG002
        """Return the file, or the address, that holds the first voxel of a region."""
        return self.uri

    def as_sparse(self) -> Source:
        """Return the source with stored parts that are missing taken for fill values."""
        return self

    def refuse_incomplete(self) -> None:  # noqa: B027  (most formats know when they are opened)
        """Raise `InputError` when it can be told without reading that a stored part is missing."""

    def notes(self) -> list[str]:
        """Return what a user may not know of the image, and what comes of it."""
        return []

    def stored_bytes(self) -> int | None:
        """Return the bytes that the data takes up where it is stored; None where unknown."""
        return None

    def paths(self) -> tuple[Path, ...]:
        """Return the files or folders on this machine that hold the data, as absolute paths."""
        return ()


def file_stamp(path: str | Path) -> tuple[int, ...]:
    """Return what tells one version of a file from the next; empty if there is none.

    Size, time, inode, and the time of the last change of these, which nobody can set: under such
    a stamp what was read is kept, so it must tell apart what was written within one process.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  (asked for every chunk; a Path takes longer)
    except OSError:
        return ()
    return stamp_of(status)


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return the `file_stamp` of a file whose status is known."""
    return (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


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
