"""Extremes in boxes of any size: along one axis after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from lepton_pipe.cuda import THREADS, compiled
from lepton_pipe.cuda.operations import c_type
from lepton_pipe.cuda.words import (
    What,
    index_of,
    per_word,
    source_of_words,
    template,
    word_bytes,
)

_EACH = 16
_SHARED_BYTES = 48 * 2**10


def box_extreme(image: Any, depth: Sequence[tuple[int, int]], what: What) -> Any:
    """Return the smallest or largest value in a box.

    Parameters
    ----------
    image
        CuPy array whose voxels are words.
    depth
        How far the box reaches along each axis. Nothing beyond the edges counts.

    Returns
    -------
    array
        Contiguous, of the image's dtype.
    """
    xp = sys.modules["cupy"]
    source = xp.ascontiguousarray(image)
    result = source
    spare: list[Any] = []
    for axis, low, high in _runs(depth, word_bytes(image.dtype)) if image.size else ():
        target = spare.pop() if spare else xp.empty(image.shape, image.dtype)
        _run(result, target, axis, (low, high), what)
        if result is not source:
            spare.append(result)
        result = target
    return result.copy() if result is source else result


def _runs(depth: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int, int]]:
    """Yield axes and how far to go along them; a long run is a run of runs."""
    most = _SHARED_BYTES // (32 * size) - THREADS // 32 * _EACH - 1
    for axis in reversed(range(len(depth))):
        low, high = depth[axis]
        while low + high:
            once = min(low, most // 2), min(high, most // 2)
            yield axis, *once
            low, high = low - once[0], high - once[1]


def _run(source: Any, result: Any, axis: int, depth: tuple[int, int], what: What) -> None:
    dtype, shape = source.dtype, source.shape
    index = index_of(source)
    inner, length = prod(shape[axis + 1 :]), sum(depth) + 1
    each = min(_EACH, length)
    words = {
        "length": length,
        "low": depth[0],
        "each": each,
        "contiguous": int(inner == 1),
        "better": "smaller" if what == "smallest" else "larger",
        "index": c_type(index),
    }
    text = source_of_words(dtype, what) + template("lines.cu").substitute(words)
    count = source.size // shape[axis]
    pieces = -(-shape[axis] // (THREADS // 32 * each))
    blocks = -(-count // (32 * per_word(dtype))) * pieces
    sizes = (index.type(count), index.type(inner), np.int32(shape[axis]))
    compiled(text, "lines")((blocks,), (THREADS,), (source, result, *sizes))
