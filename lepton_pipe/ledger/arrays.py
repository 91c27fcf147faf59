"""Arrays as bytes, compressed where that helps, and back, believing nothing that the bytes say."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = "biufcSUMm"
"""Kinds of dtype that can be stored: those whose bytes are all there is to them."""

MOST_RATIO = 1024
"""Bytes of an array for each byte stored, at most: what claims more is refused unread."""

_COMPRESSED_FROM = 4096
_MOST_AXES = 64
_LAST_CHARACTER = 0x10FFFF
_DTYPE = re.compile(
    r"[<>|](?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[SU]\d{1,9}"
    r"|[mM]8(?:\[\d{0,9}[a-zA-Z]{1,7}\])?)"
)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_BYTES = (0, 1, 2, 4)
_SIZE_BYTES = (0, 2, 4, 8)


def is_storable(dtype: np.dtype[Any]) -> bool:
    """Tell whether arrays of a dtype can be stored."""
    return dtype.kind in KINDS and dtype.itemsize > 0 and _DTYPE.fullmatch(dtype.str) is not None


def dtype_of(text: str) -> np.dtype[Any]:
    """Return the dtype that ``dtype.str`` was `text` of.

    Raises
    ------
    ValueError, TypeError
        When it is none that can be stored.
    """
    # Checked first: NumPy understands a small language here, with objects and records in it.
    if not _DTYPE.fullmatch(text):
        raise ValueError(f"{text!r} is no dtype that is stored")
    dtype = np.dtype(text)
    if dtype.str != text or not is_storable(dtype):
        raise ValueError(f"{text!r} is no dtype that is stored")
    return dtype


def to_bytes(array: NDArray[Any]) -> bytes:
    """Return the items in C order, each as it lies in memory."""
    if array.dtype.kind == "b":  # a view of other bytes may hold a 2, which is True as well
        array = array.view(np.uint8) != 0
    return array.tobytes()


def compressed(raw: bytes) -> bytes | None:
    """Return `raw` as a zstd frame; None where that is not smaller."""
    if len(raw) < _COMPRESSED_FROM:
        return None
    from numcodecs import zstd

    frame: bytes = zstd.compress(raw, 1)
    return frame if max(len(frame), room_of(len(raw))) < len(raw) else None


def room_of(size: int) -> int:
    """Return the fewest bytes in which `size` bytes are stored."""
    return -(-size // MOST_RATIO)


def size_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return the bytes of an array; raise `ValueError` for a shape that none can have."""
    if len(shape) > _MOST_AXES:
        raise ValueError(f"an array of {len(shape)} axes")
    return math.prod(shape) * dtype.itemsize


def from_raw(raw: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array whose bytes are `raw`; a copy that can be written to."""
    array = np.empty(shape, dtype)
    _bytes_of(array)[:] = np.frombuffer(raw, np.uint8)
    return _checked(array)


def from_frame(frame: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array that a zstd frame holds.

    Raises
    ------
    ValueError, RuntimeError
        When the frame is damaged, or holds more or fewer bytes than the array.
    """
    from numcodecs import zstd

    size = size_of(dtype, shape)
    if _claimed(frame) != size:
        raise ValueError(f"a zstd frame does not hold the {size} bytes of its array")
    array = np.empty(shape, dtype)
    zstd.decompress(frame, _bytes_of(array))
    return _checked(array)


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _claimed(frame: memoryview) -> int:
    """Return the size that the header of a frame claims; -1 where it names none (RFC 8878)."""
    if frame[:4] != _ZSTD_MAGIC or len(frame) < 6:
        return -1
    flags = frame[4]
    single = bool(flags & 0x20)
    start = 5 + (not single) + _DICTIONARY_BYTES[flags & 3]
    width = _SIZE_BYTES[flags >> 6] or int(single)
    size = int.from_bytes(frame[start : start + width], "little")
    return size + 256 * (width == 2) if width else -1


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array whose items are all possible; others make NumPy misbehave later."""
    if array.dtype.kind == "b" and _bytes_of(array).max(initial=0) > 1:
        raise ValueError("an array of booleans holds something else")
    if array.dtype.kind == "U":
        codes = array.reshape(-1).view(f"{array.dtype.str[0]}u4")
        if codes.max(initial=0) > _LAST_CHARACTER:
            raise ValueError("an array of text holds what is no character")
    return array
