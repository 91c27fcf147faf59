"""The hand-written limit: a gaussian over a grown chunk, all axes while the rows are in cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import njit

ROWS = 32


def radii(sigma: Sequence[float]) -> tuple[int, ...]:
    """Return how far SciPy's gaussian reaches along each axis."""
    return tuple(int(4 * s + 0.5) for s in sigma)


def weights(sigma: float) -> Any:
    """Return the weights from the middle outwards, float32."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return np.ones(1, np.float32)
    w = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (w / w.sum())[radius:].astype(np.float32)


@cache
def gaussian(rz: int, ry: int, rx: int) -> Any:
    """Return a compiled gaussian of these radii: known lengths of loops let LLVM unroll them."""

    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def smooth(block, gain, wz, wy, wx, ring, flat, work, out):  # type: ignore[no-untyped-def]
        """Smooth ``block * gain`` (grown by the radii) into `out`, rounded."""
        nz, ny, nx = out.shape
        across = nx + 2 * rx
        span = 2 * rz + 1
        for y0 in range(0, ny, ROWS):
            rows = min(ROWS, ny - y0)
            for z in range(nz + 2 * rz):
                for y in range(rows + 2 * ry):
                    for x in range(across):
                        flat[y, x] = np.float32(block[z, y0 + y, x]) * gain[y0 + y, x]
                for y in range(rows):
                    for x in range(across):
                        total = wy[0] * flat[y + ry, x]
                        for k in range(1, ry + 1):
                            total += wy[k] * (flat[y + ry - k, x] + flat[y + ry + k, x])
                        work[x] = total
                    row = ring[z % span, y]
                    for x in range(nx):
                        total = wx[0] * work[x + rx]
                        for k in range(1, rx + 1):
                            total += wx[k] * (work[x + rx - k] + work[x + rx + k])
                        row[x] = total
                if z < 2 * rz:
                    continue
                for y in range(rows):
                    middle = ring[(z - rz) % span, y]
                    for x in range(nx):
                        work[x] = wz[0] * middle[x]
                    for k in range(1, rz + 1):
                        below, above = ring[(z - rz - k) % span, y], ring[(z - rz + k) % span, y]
                        for x in range(nx):
                            work[x] += wz[k] * (below[x] + above[x])
                    target = out[z - 2 * rz, y0 + y]
                    for x in range(nx):
                        target[x] = np.int32(work[x] + np.float32(0.5))

    return smooth


def smooth_block(block: Any, gain: Any, sigma: Sequence[float], out: Any) -> None:
    """Smooth a chunk that is grown by the radii.

    Parameters
    ----------
    block
        ``(z, y, x)``, grown and mirrored.
    gain
        float32 ``(y, x)``, grown likewise: what planes are multiplied by first.
    out
        Not grown; integers.
    """
    from tests.benchmarks.limit_chunks import buffer

    rz, ry, rx = radii(sigma)
    nx = out.shape[2]
    gaussian(rz, ry, rx)(
        block,
        gain,
        *map(weights, sigma),
        buffer("ring", (2 * rz + 1, ROWS, nx), np.float32),
        buffer("flat", (ROWS + 2 * ry, nx + 2 * rx), np.float32),
        buffer("work", (nx + 2 * rx,), np.float32),
        out,
    )


def warm(sigma: Sequence[float], dtype: Any) -> None:
    """Compile (or load) what a sigma needs."""
    rz, ry, rx = radii(sigma)
    block = np.ones((1 + 2 * rz, 1 + 2 * ry, 8 + 2 * rx), dtype)
    gain = np.ones(block.shape[1:], np.float32)
    smooth_block(block, gain, sigma, np.empty((1, 1, 8), dtype))
