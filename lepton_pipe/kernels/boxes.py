"""The smallest and largest value in a box, computed in pieces that stay in the processor's cache.

NumPy's own loops are as fast as memory lets them be, so this needs no compiler: what counts is that
a piece is read from memory once, worked on, and written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from lepton_pipe.geometry import Depth

_PIECE = 1 << 20  # bytes, unless that is much of a small image
_LEAST = 1 << 16


def box_extreme(block: Any, depth: Depth, ufunc: np.ufunc, outside: Any) -> Any:
    """Return the minimum or maximum in a box.

    Parameters
    ----------
    depth
        How far the box reaches along each axis.
    ufunc
        `numpy.minimum` or `numpy.maximum`. Of NaN and a number both give NaN.
    outside
        The value beyond the edges, which never wins.
    """
    result = np.empty(block.shape, block.dtype)
    source = block
    if not block.flags.c_contiguous or not any(map(any, depth)):
        result[...] = block  # one pass more, but no copy besides the result
        source = result
    room = max(_LEAST, min(_PIECE, block.nbytes // 8))
    for first, last in _groups(block, depth, room) if block.size else ():
        shape = (prod(block.shape[:first]), *block.shape[first:last], prod(block.shape[last:]))
        once = _Pass(shape, depth[first:last], block.dtype, room)
        once.run(source.reshape(shape), result.reshape(shape), ufunc, outside)
        source = result
    return result


def _groups(block: Any, depth: Depth, room: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of axes to be taken together: y and x where a plane is a small piece."""
    last = block.ndim
    plane = prod(n + sum(d) for n, d in zip(block.shape[-2:], depth[-2:], strict=True))
    both = block.ndim > 1 and any(depth[-1]) and any(depth[-2])
    if both and plane * block.dtype.itemsize <= room:
        yield block.ndim - 2, block.ndim
        last -= 2
    for axis in reversed(range(last)):
        if any(depth[axis]):
            yield axis, axis + 1


class _Pass:
    """Takes the extreme along some neighbouring axes of ``(outer, ..., inner)``.

    A piece is several places of the outer axis, or one and some of the inner axis. It is grown by
    what lies outside and then worked on as one row of memory: neighbours along any axis are a
    fixed distance apart in it. What runs over an edge is never looked at.
    """

    def __init__(
        self, shape: tuple[int, ...], depth: Depth, dtype: np.dtype[Any], room: int
    ) -> None:
        self.shape, self.depth = shape, depth
        self.grown = [n + sum(d) for n, d in zip(shape[1:-1], depth, strict=True)]
        each = prod(self.grown) * dtype.itemsize
        self.inner = max(min(64, shape[-1]), min(shape[-1], room // each))
        self.outer = max(1, min(shape[0], room // (each * self.inner)))
        self.buffers = np.empty((2, self.outer * prod(self.grown) * self.inner), dtype)

    def run(self, source: Any, result: Any, ufunc: np.ufunc, outside: Any) -> None:
        """Compute all pieces; `source` and `result` may be the same array."""
        for i in range(0, self.shape[0], self.outer):
            for k in range(0, self.shape[-1], self.inner):
                piece = (slice(i, i + self.outer), ..., slice(k, k + self.inner))
                result[piece] = self._extreme(source[piece], ufunc, outside)

    def _extreme(self, piece: Any, ufunc: np.ufunc, outside: Any) -> Any:
        shape = (piece.shape[0], *self.grown, piece.shape[-1])
        now, then = self.buffers[:, : prod(shape)]
        self._fill(now.reshape(shape), piece, outside)
        left = now.size
        for axis, (low, high) in enumerate(self.depth):
            covered, length = 1, low + high + 1
            while covered < length:
                step = min(covered, length - covered)
                apart = step * prod(shape[axis + 2 :])
                left -= apart
                ufunc(now[:left], now[apart : apart + left], out=then[:left])
                now, then = then, now
                covered += step
        return now.reshape(shape)[tuple(map(slice, piece.shape))]

    def _fill(self, grown: Any, piece: Any, outside: Any) -> None:
        core = [slice(None)] * grown.ndim
        for axis, (low, high) in enumerate(self.depth, 1):
            for edge in (slice(0, low), slice(grown.shape[axis] - high, None)):
                grown[(slice(None),) * axis + (edge,)] = outside
            core[axis] = slice(low, low + piece.shape[axis])
        grown[tuple(core)] = piece
