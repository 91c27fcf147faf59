"""A TIFF file that was cut off, of which the first pages can be read all the same.

What shape the whole had is told by metadata at the start of the file, as ImageJ and tifffile write
it; OME's is mostly at the end. Pages that are not there raise when they are read: who goes past
that knows what is missing.
"""

from __future__ import annotations

import json
import struct
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import load
from lepton_pipe.errors import DamagedError
from lepton_pipe.store.axes import Found, Wanted, resolve
from lepton_pipe.store.chunked import Index
from lepton_pipe.store.source import Source, file_stamp, handles
from lepton_pipe.store.tiff import TiffSource, axis_letters, voxel_sizes
from lepton_pipe.store.tiff_guard import check_possible

_PAGE_AXES = ("YX", "YXS")


class _CutFile:
    """An open file, of which pages are read one at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tiff = load("tifffile").TiffFile(path)
        weakref.finalize(self, self.tiff.close)
        self._lock = threading.Lock()

    def page(self, number: int) -> NDArray[Any]:
        """Return the pixels of a page; raise `DamagedError` where they are not there."""
        with self._lock:
            first = self.tiff.pages.first
            try:
                page = self.tiff.pages[number] if number else first
                ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            except (IndexError, ValueError, KeyError, struct.error) as error:
                raise DamagedError(f"{self.path}: page {number} is cut off ({error})") from error
            if (page.shape, page.dtype) != (first.shape, first.dtype) or not ends:
                raise DamagedError(f"{self.path}: page {number} is not like the first")
            if max(ends) > self.tiff.filehandle.size or 0 in page.databytecounts:
                raise DamagedError(f"{self.path}: page {number} is cut off: pixels are missing")
            check_possible(page, self.path, number)
            pixels: NDArray[Any] = page.asarray(maxworkers=1)
            return pixels


@dataclass(frozen=True)
class CutTiffSource(TiffSource):
    """The image of a file that was cut off; a chunk is a page.

    Attributes
    ----------
    lead
        Pages along each axis of the file that is not one of a page.
    """

    lead: tuple[int, ...] = ()

    def _chunk(self, index: Index) -> NDArray[Any]:
        key = ("cut", self.uri, self.stamp)
        file = handles.get(key, lambda: _CutFile(self.uri))
        place = self.axis_map.position(index)[: len(self.lead)]
        number = int(np.ravel_multi_index(place, self.lead)) if self.lead else 0
        pixels = file.page(number)
        return self.axis_map.canonical_chunk(pixels[(np.newaxis,) * len(self.lead)])

    def _form(self) -> tuple[Any, ...]:
        return (*super()._form(), "cut", self.lead)


def open_cut(path: str, wanted: Wanted) -> Source | None:
    """Open a TIFF file that was cut off as the image that it was.

    Returns
    -------
    Source or None
        None where the file does not tell what that was.
    """
    if wanted.level not in (None, 0):
        return None
    with suppress(Exception):  # whatever it is, the file is refused for what is told already
        file = _CutFile(path)
        page = file.tiff.pages.first
        told = _told(file.tiff, page)
        if told is None or page.axes not in _PAGE_AXES:
            return None
        return _opened(path, file.tiff, *told, wanted)
    return None


def _opened(path: str, tiff: Any, axes: str, lead: tuple[int, ...], wanted: Wanted) -> Source:
    page = tiff.pages.first
    letters = axis_letters(axes + page.axes)
    sizes = voxel_sizes(tiff)
    scale, unit = zip(*(sizes.get(a, (1.0, None)) for a in letters), strict=True)
    shape = (*lead, *page.shape)
    found = Found(path, shape, page.dtype, letters, scale, unit, (0.0,) * len(shape))
    image_type, axis_map = resolve(found, wanted)
    chunks = axis_map.pick((*(1 for _ in lead), *page.shape))
    stamp = file_stamp(Path(path))
    return CutTiffSource(path, image_type, chunks, axis_map, 0, stamp, (), lead)


def _told(tiff: Any, page: Any) -> tuple[str, tuple[int, ...]] | None:
    """Return the axes besides those of a page, and their lengths, as metadata tells them."""
    if tiff.is_imagej:
        return _told_by_imagej(tiff.imagej_metadata or {})
    if page.description.startswith('{"shape"'):
        told = json.loads(page.description)
        shape = tuple(int(n) for n in told["shape"])
        lead = shape[: len(shape) - page.ndim]
        if shape[len(lead) :] != page.shape:
            return None
        axes = str(told.get("axes") or "QQQQQQ"[: len(lead)])[: len(lead)]
        return axes.upper(), lead
    return None


def _told_by_imagej(told: dict[str, Any]) -> tuple[str, tuple[int, ...]] | None:
    counts = {
        a: int(told.get(n, 1)) for a, n in (("T", "frames"), ("Z", "slices"), ("C", "channels"))
    }
    used = {a: n for a, n in counts.items() if n > 1}
    if prod(used.values()) != int(told.get("images", 1)):
        return None
    return "".join(used), tuple(used.values())
