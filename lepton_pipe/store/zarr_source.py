"""A zarr array as a source."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lepton_pipe.cache import chunks as cache
from lepton_pipe.geometry import Region
from lepton_pipe.store.axes import AxisMap
from lepton_pipe.store.checksums import Bytes
from lepton_pipe.store.chunked import ChunkedSource, Index
from lepton_pipe.store.missing import Missing, refuse_absent
from lepton_pipe.store.source import Source, handles
from lepton_pipe.store.storage import Storage
from lepton_pipe.store.stores import METADATA_KEYS
from lepton_pipe.store.unit_files import Extent
from lepton_pipe.store.urls import is_url
from lepton_pipe.store.zarr_chunks import ArrayHandle

_REMOTE_REQUESTS = 8
"""Chunks asked for at the same time where each answer takes its time."""


@dataclass(frozen=True)
class ZarrSource(ChunkedSource):
    """One scale level of a zarr image, local or remote.

    Attributes
    ----------
    axis_map
        Where the canonical axes lie in the array.
    metadata
        Digest of the array's metadata when it was opened.
    level
        Scale level in its image, None for a bare array.
    missing
        What it means that a chunk is not there.
    stamp
        Size and time of the metadata file, so that a rewritten array is opened anew.
    """

    axis_map: AxisMap
    metadata: str
    level: int | None = None
    missing: Missing = "refused"
    stamp: tuple[int, ...] = ()

    def _read(self, region: Region) -> NDArray[Any]:
        if is_url(self.uri) and not cache.enabled() and self._handle().direct is None:
            # zarr fetches the chunks of a request side by side, and an index of shards once.
            return self._through_zarr(region)
        return super()._read(region)

    @property
    def in_order(self) -> bool:
        """Whether the axes of the array are the canonical ones, in their order."""
        return self.axis_map.order == tuple(range(self.axis_map.ndim))

    @property
    def storage(self) -> Storage | None:
        """How the array is stored; None where it is remote or only zarr knows."""
        direct = self._handle().direct
        return None if direct is None or is_url(self.uri) else direct.storage

    def stored(self, index: Index) -> Bytes | None:
        """Return the bytes of a chunk, where the `storage` is known; None for fill values."""
        direct = self._handle().direct
        assert direct is not None
        return direct.stored(self.axis_map.position(index))

    @property
    def is_plain(self) -> bool:
        """Whether files hold the voxels of chunks as `read` gives them, with nothing to check."""
        direct = self._handle().direct
        if direct is None or not direct.is_plain or not self.in_order:
            return False
        return direct.storage.chain.dtype == self.type.dtype

    def extent(self, index: Index) -> Extent | None:
        """Return where a chunk lies, if the array is plain; None where only `read` can tell."""
        direct = self._handle().direct
        assert direct is not None
        return direct.extent(index)

    def _chunk(self, index: Index) -> NDArray[Any]:
        direct = self._handle().direct
        if direct is None:
            return self._through_zarr(self.region_of(index))
        return self.axis_map.canonical_chunk(direct.chunk(self.axis_map.position(index)))

    def _chunk_into(self, index: Index, out: NDArray[Any]) -> bool:
        direct = self._handle().direct
        if direct is None or not self.in_order or is_url(self.uri):
            return False
        direct.chunk_into(index, out)
        return True

    def _stamp(self, index: Index) -> Hashable:
        return self.metadata, self.missing, self._handle().stamp(self.axis_map.position(index))

    def _at_a_time(self) -> int:
        return _REMOTE_REQUESTS if is_url(self.uri) else 1

    def _through_zarr(self, region: Region) -> NDArray[Any]:
        part = self._handle().read(self.axis_map.selection(region))
        return self.axis_map.canonical(part)

    def _handle(self) -> ArrayHandle:
        key = (self.uri, self.missing, self.metadata, self.stamp)
        return handles.get(key, lambda: ArrayHandle(self.uri, self.missing))

    @property
    def stamp_unit(self) -> tuple[int, ...]:
        """Shape of a shard or chunk, in canonical axes."""
        unit: tuple[int, ...] = self.axis_map.pick(self._handle().unit)
        return unit

    def _form(self) -> tuple[Any, ...]:
        # Not what a missing chunk means: a block that met one is not done, or is as it was said.
        return (self.axis_map.order, self._handle().form())

    def unit_stamps(self, units: Sequence[Index]) -> list[bytes]:
        """Return versions of the files of shards or chunks; what a server tells of them."""
        places = [self.axis_map.position(u) for u in units]
        return self._handle().unit_stamps(places, by_bytes=self.by_bytes)

    def file_of(self, region: Region) -> str:
        """Return the file of the chunk or shard that holds the first voxel of a region."""
        index = tuple(a // u for a, u in zip(region.start, self.stamp_unit, strict=True))
        return self._handle().file_of(self.axis_map.position(index))

    def identity(self) -> dict[str, Any]:
        """Return metadata and, on this machine, number, size and latest change of the files."""
        facts: dict[str, Any] = {
            "uri": self.uri,
            "format": "zarr",
            "level": self.level,
            "shape": list(self.type.grid.shape),
            "dtype": self.type.dtype.str,
            "metadata": self.metadata,
        }
        if self.missing == "fill":
            facts["sparse"] = True
        if not is_url(self.uri):
            facts |= tree_facts(Path(self.uri))
        return facts

    def as_sparse(self) -> Source:
        """Return the source with missing chunks taken for fill values, unless they were written."""
        return self if self.missing == "lost" else replace(self, missing="fill")

    def refuse_incomplete(self) -> None:
        """Raise `InputError` when files of chunks are missing that may not be."""
        if self.missing == "fill":
            return
        found = self._handle().absent()
        if found is not None:
            refuse_absent(self.uri, found, self.missing, self._handle().fill_value)

    def stored_bytes(self) -> int | None:
        """Return the bytes of all files of the array; None for a remote one."""
        return None if is_url(self.uri) else int(tree_facts(Path(self.uri))["bytes"])

    def paths(self) -> tuple[Path, ...]:
        """Return the folder of the zarr hierarchy that the array is part of."""
        return () if is_url(self.uri) else (_hierarchy(Path(self.uri)),)


def _hierarchy(path: Path) -> Path:
    while any((path.parent / name).is_file() for name in METADATA_KEYS):
        path = path.parent
    return path


def tree_facts(root: Path) -> dict[str, int]:
    """Return the number and total bytes of the files under `root`, and when one last changed."""
    files = size = newest = 0
    folders = [os.fspath(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                    continue
                status = entry.stat()
                files += 1
                size += status.st_size
                newest = max(newest, status.st_mtime_ns)
    return {"files": files, "bytes": size, "mtime_ns": newest}


def digest(data: Any) -> str:
    """Return a short digest of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
