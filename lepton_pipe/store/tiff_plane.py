"""Read plain TIFF files of one plane, of which a stack has thousands, without parsing all of each.

It is the fast path for one directory, one sample per pixel, strips that are not compressed or
deflated. Whatever is not exactly that is left to tifffile: nothing is guessed here.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TYPES = {3: "H", 4: "I"}
"""Types of the numbers that matter here: SHORT and LONG."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _COUNTS = 266, 273, 277, 278, 279
_PREDICTOR, _FORMAT = 317, 339
_DECISIVE = {_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER} | {
    _OFFSETS,
    _SAMPLES,
    _ROWS,
    _COUNTS,
    _PREDICTOR,
    _FORMAT,
}
"""Tags that say what the pixels are; each stands in the directory once at most."""

_TEXTS = {269, 270, 271, 272, 285, 305, 306, 315, 316, 700, 50838, 50839}
_HARMLESS = _TEXTS | {274, 280, 281, 282, 283, 284, 286, 287, 296, 297}
"""Tags that do not change what the pixels are; with any other, the file is left to tifffile."""

_DEFAULTS = {_SAMPLES: 1, _PREDICTOR: 1, _FORMAT: 1, _COMPRESSION: 1, _FILL_ORDER: 1, _SUBFILE: 0}
_NOT_PACKED = 1
_DEFLATE = {8, 32946}
_DEFLATE_MOST = 1040
"""Bytes that one deflated byte can stand for: 1032, and a little for what is short."""
_DIFFERENCES = 2
_KINDS = {1: "u", 2: "i", 3: "f"}
_HEAD = 4096
"""Bytes read at first; a directory at the start of the file lies within."""


@dataclass(frozen=True)
class PlainPage:
    """The only page of a plain TIFF file.

    Attributes
    ----------
    shape
        Rows and columns.
    dtype
        As it is stored, byte order included.
    deflated, differences
        Whether strips are deflated, and hold differences along the rows.
    rows
        Rows of a strip; the last may have fewer.
    offsets, counts
        Where each strip lies in the file, and its bytes there; all within the file.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    deflated: bool
    differences: bool
    rows: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return math.prod(self.shape) * self.dtype.itemsize


def plain_page(path: Path) -> PlainPage | None:
    """Return what the directory of a plain TIFF file says; None for any other file."""
    with _opened(path) as file:
        return _page(file)


def plain_pixels(path: Path) -> NDArray[Any] | None:
    """Return the pixels ``(y, x)`` of a plain TIFF file in native byte order, perhaps read-only.

    None for any other file, and for one whose strips are not what its directory says.
    """
    with _opened(path) as file:
        page = _page(file)
        if page is None:
            return None
        pixels = _deflated(file, page) if page.deflated else _stored(file, page)
    return None if pixels is None else _native(pixels, page)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _page(file: int) -> PlainPage | None:
    size = os.fstat(file).st_size
    directory = _Directory.read(file)
    if directory is None:
        return None
    page = _described(directory)
    if page is None or not page.offsets or min(page.counts) == 0:
        return None
    ends = (o + c for o, c in zip(page.offsets, page.counts, strict=True))
    # A directory that promises more than deflate can hold is not believed: no memory is taken.
    possible = page.nbytes <= _DEFLATE_MOST * sum(page.counts)
    return page if possible and max(ends) <= size else None


def _described(directory: _Directory) -> PlainPage | None:
    one = directory.number
    bits, kind = one(_BITS), _KINDS.get(one(_FORMAT))
    height, width = one(_HEIGHT), one(_WIDTH)
    plain = (
        one(_SAMPLES) == 1
        and one(_FILL_ORDER) == 1
        and one(_SUBFILE) == 0
        and one(_PHOTOMETRIC) in {0, 1}
        and one(_PREDICTOR) in {1, _DIFFERENCES}
        and one(_COMPRESSION) in {_NOT_PACKED, *_DEFLATE}
    )
    if not plain or kind is None or bits not in {8, 16, 32, 64} or not height * width:
        return None
    deflated, differences = one(_COMPRESSION) in _DEFLATE, one(_PREDICTOR) == _DIFFERENCES
    if (kind, bits) == ("f", 8) or (differences and not (deflated and kind != "f" and bits < 64)):
        return None
    rows = min(one(_ROWS), height) or height
    offsets, counts = directory.numbers(_OFFSETS), directory.numbers(_COUNTS)
    if not len(offsets) == len(counts) == -(-height // rows):
        return None
    dtype = np.dtype(f"{directory.order}{kind}{bits // 8}")
    return PlainPage((height, width), dtype, deflated, differences, rows, offsets, counts)


@dataclass(frozen=True)
class _Directory:
    """The tags of a file with one directory: byte order, and type, count and place of each."""

    file: int
    head: bytes
    order: str
    tags: dict[int, tuple[int, int, bytes]]

    @classmethod
    def read(cls, file: int) -> _Directory | None:
        head = os.pread(file, _HEAD, 0)
        order = _ORDERS.get(head[:4])
        if order is None or len(head) < 8:
            return None
        start = struct.unpack_from(order + "I", head, 4)[0]
        count = _part(file, head, start, 2)
        if len(count) < 2:
            return None
        entries = struct.unpack(order + "H", count)[0]
        body = _part(file, head, start + 2, entries * 12 + 4)
        # Another directory, or the end of the file in this one, is for tifffile to judge.
        if len(body) < entries * 12 + 4 or body[-4:] != bytes(4):
            return None
        found = list(struct.iter_unpack(order + "HHI4s", body[:-4]))
        tags = {code: (kind, count, value) for code, kind, count, value in found}
        once = sum(code in _DECISIVE for code, *_ in found) == len(tags.keys() & _DECISIVE)
        known = once and tags.keys() <= _DECISIVE | _HARMLESS
        return cls(file, head, order, tags) if known else None

    def number(self, code: int) -> int:
        """Return the one number of a tag; 0, or its default, where it has none or several."""
        found = self.numbers(code) if code in self.tags else (_DEFAULTS.get(code, 0),)
        return found[0] if len(found) == 1 else 0

    def numbers(self, code: int) -> tuple[int, ...]:
        """Return the numbers of a tag; none where they are of another type or cut off."""
        kind, count, value = self.tags.get(code, (0, 0, b""))
        letter = _TYPES.get(kind)
        if letter is None:
            return ()
        size = struct.calcsize(letter) * count
        if size > 4:
            place = struct.unpack(self.order + "I", value)[0]
            value = _part(self.file, self.head, place, size)
        if len(value) < size:
            return ()
        return struct.unpack(f"{self.order}{count}{letter}", value[:size])


def _part(file: int, head: bytes, start: int, size: int) -> bytes:
    if start + size <= len(head):
        return head[start : start + size]
    return os.pread(file, size, start)


def _stored(file: int, page: PlainPage) -> NDArray[Any] | None:
    """Read strips that are not compressed, if they follow one another and fill the plane."""
    follow = all(
        offset + count == after
        for offset, count, after in zip(page.offsets, page.counts, page.offsets[1:], strict=False)
    )
    if not follow or sum(page.counts) != page.nbytes:
        return None
    data = os.pread(file, page.nbytes, page.offsets[0])
    whole = len(data) == page.nbytes
    return np.frombuffer(data, page.dtype).reshape(page.shape) if whole else None


def _deflated(file: int, page: PlainPage) -> NDArray[Any] | None:
    out = np.empty(page.shape, page.dtype)
    starts = itertools.count(0, page.rows)
    for start, offset, count in zip(starts, page.offsets, page.counts, strict=False):
        strip = out[start : start + page.rows].reshape(-1).view(np.uint8).data
        try:
            data = imagecodecs.deflate_decode(os.pread(file, count, offset), out=strip)
        except imagecodecs.DeflateError:
            return None
        if len(data) != strip.nbytes:
            return None
    return out


def _native(pixels: NDArray[Any], page: PlainPage) -> NDArray[Any]:
    pixels = pixels.astype(page.dtype.newbyteorder("="), copy=False)
    if page.differences:
        summed: NDArray[Any] = imagecodecs.delta_decode(pixels, axis=-1)
        return summed
    return pixels
