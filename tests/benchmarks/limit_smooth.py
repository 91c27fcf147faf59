"""The hand-written limit: gaussians from zarr to zarr."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.candidate import Job
from tests.benchmarks.limit_chunks import (
    At,
    Chunks,
    Shared,
    Writer,
    buffer,
    by_columns,
    in_threads,
)
from tests.benchmarks.limit_gauss import radii, smooth_block


def grown_gain(gain: Any, radius: Sequence[int]) -> Any:
    """Return a plane of factors grown and mirrored like the chunks."""
    return np.pad(gain, [(r, r) for r in radius[-2:]], mode="symmetric")


def gain_of(gain: Any, start: Sequence[int], block: Any) -> Any:
    """Return the part of a grown plane that lies over a grown chunk."""
    y, x = start[-2:]
    return np.ascontiguousarray(gain[y : y + block.shape[-2], x : x + block.shape[-1]])


def even_gain(shape: Sequence[int]) -> Any:
    """Return factors that change nothing, in this thread's buffer."""
    ones = buffer("ones", tuple(shape[-2:]), np.float32)
    ones[...] = 1
    return ones


def smooth_chunks(
    job: Job, source: Chunks, sigma: Sequence[float], gain: Any, done: Callable[[At, Any], None]
) -> None:
    """Smooth every chunk and hand it on; the array handed on is a buffer.

    Parameters
    ----------
    gain
        float32 ``(y, x)``, or None.
    """
    radius = radii(sigma)
    shared = Shared(source, radius[-len(source.shape) :])
    light = None if gain is None else grown_gain(gain, radius)

    def one(at: At) -> None:
        block = shared.grown(at)
        start, stop = source.box(at)
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        out = buffer("smoothed", shape, source.dtype)
        volume = block.reshape((-1, *block.shape[-2:]))
        factors = even_gain(block.shape) if light is None else gain_of(light, start, block)
        smooth_block(volume, factors, sigma, out.reshape((-1, *shape[-2:])))
        done(at, out)

    in_threads(one, by_columns(source), job.threads)


def smooth_volume(
    job: Job, source: str, name: str, sigma: Sequence[float], gain: Any = None
) -> None:
    """Smooth an input from zarr to zarr."""
    chunks = Chunks(job.input(source))
    writer = Writer(job.image(name), chunks.shape, chunks.chunks, chunks.dtype)
    smooth_chunks(job, chunks, sigma, gain, writer.write)
