"""The hand-written limit: a small plane smoothed and described while it is in cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tests.benchmarks.limit_chunks import buffer
from tests.benchmarks.limit_gauss import weights

RADIUS = 4


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _smooth(raw, background, w, flat, work, out):  # type: ignore[no-untyped-def]
    """Subtract, smooth by sigma 1, round; return what statistics are made of."""
    ny, nx = raw.shape
    for y in range(ny):
        for x in range(nx):
            flat[y + RADIUS, x] = max(np.float32(raw[y, x]) - background[y, x], np.float32(0))
    for k in range(RADIUS):
        flat[RADIUS - 1 - k] = flat[RADIUS + k]
        flat[RADIUS + ny + k] = flat[RADIUS + ny - 1 - k]
    total, squares, low, high = 0, 0, 1 << 30, 0
    for y in range(ny):
        for x in range(nx):
            value = w[0] * flat[y + RADIUS, x]
            for k in range(1, RADIUS + 1):
                value += w[k] * (flat[y + RADIUS - k, x] + flat[y + RADIUS + k, x])
            work[x + RADIUS] = value
        for k in range(RADIUS):
            work[RADIUS - 1 - k] = work[RADIUS + k]
            work[RADIUS + nx + k] = work[RADIUS + nx - 1 - k]
        target = out[y]
        for x in range(nx):
            value = w[0] * work[x + RADIUS]
            for k in range(1, RADIUS + 1):
                value += w[k] * (work[x + RADIUS - k] + work[x + RADIUS + k])
            target[x] = np.int32(value + np.float32(0.5))
        for x in range(nx):
            grey = np.int64(target[x])
            total += grey
            squares += grey * grey
            low, high = min(low, grey), max(high, grey)
    return ny * nx, total, squares, low, high


def smooth_plane(raw: Any, background: Any, out: Any) -> Any:
    """Smooth one plane; return number, sum, sum of squares, minimum and maximum."""
    ny, nx = raw.shape
    flat = buffer("plane", (ny + 2 * RADIUS, nx), np.float32)
    work = buffer("line", (nx + 2 * RADIUS,), np.float32)
    return _smooth(raw, background, weights(1.0), flat, work, out)


def warm() -> None:
    """Compile (or load) it for what comes out of a file: read-only pixels."""
    raw = np.frombuffer(bytes(128), np.uint16).reshape(8, 8)
    smooth_plane(raw, np.ones((8, 8), np.float32), np.empty((8, 8), np.uint16))
