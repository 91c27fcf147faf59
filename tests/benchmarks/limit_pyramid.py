"""The hand-written limit: coarser levels made from a chunk while it is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tests.benchmarks.limit_chunks import At, Writer


@njit(nogil=True, cache=True, error_model="numpy")
def _mean(block, fz, out):  # type: ignore[no-untyped-def]
    """Halve y and x, and z by `fz`; means are rounded, halves to even."""
    nz, ny, nx = block.shape
    row = np.empty(nx, np.uint32)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            cells = 0
            row[:] = 0
            for dz in range(fz):
                for dy in range(2):
                    if z * fz + dz < nz and 2 * y + dy < ny:
                        source = block[z * fz + dz, 2 * y + dy]
                        for x in range(nx):
                            row[x] += source[x]
                        cells += 1
            target = out[z, y]
            whole = nx // 2
            if 2 * cells in (4, 8):
                shift = np.uint32(2 if cells == 2 else 3)
                half = np.uint32(cells)
                mask = np.uint32(2 * cells - 1)
                for x in range(whole):
                    total = row[2 * x] + row[2 * x + 1]
                    q, rest = total >> shift, total & mask
                    target[x] = q + (rest + (q & np.uint32(1)) > half)
            else:
                for x in range(whole):
                    target[x] = np.uint32(round((row[2 * x] + row[2 * x + 1]) / (2 * cells)))
            if nx % 2:
                target[whole] = np.uint32(round(row[nx - 1] / cells))


def halve(block: NDArray[Any]) -> NDArray[Any]:
    """Return the next coarser level of an image ``(z, y, x)`` or ``(y, x)`` by the mean."""
    volume = block.reshape((-1, *block.shape[-2:]))
    fz = 2 if block.ndim == 3 else 1
    shape = (ceil(len(volume) / fz), ceil(volume.shape[1] / 2), ceil(volume.shape[2] / 2))
    out = np.empty(shape, block.dtype)
    _mean(volume, fz, out)
    return out.reshape(shape[-block.ndim :])


def pick(block: NDArray[Any]) -> NDArray[Any]:
    """Return the next coarser level of labels: the first voxel of each cell."""
    return block[(slice(None, None, 2),) * block.ndim]


class Coarser:
    """Levels 1, 2, ... of an image, made from the chunks of level 0.

    Level 1 is written chunk by chunk; level 2 and what follows is put together in memory.

    Parameters
    ----------
    image
        Folder of the levels.
    level0
        Its finest level.
    count
        Number of levels, the finest counted.
    how
        `halve` or `pick`.
    """

    def __init__(self, image: Path, level0: Writer, count: int, how: Any = halve) -> None:
        self.image, self.count, self.how = image, count, how
        shape, self.chunks = level0.shape, level0.chunks
        self.writers: list[Writer] = []
        for level in range(1, count):
            shape = _half(shape)
            chunks = _half(self.chunks)
            writer = Writer(image / str(level), shape, chunks, level0.dtype)
            self.writers.append(writer)
        self.top = np.zeros(self.writers[1].shape, level0.dtype) if count > 2 else None

    def add(self, at: At, chunk: NDArray[Any]) -> None:
        """Take the part of a chunk of level 0 that is within the array."""
        if not self.writers:
            return
        small = self.how(chunk)
        self.writers[0].write(at, small)
        if self.top is not None:
            smaller = self.how(small)
            corner = [i * c // 4 for i, c in zip(at, self.chunks, strict=True)]
            spans = zip(corner, smaller.shape, strict=True)
            self.top[tuple(slice(a, a + n) for a, n in spans)] = smaller

    def finish(self) -> None:
        """Write level 2 and what follows."""
        level = self.top
        for writer in self.writers[1:]:
            if level is None:
                return
            for at in writer.all():
                start, stop = writer.box(at)
                box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
                writer.write(at, level[box])
            level = self.how(level)


def _half(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // 2) for n in shape)
