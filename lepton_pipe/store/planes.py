"""Single planes in TIFF, PNG and JPEG files: what the header says, and the pixels."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import load
from lepton_pipe.errors import DamagedError, InputError
from lepton_pipe.store.tiff_guard import check_possible, guard_jpeg
from lepton_pipe.store.tiff_plane import plain_page, plain_pixels

TIFF_PLANES = (".tif", ".tiff")
PNG_PLANES = (".png",)
JPEG_PLANES = (".jpg", ".jpeg")
PLANE_SUFFIXES = (*TIFF_PLANES, *PNG_PLANES, *JPEG_PLANES)

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# Bytes of pixels that a byte of a file can stand for.
_MOST_IN_PNG, _MOST_IN_JPEG = 1040, 4096
_JPEG_CHANNELS = {"L": 1, "RGB": 3}


@dataclass(frozen=True)
class PlaneHeader:
    """Shape ``(y, x)`` or ``(y, x, c)`` and dtype of a plane."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} of {' x '.join(map(str, self.shape))}"


def read_header(path: Path) -> PlaneHeader:
    """Return what the header of a plane says, without decoding it.

    Raises
    ------
    InputError
        When the file is no image of the kind that its name says, or holds more than one plane.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in TIFF_PLANES:
            return _tiff_header(path)
        header = _png_header(path) if suffix in PNG_PLANES else _jpeg_header(path)
        return _possible(path, header, _MOST_IN_PNG if suffix in PNG_PLANES else _MOST_IN_JPEG)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        kind = "TIFF" if suffix in TIFF_PLANES else suffix.lstrip(".").upper()
        raise InputError(
            f"{path}: cannot be read as {kind} ({error}); is it complete, and is it an image?"
        ) from error


def _possible(path: Path, header: PlaneHeader, most: int) -> PlaneHeader:
    """Return `header`, unless the file is too small for it: no memory is taken for what is not."""
    claimed, size = math.prod(header.shape) * header.dtype.itemsize, path.stat().st_size
    if claimed > most * size:
        raise InputError(
            f"{path}: claims to be {header}, {claimed} bytes, which cannot be in a file of {size}; "
            "it is damaged: copy it again from its origin"
        )
    return header


def decode(path: Path) -> NDArray[Any]:
    """Return the pixels of a plane, ``(y, x)`` or ``(y, x, c)``."""
    suffix = path.suffix.lower()
    if suffix in TIFF_PLANES:
        return _tiff_pixels(path)
    data = path.read_bytes()
    if suffix in PNG_PLANES:
        pixels: NDArray[Any] = imagecodecs.png_decode(data)
        return pixels
    # libjpeg fills what is cut off with grey; the end marker must follow the last scan.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise DamagedError(f"{path}: the JPEG file is cut off; copy it again from its origin")
    jpeg: NDArray[Any] = imagecodecs.jpeg8_decode(data)
    return jpeg


def _shape(height: int, width: int, channels: int) -> tuple[int, ...]:
    return (height, width) if channels == 1 else (height, width, channels)


def _png_header(path: Path) -> PlaneHeader:
    with path.open("rb") as file:
        head = file.read(33)
    if head[:8] != _PNG_MAGIC or head[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in _PNG_CHANNELS:
        raise ValueError(f"unknown colour type {colour}")
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    return PlaneHeader(_shape(height, width, _PNG_CHANNELS[colour]), dtype)


def _jpeg_header(path: Path) -> PlaneHeader:
    pillow = load("PIL.Image")
    try:
        with pillow.open(path, formats=("JPEG",)) as image:
            mode, (width, height) = image.mode, image.size
    except pillow.UnidentifiedImageError as error:
        raise ValueError("not a JPEG file") from error
    if mode not in _JPEG_CHANNELS:
        raise InputError(f"{path}: JPEG of colour mode {mode} is not understood; save it as RGB")
    return PlaneHeader(_shape(height, width, _JPEG_CHANNELS[mode]), np.dtype(np.uint8))


def _tiff_header(path: Path) -> PlaneHeader:
    plain = plain_page(path)
    if plain is not None:
        return PlaneHeader(plain.shape, plain.dtype.newbyteorder("="))
    with load("tifffile").TiffFile(path) as tiff:
        if not len(tiff.pages):
            raise ValueError("it has no page")
        page = tiff.pages.first
        if len(tiff.pages) > 1 or page.imagedepth > 1:
            raise InputError(
                f"{path}: holds {len(tiff.pages)} pages; a stack is made of files with one plane "
                "each: open this file alone"
            )
        return _page_header(path, page, tiff.filehandle.size)


def _page_header(path: Path, page: Any, size: int) -> PlaneHeader:
    if page.dtype is None:
        raise InputError(f"{path}: the TIFF's pixel type is not understood; convert it first")
    check_possible(page, str(path), 0)
    ends = zip(page.dataoffsets, page.databytecounts, strict=False)
    if not page.dataoffsets or any(offset + count > size for offset, count in ends):
        raise InputError(f"{path}: is cut off: its pixels reach beyond the end of the file")
    axes, shape = page.axes, page.shape
    if axes not in {"YX", "YXS", "SYX"}:
        raise InputError(f"{path}: has axes {axes}, not those of a plane; open this file alone")
    if axes == "SYX":
        shape = (*shape[1:], shape[0])
    return PlaneHeader(tuple(shape), np.dtype(page.dtype).newbyteorder("="))


def _tiff_pixels(path: Path) -> NDArray[Any]:
    plain = plain_pixels(path)
    if plain is not None:
        return plain
    with load("tifffile").TiffFile(path) as tiff:
        page = tiff.pages.first
        guard_jpeg(page)
        pixels: NDArray[Any] = page.asarray(maxworkers=1)
        return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
