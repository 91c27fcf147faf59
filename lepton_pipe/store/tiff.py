"""TIFF, OME-TIFF and the pyramids of slide scanners as a source."""

from __future__ import annotations

import html
import logging
import re
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.api import asynchronous as zarr_async
from zarr.core.buffer import default_buffer_prototype

from lepton_pipe.device import load
from lepton_pipe.errors import InputError, LeptonError, RunError
from lepton_pipe.store.axes import AxisMap, Found, Wanted, resolve
from lepton_pipe.store.chunked import ChunkedSource, Index
from lepton_pipe.store.file_digests import opened_version
from lepton_pipe.store.loop import run
from lepton_pipe.store.source import Source, file_stamp, handles
from lepton_pipe.store.stamps import remote_version
from lepton_pipe.store.stores import AsyncArray
from lepton_pipe.store.tiff_check import check_whole, ome_pixels
from lepton_pipe.store.tiff_guard import check_description, guard_jpeg
from lepton_pipe.store.urls import filesystem, is_url

# What tifffile logs about a broken file is said by our own errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_WHOLE_PAGE = 64 << 20
"""Pages of up to 64 MiB in strips are read whole: strips are too small to be worth a task."""

_WITH_THUMBNAILS = {"svs", "ndpi", "scn", "bif", "qpi", "philips", "avs"}
"""Kinds of slide whose further images are a label, an overview or a thumbnail of the first."""

_PRINT_DPI = {1.0, 72.0, 96.0, 100.0, 150.0, 200.0, 300.0, 600.0}
"""Resolutions per inch that programs write when they know nothing about the voxel size."""


class TiffHandle:
    """An open TIFF file and one level of its first series as a zarr array.

    Reads from several threads are safe: tifffile guards the file by a lock and decodes outside it.
    """

    def __init__(self, uri: str, level: int) -> None:
        self.file = filesystem(uri)[0].open(filesystem(uri)[1]) if is_url(uri) else None
        self.tiff = load("tifffile").TiffFile(self.file or uri)
        weakref.finalize(self, _close, self.tiff, self.file)
        self.companions = check_description(self.tiff, uri)
        series = self.tiff.series[0]
        levels = len(series.levels)
        if not 0 <= level < levels:
            raise InputError(
                f"{uri}: there is no scale level {level}; levels are 0 to {levels - 1}"
            )
        self.series = series.levels[level]
        guard_jpeg(self.series.keyframe)
        self._store = series.aszarr(level=level, chunkmode=self._chunk_mode(), maxworkers=1)
        self.array: AsyncArray = run(zarr_async.open_array(store=self._store, mode="r"))

    def chunk(self, index: Index) -> NDArray[Any]:
        """Return one strip, tile or page, in the file's own axes; whole, also at the far edges."""
        metadata: Any = self.array.metadata
        key = metadata.encode_chunk_key(index)
        value = run(self._store.get(key, default_buffer_prototype()))
        dtype = np.dtype(self.array.dtype)
        if value is None:
            fill = metadata.fill_value
            return np.broadcast_to(np.asarray(0 if fill is None else fill, dtype), metadata.chunks)
        pixels: NDArray[Any] = value.as_numpy_array()
        return pixels.view(dtype).reshape(metadata.chunks)

    def _chunk_mode(self) -> str:
        page = self.series.keyframe
        whole = not page.is_tiled and page.nbytes <= _WHOLE_PAGE
        return "page" if whole else "strile"


def _close(tiff: Any, file: Any) -> None:
    tiff.close()
    if file is not None:
        file.close()


@dataclass(frozen=True)
class TiffSource(ChunkedSource):
    """One level of the first series of a TIFF file, on this machine or remote."""

    axis_map: AxisMap
    level: int
    stamp: tuple[int, ...]
    companions: tuple[Path, ...] = ()

    def _chunk(self, index: Index) -> NDArray[Any]:
        key = (self.uri, self.level, self.stamp)
        handle = handles.get(key, lambda: TiffHandle(self.uri, self.level))
        return self.axis_map.canonical_chunk(handle.chunk(self.axis_map.position(index)))

    def _stamp(self, index: Index) -> Hashable:  # noqa: ARG002  (one file for all)
        return self.level, self.stamp

    def _form(self) -> tuple[Any, ...]:
        return (self.level, self.axis_map.order)

    def unit_stamps(self, units: Sequence[Index]) -> list[bytes]:
        """Return the version of the file that was opened; what a server tells of it now."""
        if is_url(self.uri):
            known = remote_version(self.uri)
        else:
            known = opened_version(self.paths(), self.stamp, by_bytes=self.by_bytes)
        return [known] * len(units)

    def identity(self) -> dict[str, Any]:
        """Return size and time of the file (size alone of a remote one)."""
        facts: dict[str, Any] = {
            "uri": self.uri,
            "format": "tiff",
            "level": self.level,
            "shape": list(self.type.grid.shape),
            "dtype": self.type.dtype.str,
            "bytes": self.stored_bytes(),
        }
        if not is_url(self.uri):
            facts["mtime_ns"] = max(path.stat().st_mtime_ns for path in self.paths())
        return facts

    def stored_bytes(self) -> int | None:
        """Return the size of the file, and of those that the image is in besides."""
        if not is_url(self.uri):
            return sum(path.stat().st_size for path in self.paths())
        files, path = filesystem(self.uri)
        size = files.size(path)
        return None if size is None else int(size)

    def paths(self) -> tuple[Path, ...]:
        """Return the file, and those that the image is in besides."""
        return () if is_url(self.uri) else (Path(self.uri), *self.companions)


def open_tiff(uri: str, wanted: Wanted) -> Source:
    """Open one level of a TIFF file at a path or URL.

    Raises
    ------
    InputError
        When it is no TIFF file, is cut off, or holds pages that do not make one image.
    RunError
        When it is at a URL whose server does not answer.
    """
    level = wanted.level or 0
    try:
        handle = TiffHandle(uri, level)
        check_whole(handle.tiff, handle.tiff.series[0], uri, sparse=wanted.sparse)
        found = _describe(uri, handle)
    except LeptonError:
        raise
    except FileNotFoundError as error:
        if why := _unanswered(error):
            raise RunError(f"{uri}: cannot be fetched ({why})") from error
        raise InputError(f"{uri}: does not exist; check the address") from error
    except Exception as error:
        raise InputError(
            f"{uri}: cannot be read as TIFF ({error}); is it complete, and is it an image?"
        ) from error
    image_type, axis_map = resolve(found, wanted)
    chunks, beside = axis_map.pick(handle.array.chunks), handle.companions
    stamps = () if is_url(uri) else tuple(map(file_stamp, (Path(uri), *beside)))
    return TiffSource(uri, image_type, chunks, axis_map, level, sum(stamps, ()), beside)


def _unanswered(error: FileNotFoundError) -> str:
    """Return why a server did not answer, of which fsspec says that it has no such file."""
    cause = error.__cause__
    missing = isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) == 404
    return "" if cause is None or missing else str(cause)


def _describe(uri: str, handle: TiffHandle) -> Found:
    tiff, series = handle.tiff, handle.series
    if len(tiff.series) > 1 and tiff.series[0].kind not in _WITH_THUMBNAILS:
        shapes = ", ".join(str(s.shape) for s in tiff.series[:4])
        raise InputError(
            f"{uri}: holds {len(tiff.series)} images ({shapes}), such as positions or scenes, and "
            "which one is meant cannot be told; save each in a file of its own"
        )
    axes = axis_letters(series.axes)
    base = tiff.series[0]
    sizes = voxel_sizes(tiff)
    names = dict(zip(series.axes, axes, strict=True))
    scale, unit, shift = [], [], []
    for axis, n in zip(series.axes, series.shape, strict=True):
        size, name = sizes.get(names[axis], (1.0, None))
        factor = _factor(dict(zip(base.axes, base.shape, strict=True)).get(axis, n), n)
        scale.append(size * factor)
        shift.append(size * (factor - 1) / 2)
        unit.append(name)
    return Found(
        uri, tuple(series.shape), series.dtype, axes, tuple(scale), tuple(unit), tuple(shift)
    )


def _factor(full: int, reduced: int) -> float:
    """Return by how much a level is reduced: a whole number where rounding explains the rest."""
    ratio = full / reduced
    whole = max(1, round(ratio))
    return float(whole) if -(-full // whole) == reduced or full // whole == reduced else ratio


def axis_letters(axes: str) -> tuple[str, ...]:
    """Return canonical letters for tifffile's axis codes, the others in lower case.

    Samples (S) are channels; pages of unknown meaning (Q, I) are z, or t where z is taken.
    """
    letters: list[str] = []
    for code in axes:
        choices = {"S": "C", "Q": "ZT", "I": "ZT"}.get(code, code)
        free = [c for c in choices if c not in axes and c.lower() not in letters]
        letters.append((free[0] if free and choices != code else code).lower())
    return tuple(letters)


def voxel_sizes(tiff: Any) -> dict[str, tuple[float, str | None]]:
    """Return voxel size and unit by axis, as far as the file tells."""
    if tiff.is_ome:
        return _ome_sizes(tiff.ome_metadata)
    if tiff.is_imagej:
        return _imagej_sizes(tiff)
    if tiff.is_svs:
        found = re.search(r"MPP\s*=\s*([\d.]+)", tiff.pages.first.description)
        size = (float(found.group(1)), "micrometer") if found else None
        return {"y": size, "x": size} if size else {}
    return _tag_sizes(tiff.pages.first)


def _ome_sizes(xml: str) -> dict[str, tuple[float, str | None]]:
    pixels = ome_pixels(xml)
    sizes: dict[str, tuple[float, str | None]] = {}
    for axis in "xyz":
        value = pixels.get(f"PhysicalSize{axis.upper()}")
        if value is not None:
            unit = pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm")
            sizes[axis] = (float(value), html.unescape(unit))
    if "TimeIncrement" in pixels:
        unit = html.unescape(pixels.get("TimeIncrementUnit", "s"))
        sizes["t"] = (float(pixels["TimeIncrement"]), unit)
    return sizes


def _imagej_sizes(tiff: Any) -> dict[str, tuple[float, str | None]]:
    told = tiff.imagej_metadata or {}
    unit = told.get("unit")
    sizes: dict[str, tuple[float, str | None]] = {}
    across, down = tiff.pages.first.resolution
    if unit is not None and across > 0 and down > 0:
        sizes |= {"x": (1 / across, unit), "y": (1 / down, unit)}
    if told.get("spacing"):
        sizes["z"] = (abs(float(told["spacing"])), unit)
    if told.get("finterval"):
        sizes["t"] = (float(told["finterval"]), "second")
    return sizes


def _tag_sizes(page: Any) -> dict[str, tuple[float, str | None]]:
    across, down = page.resolution
    inch, centimetre = 2, 3
    per = {inch: 25_400.0, centimetre: 10_000.0}.get(int(page.resolutionunit))
    if per is None or min(across, down) <= 0 or (per == 25_400.0 and across in _PRINT_DPI):
        return {}
    return {"x": (per / across, "micrometer"), "y": (per / down, "micrometer")}
