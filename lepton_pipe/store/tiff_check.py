"""Find out whether a TIFF file is whole, from its directory alone.

tifffile reads a file that was cut off as one with fewer pages, and says so in a log message only.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any, NoReturn

from lepton_pipe.errors import InputError
from lepton_pipe.store.tiff_guard import check_possible

_DESCRIPTION = 270


def check_whole(tiff: Any, series: Any, where: str, *, sparse: bool) -> None:
    """Raise `InputError` when pages, or pixels of a page, are missing.

    Parameters
    ----------
    sparse
        Whether strips and tiles may be left out: those that the file says it does not store.
    """
    if not tiff.is_ndpi:
        _check_chain(tiff, where)
        _check_description(tiff, where)
    for level in series.levels:
        _check_pixels(level, where, tiff.filehandle.size, sparse=sparse)
    expected = _expected_planes(tiff)
    have = math.prod(n for a, n in zip(series.axes, series.shape, strict=True) if a in "TCZIQ")
    if expected is not None and have < expected:
        raise _cut_off(where, f"its metadata tells of {expected} planes, but {have} are there")


def _cut_off(where: str, why: str) -> InputError:
    return InputError(f"{where}: is cut off: {why}; copy it again from its origin")


def _check_chain(tiff: Any, where: str) -> None:
    """Follow the file's list of pages to its end; each must lie within the file."""
    file, size = tiff.filehandle, tiff.filehandle.size
    wide, order = tiff.is_bigtiff, tiff.byteorder
    count_format, count_size = (order + "Q", 8) if wide else (order + "H", 2)
    offset_format, offset_size, entry = (order + "Q", 8, 20) if wide else (order + "I", 4, 12)

    def number(at: int, code: str, length: int) -> int:
        file.seek(at)
        data = file.read(length)
        if len(data) < length:
            raise _cut_off(where, f"its list of pages leads to byte {at}, and it has {size}")
        return int(struct.unpack(code, data)[0])

    offset = number(8 if wide else 4, offset_format, offset_size)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise InputError(f"{where}: its list of pages runs in a circle; the file is damaged")
        seen.add(offset)
        entries = number(offset, count_format, count_size)
        offset = number(offset + count_size + entries * entry, offset_format, offset_size)


def _check_description(tiff: Any, where: str) -> None:
    """Refuse a file whose first page has a description that is not there: OME stands at the end.

    tifffile leaves out what it cannot read of a page, and takes the file for one without.
    """
    file, page, wide = tiff.filehandle, tiff.pages.first, tiff.is_bigtiff
    count, entry, value = ("Q", "HHQQ", 8) if wide else ("H", "HHII", 4)
    file.seek(page.offset)
    (entries,) = struct.unpack(tiff.byteorder + count, file.read(struct.calcsize("=" + count)))
    directory = file.read(entries * struct.calcsize("=" + entry))
    for code, _kind, size, offset in struct.iter_unpack(tiff.byteorder + entry, directory):
        if code == _DESCRIPTION and size > value and offset + size > file.size:
            raise _cut_off(where, "the description of its first page lies beyond the end")


def _check_pixels(level: Any, where: str, size: int, *, sparse: bool) -> None:
    if level.dataoffset is not None:
        if level.dataoffset + math.prod(level.shape) * level.dtype.itemsize > size:
            raise _cut_off(where, "its pixels reach beyond the end of the file")
        return
    for index, page in enumerate(level):
        if page is None:
            raise InputError(
                f"{where}: plane {index} is missing; is a file beside it missing, too?"
            )
        check_possible(page, where, index)
        if not sparse and 0 in page.databytecounts:
            _refuse_left_out(page, where, index)
        own = page.parent.filehandle.size if level.is_multifile else size
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > own:
                raise _cut_off(where, f"pixels of page {index} reach beyond the end of the file")


def _refuse_left_out(page: Any, where: str, index: int) -> NoReturn:
    counts = page.databytecounts
    kind = "tiles" if page.is_tiled else "strips"
    raise InputError(
        f"{where}: {counts.count(0)} of {len(counts)} {kind} of page {index} are not stored. Some "
        f"programs leave out {kind} that hold nothing: if this one was written so, give --sparse "
        "(in Python sparse=True), and they read as zeros; else it was not written to its end"
    )


def _expected_planes(tiff: Any) -> int | None:
    """Return the number of planes that OME or ImageJ metadata tell of; None without them."""
    if tiff.is_ome:
        pixels = ome_pixels(tiff.ome_metadata)
        sizes = [pixels.get(f"Size{axis}") for axis in "TCZ"]
        samples = tiff.pages.first.samplesperpixel
        if all(s is not None and s.isdigit() for s in sizes):
            return math.prod(int(s) for s in sizes if s) // max(1, int(samples))
    if tiff.is_imagej and tiff.imagej_metadata:
        return int(tiff.imagej_metadata.get("images", 1))
    return None


def ome_pixels(xml: str | None) -> dict[str, str]:
    """Return the attributes of the first ``Pixels`` element of OME-XML."""
    tag = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", xml or "")
    return dict(re.findall(r'([\w:]+)\s*=\s*"([^"]*)"', tag.group(1))) if tag else {}
