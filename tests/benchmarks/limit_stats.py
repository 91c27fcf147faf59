"""The hand-written limit: histograms, and numbers that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_TABLES = 4


@njit(nogil=True, cache=True)
def _count(values, tables):  # type: ignore[no-untyped-def]
    """Count 16-bit values in four tables in turn, so that equal neighbours do not wait."""
    n = len(values) // 4 * 4
    for i in range(0, n, 4):
        tables[0, values[i]] += 1
        tables[1, values[i + 1]] += 1
        tables[2, values[i + 2]] += 1
        tables[3, values[i + 3]] += 1
    for i in range(n, len(values)):
        tables[0, values[i]] += 1


def count(array: NDArray[Any], tables: NDArray[np.int64]) -> None:
    """Add a histogram of 16-bit values to `tables`, int64 ``(4, 65536)``."""
    flat = array.reshape(-1) if array.flags.c_contiguous else np.ascontiguousarray(array).ravel()
    _count(flat, tables)


def tables() -> NDArray[np.int64]:
    """Return empty tables for `count`."""
    return np.zeros((_TABLES, 1 << 16), np.int64)


def from_histogram(counts: NDArray[np.int64], q: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation, extremes and quantiles of integers from 0 on."""
    levels = np.arange(len(counts), dtype=np.float64)
    size = int(counts.sum())
    mean = float((counts * levels).sum() / size)
    spread = float(np.sqrt((counts * (levels - mean) ** 2).sum() / size))
    found = np.flatnonzero(counts)
    return {
        "mean": mean,
        "std": spread,
        "min": int(found[0]),
        "max": int(found[-1]),
        "quantiles": quantiles(counts, q),
    }


def quantiles(counts: NDArray[np.int64], q: list[float]) -> list[float]:
    """Return quantiles with linear interpolation, as `numpy.quantile`, of integers from 0 on."""
    ends = np.cumsum(counts)
    results = []
    for share in q:
        rank = share * (int(ends[-1]) - 1)
        low, high = np.searchsorted(ends, [int(rank), int(np.ceil(rank))], "right")
        results.append(float(low + (high - low) * (rank - int(rank))))
    return results


def otsu(counts: NDArray[np.int64]) -> int:
    """Return Otsu's threshold of integers from 0 on."""
    found = np.flatnonzero(counts)
    levels = np.arange(found[0], found[-1] + 1)
    weights = counts[found[0] : found[-1] + 1].astype(np.float64)
    below, above = np.cumsum(weights), np.cumsum(weights[::-1])[::-1]
    mean_below = np.cumsum(weights * levels) / below
    mean_above = (np.cumsum((weights * levels)[::-1]) / above[::-1])[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return int(levels[int(np.argmax(between))])
