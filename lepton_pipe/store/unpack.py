"""Decompressors that fill memory which is there already, and never ask for more.

What a header says of the size of its contents is not believed: contents that are larger than the
memory they are meant for are an error, found before it is overrun.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Unpacker = Callable[[memoryview, NDArray[np.uint8]], int]

MOST = {"zstd": 40_000, "gzip": 1040, "zlib": 1040, "lz4": 260, "bz2": 50_000}
"""Bytes that one packed byte can stand for at most, and a little for what is short."""

_EITHER = zlib.MAX_WBITS | 32
"""Gzip or zlib, whichever the header tells."""


# They take any buffer, whatever their stubs say.
_zstd_decode: Any = imagecodecs.zstd_decode
_lz4_decode: Any = imagecodecs.lz4_decode


def _zstd(body: memoryview, out: NDArray[np.uint8]) -> int:
    return len(_zstd_decode(body, out=out))


def _bz2(body: memoryview, out: NDArray[np.uint8]) -> int:
    stream = bz2.BZ2Decompressor()
    return _taken(stream.decompress(body, out.nbytes + 1), out, whole=stream.eof)


def _lz4(body: memoryview, out: NDArray[np.uint8]) -> int:
    # numcodecs writes the size of the contents before them.
    if int.from_bytes(body[:4], "little") != out.nbytes:
        raise ValueError("the header of LZ4 data gives another size")
    return len(_lz4_decode(body[4:], out=out))


def _deflated(body: memoryview, out: NDArray[np.uint8]) -> int:
    done = 0
    while body and done <= out.nbytes:  # gzip may have several members
        stream = zlib.decompressobj(_EITHER)
        data = stream.decompress(body, out.nbytes - done + 1)
        done += _taken(data, out[done:], whole=stream.eof)
        body = memoryview(stream.unused_data)
    return done


def _taken(data: bytes, out: NDArray[np.uint8], *, whole: bool) -> int:
    if len(data) <= out.nbytes:
        if not whole:
            raise ValueError("compressed data is cut off")
        out[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)


UNPACKERS: dict[str, Unpacker] = {
    "zstd": _zstd,
    "gzip": _deflated,
    "zlib": _deflated,
    "lz4": _lz4,
    "bz2": _bz2,
}
"""By the names of codecs. Each returns the bytes it has filled, or more than there is room for."""
