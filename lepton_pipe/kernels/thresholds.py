"""Thresholds between background and foreground, from the histogram of the whole image.

What is histogrammed:

* integers up to 16 bits, and booleans: every value by itself, in one pass over the image;
* wider integers: every value by itself if the image spans at most 65536, else bins of as many
  integers as make 65536 bins or fewer;
* floats: `bins` bins from the smallest to the largest value, as in scikit-image. An image with
  NaN or infinite values is refused.

A threshold of integers by `otsu` or `triangle` is an int, any other a float. The foreground is
``image > threshold``. An image of a single value has that value for a threshold, so that all of it
is background.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.kernels.counts import (
    bin_width,
    dtype_of,
    integer_counts,
    is_counted,
    range_counts,
)
from lepton_pipe.kernels.histograms import bin_dtype, histogram_counts
from lepton_pipe.kernels.reductions import maximum_of, minimum_of
from lepton_pipe.spec import ValueType, kernel

MOST = 1 << 16
_FLOAT32_COUNTS = 1 << 24


def _histogram(image: Any, bins: int) -> dict[str, Any]:
    """Return what a threshold is computed from: counts, the image's range, its dtype."""
    dtype = dtype_of(image)
    if is_counted(image):
        counts, low, high = integer_counts(image), None, None
    else:
        low, high = minimum_of(image), maximum_of(image)
        if dtype.kind == "f":
            counts = histogram_counts(image, bins, low, high, of_image=True)
        else:
            counts = range_counts(image, low, high, most=MOST)
    return {"counts": counts, "low": low, "high": high, "dtype": str(dtype)}


def _levels(
    counts: NDArray[np.int64], low: Any, high: Any, dtype: str
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return counts and the values that they stand for, from the first to the last one found."""
    kind = np.dtype(dtype)
    if kind.kind == "f" and not low < high:
        return np.array([counts.sum()]), np.array([low])
    if kind.kind == "f":
        kind = bin_dtype(kind, counts.size, low, high)
        ends = (kind.type(low), kind.type(high))
        edges = np.histogram_bin_edges(np.empty(0, kind), counts.size, ends)
        return counts, (edges[:-1] + edges[1:]) / 2.0
    if low is None:
        kind = np.dtype(np.uint8) if kind == np.bool_ else kind
        low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    width = bin_width(low, high, MOST)
    found = np.flatnonzero(counts)
    index = slice(int(found[0]), int(found[-1]) + 1)
    values = [low + i * width + (width - 1) // 2 for i in range(index.start, index.stop)]
    return counts[index], np.array(values)


def _as_image(dtype: str) -> ValueType:
    return ValueType("float64" if np.dtype(dtype).kind == "f" else "int64")


@kernel(value=_as_image)
def otsu_of(*, counts: Any, low: Any, high: Any, dtype: str) -> Any:
    """Return Otsu's threshold of a histogram. Part of `otsu`."""
    counts, centers = _levels(counts, low, high, dtype)
    if len(centers) == 1:
        return centers[0].item()
    # As scikit-image, which counts in float32. That cannot count further than this.
    weights = counts.astype(np.float32 if counts.sum() <= _FLOAT32_COUNTS else np.float64)
    weight1 = np.cumsum(weights)
    weight2 = np.cumsum(weights[::-1])[::-1]
    mean1 = np.cumsum(weights * centers) / weight1
    mean2 = (np.cumsum((weights * centers)[::-1]) / weight2[::-1])[::-1]
    between = weight1[:-1] * weight2[1:] * (mean1[:-1] - mean2[1:]) ** 2
    return centers[np.argmax(between)].item()


def otsu(image: Any, bins: int = 256) -> Any:
    """Return the threshold that sets the means of the two classes furthest apart.

    Equal to `skimage.filters.threshold_otsu` of the same histogram up to 2**24 voxels. Beyond
    that scikit-image's float32 counts lose voxels; here they are float64.

    Parameters
    ----------
    bins
        Bins of the histogram of a float image.

    Notes
    -----
    Otsu, 1979, A threshold selection method from gray-level histograms.
    """
    return otsu_of(**_histogram(image, bins))


@kernel(value=ValueType("float64"))
def li_of(*, counts: Any, low: Any, high: Any, dtype: str) -> float:
    """Return Li's threshold of a histogram. Part of `li`."""
    counts, centers = _levels(counts, low, high, dtype)
    found = np.flatnonzero(counts)
    weights = counts[found].astype(np.float64)
    bottom = float(centers[0])
    levels = _above_first(centers)[found]
    if len(levels) == 1:
        return float(centers[found[0]])
    tolerance = 0.5 if np.dtype(dtype).kind != "f" else float(np.diff(levels).min()) / 2
    return bottom + _iterate_li(weights, levels, tolerance)


def _above_first(centers: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far values lie above the first of them."""
    if centers.dtype.kind == "f":
        return np.asarray(centers - centers[0], np.float64)
    first, *_ = exact = centers.tolist()  # integers of Python: 64 bits may not hold a difference
    return np.array([value - first for value in exact], np.float64)


def _iterate_li(weights: NDArray[Any], levels: NDArray[Any], tolerance: float) -> float:
    before, now = -2 * tolerance, float(np.average(levels, weights=weights))
    while abs(now - before) > tolerance:
        before = now
        above = levels > now
        fore = float(np.average(levels[above], weights=weights[above]))
        back = float(np.average(levels[~above], weights=weights[~above]))
        if back == 0:
            break
        now = (back - fore) / (log(back) - log(fore))
    return now


def li(image: Any, bins: int = MOST) -> Any:
    """Return the threshold of least cross entropy between image and mask, found by iteration.

    Equal to `skimage.filters.threshold_li` for integers. Of floats scikit-image takes every value
    by itself, which here is that of its bin; hence the many bins.

    Parameters
    ----------
    bins
        Bins of the histogram of a float image.

    Returns
    -------
    float
        The threshold, also for integers.

    Notes
    -----
    Li and Tam, 1998, An iterative algorithm for minimum cross entropy thresholding.
    """
    return li_of(**_histogram(image, bins))


@kernel(value=_as_image)
def triangle_of(*, counts: Any, low: Any, high: Any, dtype: str) -> Any:
    """Return the triangle threshold of a histogram. Part of `triangle`."""
    counts, centers = _levels(counts, low, high, dtype)
    found = np.flatnonzero(counts)
    first, last, peak = int(found[0]), int(found[-1]), int(np.argmax(counts))
    if first == last:
        return centers[first].item()
    flip = peak - first < last - peak
    if flip:
        counts, centers = counts[::-1], centers[::-1]
        first, peak = counts.size - 1 - last, counts.size - 1 - peak
    height, width = float(counts[peak]), float(peak - first)
    norm = sqrt(height**2 + width**2)
    steps = np.arange(peak - first)
    distance = (height / norm) * steps - (width / norm) * counts[first:peak]
    return centers[first + int(np.argmax(distance))].item()


def triangle(image: Any, bins: int = 256) -> Any:
    """Return the threshold at the corner of the histogram's longer tail.

    It is where the histogram lies furthest below the line from its peak to its end. Equal to
    `skimage.filters.threshold_triangle` of the same histogram.

    Parameters
    ----------
    bins
        Bins of the histogram of a float image.

    Notes
    -----
    Zack, Rogers and Latt, 1977, Automatic measurement of sister chromatid exchange frequency.
    """
    return triangle_of(**_histogram(image, bins))
