"""Write blocks into arrays that were laid out before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lepton_pipe.errors import InputError, RunError, WriteError
from lepton_pipe.geometry import Region
from lepton_pipe.store.axes import Wanted
from lepton_pipe.store.durable import remove_partials, sync_path, sync_tree
from lepton_pipe.store.held import Place
from lepton_pipe.store.source import HandleCache, Source, file_stamp
from lepton_pipe.store.writers import Writer, Written, open_writer
from lepton_pipe.store.zarr_input import open_zarr

__all__ = ["ArrayTarget", "remove_partials", "sync_path", "sync_tree"]

_writers = HandleCache()


@dataclass(frozen=True)
class ArrayTarget:
    """An array to write blocks into; small and picklable.

    Attributes
    ----------
    path
        The image's group, or the array itself where `level` is None.
    level
        Scale level in the group.
    place
        Where its chunks are kept; those of results, and of what several processes share, on disk.
    """

    path: Path
    level: int | None = 0
    place: Place = "disk"

    @property
    def array_path(self) -> Path:
        """The array's folder."""
        return self.path if self.level is None else self.path / str(self.level)

    def write(self, region: Region, array: NDArray[Any]) -> list[Written]:
        """Write the whole chunks (or shards) that `region` covers.

        Chunks are written even when they hold fill values alone, each by a rename, so that a chunk
        that is there is whole. Blocks that share no chunk may be written at the same time.

        Raises
        ------
        ValueError
            When the region cuts a chunk, or the array is of another shape or dtype.
        WriteError
            When the system refuses, such as a full disk.
        """
        writer = self.opened()
        with self.writing(region, writer):
            if array.shape != region.shape or array.dtype != writer.dtype:
                raise ValueError(
                    f"{self.array_path}: region {region} takes {writer.dtype} of {region.shape}, "
                    f"not {array.dtype} of {array.shape}; nothing was written"
                )
            return writer.write(region, array)

    def opened(self) -> Writer:
        """Return the open array; raise `RunError` when it is not there."""
        path = self.array_path
        stamp = file_stamp(path / "zarr.json")
        if not stamp:
            raise RunError(f"{path}: was not laid out, or is gone; nothing was written")
        scratch = self.level is None
        return _writers.get(
            (path, stamp, self.place), lambda: open_writer(path, self.place, sampled=scratch)
        )

    @contextmanager
    def writing(self, region: Region, writer: Writer) -> Iterator[None]:
        """Refuse a region that cuts a unit; raise what the system refuses as `WriteError`."""
        _check_aligned(region, writer.unit, writer.shape, self.array_path)
        try:
            yield
        except OSError as error:
            raise WriteError.of(
                f"{self.array_path}: cannot write region {region}", error
            ) from error

    def source(self) -> Source:
        """Return the array as a source, in which a missing chunk raises `DamagedError`."""
        try:
            return open_zarr(str(self.array_path.absolute()), Wanted(), ours=True)
        except InputError as error:
            raise RunError(f"{self.array_path}: cannot be read back ({error})") from error


def _check_aligned(
    region: Region, unit: tuple[int, ...], shape: tuple[int, ...], path: Path
) -> None:
    """Refuse what would have to read a chunk before writing it: two writers would lose updates."""
    for start, stop, u, n in zip(region.start, region.stop, unit, shape, strict=True):
        if start % u or not start < stop <= n or (stop % u and stop != n):
            raise ValueError(
                f"{path}: region {region} is not made of whole write units {unit} of an array of "
                f"{shape}; nothing was written"
            )
