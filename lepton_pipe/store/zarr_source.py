"""A zarr array as a source."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lepton_pipe.geometry import Region
from lepton_pipe.store.axes import AxisMap
from lepton_pipe.store.source import Source, handles
from lepton_pipe.store.stores import METADATA_KEYS, ArrayHandle
from lepton_pipe.store.urls import is_url


@dataclass(frozen=True)
class ZarrSource(Source):
    """One scale level of a zarr image, local or remote.

    Attributes
    ----------
    axis_map
        Where the canonical axes lie in the array.
    metadata
        Digest of the array's metadata when it was opened.
    level
        Scale level in its image, None for a bare array.
    strict
        Whether a missing chunk is damage (our own arrays) or fill values (what zarr says).
    stamp
        Size and time of the metadata file, so that a rewritten array is opened anew.
    """

    axis_map: AxisMap
    metadata: str
    level: int | None = None
    strict: bool = False
    stamp: tuple[int, ...] = ()

    def _read(self, region: Region) -> NDArray[Any]:
        key = (self.uri, self.strict, self.metadata, self.stamp)
        handle = handles.get(key, lambda: ArrayHandle(self.uri, strict=self.strict))
        return self.axis_map.canonical(handle.read(self.axis_map.selection(region)))

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
        if not is_url(self.uri):
            facts |= tree_facts(Path(self.uri))
        return facts

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


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return what tells one version of a file from the next: size, time, inode; empty if none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def digest(data: Any) -> str:
    """Return a short digest of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
