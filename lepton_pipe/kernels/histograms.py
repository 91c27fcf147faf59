"""An image to a histogram: of integers of up to 16 bits from one count for each value."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import array_module, loops, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.counts import (
    MOST_BINS,
    check_image,
    dtype_of,
    flat_parts,
    integer_counts,
    is_counted,
    parts,
    range_counts,
    smallest_counted,
    whole,
)
from lepton_pipe.kernels.reductions import maximum_of, minimum_of
from lepton_pipe.merge.tally import Tally
from lepton_pipe.spec import ImageType, ValueType, kernel

Ends = tuple[Any, Any]


def _check_bins(bins: int, low: Any, high: Any) -> None:
    if not isinstance(bins, int) or not 1 <= bins <= MOST_BINS:
        raise ValueError(
            f"bins={bins!r} must be a number from 1 to {MOST_BINS}; each block counts them all"
        )
    ends = [e for e in (low, high) if isinstance(e, (int, float))]
    if len(ends) == 2 and ends[0] > ends[1]:
        raise ValueError(f"range=({low}, {high}) must go from low to high")


def _check_histogram(image: ImageType, grid: Grid, bins: int, low: Any, high: Any) -> None:
    check_image(image, grid)
    _check_bins(bins, low, high)


def _ends(dtype: np.dtype[Any], bins: int, ends: Ends, of_image: bool) -> tuple[Any, Ends]:
    """Return the dtype in which bins are computed, and the ends of the range."""
    low, high = ends
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(
            f"the histogram's range is {low} to {high}, for there are NaN or infinite values in "
            "the image; replace them first, or give range="
        )
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype.newbyteorder("=")
    if of_image:
        dtype = bin_dtype(dtype, bins, low, high)
        ends = dtype.type(low), dtype.type(high)
    if not (_has_edges(dtype, bins, ends) or (of_image and low == high)):
        raise ValueError(
            f"the histogram's range {low} to {high} cannot be cut into {bins} bins: numbers of "
            "that size lie further apart than their edges would; give fewer bins= or a wider range="
        )
    return dtype, ends


def _has_edges(dtype: np.dtype[Any], bins: int, ends: Ends) -> bool:
    """Tell whether NumPy can tell the edges of bins apart."""
    try:
        np.histogram_bin_edges(np.empty(0, dtype), bins, ends)
    except ValueError:
        return False
    return True


def bin_dtype(dtype: np.dtype[Any], bins: int, low: Any, high: Any) -> np.dtype[Any]:
    """Return the dtype for bin edges: the image's own, unless its numbers are too coarse for it."""
    try:
        with np.errstate(all="ignore"):
            ends = dtype.type(low), dtype.type(high)
            edges = np.histogram_bin_edges(np.empty(0, dtype), bins, ends)
    except ValueError:
        return np.dtype(np.float64)
    return dtype if np.isfinite(edges).all() else np.dtype(np.float64)


# -- from the image -------------------------------------------------------------------------


def _add(a: Tally, b: Tally) -> Tally:
    return a + b


@kernel(
    combine=_add,
    finalize=whole,
    value=lambda bins: ValueType("int64", (bins,)),
    check=_check_histogram,
    scratch=1.5,
    cost=1.2,
)
def histogram_counts(
    image: Any, bins: int, low: float, high: float, of_image: bool = False
) -> Tally:
    """Count values in bins of equal width, as `numpy.histogram` does. Part of `histogram`.

    Parameters
    ----------
    low, high
        Ends of the range.
    of_image
        Whether they are values of the image: edges are then computed in its dtype.

    Returns
    -------
    array of int64
        Shape ``(bins,)``.

    Raises
    ------
    ValueError
        When the range is not finite, as that of an image with NaN, or too narrow for the bins.
    """
    dtype, ends = _ends(image.dtype, bins, (low, high), of_image)
    counts = np.zeros(bins, np.int64)
    if not _has_edges(dtype, bins, ends):  # all values are the same, and lie in the middle
        counts[bins // 2] = sum(part.size for part in parts(image))
        return Tally.of(counts)
    fast = loops("counts", image)
    between = None if fast is None else _between(fast, image.dtype, dtype, bins, ends)
    if fast is not None and between is not None:
        for flat in flat_parts(image):
            fast.count_between(flat, *between, counts)
        return Tally.of(counts)
    for part in parts(image):
        counts += _by_numpy(part.astype(dtype, copy=False), bins, ends)
    return Tally.of(counts)


def _between(
    fast: Any, image: np.dtype[Any], dtype: np.dtype[Any], bins: int, ends: Ends
) -> tuple[Any, ...] | None:
    """Return what the compiled loop needs; None where only NumPy's own steps give its result."""
    if image not in (np.float32, np.float64):
        return None
    edges = np.histogram_bin_edges(np.empty(0, dtype), bins, ends)
    low, high = ends if ends[0] < ends[1] else (ends[0] - 0.5, ends[1] + 0.5)
    with np.errstate(all="ignore"):
        # As in NumPy: Python's numbers are subtracted as float64, and the image's in its dtype.
        width = np.float64(high - low) if isinstance(low, (int, float)) else high - low
        scale = edges.dtype.type(bins / width)
        margin = fast.margin_of(edges, scale, width)
    edges.flags.writeable = False
    return (edges, scale, margin) if margin <= fast.WIDEST_MARGIN else None


def _by_numpy(values: Any, bins: int, ends: Ends) -> Any:
    xp = array_module(values)
    if xp is np:
        return np.histogram(values, bins=bins, range=ends)[0]
    # Edges made on a device could differ in the last place, and values lie on edges.
    edges = np.histogram_bin_edges(np.empty(0, values.dtype), bins, ends)
    if values.dtype.kind in "iu":
        # CuPy puts the last edge of integers one further up, wherever it lies between two of them.
        # NumPy compares them with edges as float64, too.
        values = values.astype(np.float64)
    return to_host(xp.histogram(values, bins=xp.asarray(edges))[0])


# -- from counts ----------------------------------------------------------------------------


@kernel(value=lambda bins: ValueType("int64", (bins,)), check=_check_bins)
def histogram_of(
    *, counts: NDArray[np.int64], dtype: str, bins: int, low: Any, high: Any, of_image: bool
) -> NDArray[np.int64]:
    """Return the histogram of the integers that were counted. Part of `histogram`."""
    _check_bins(bins, low, high)
    kind, ends = _ends(np.dtype(dtype), bins, (low, high), of_image)
    found = np.flatnonzero(counts)
    values = (found + smallest_counted(dtype)).astype(kind)
    # NumPy adds up weights as float64: exact up to 2**53 voxels.
    return np.histogram(values, bins, ends, weights=counts[found])[0].astype(np.int64)


@kernel(value=ValueType("int64", (0,)))
def found_of(*, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the counts from the smallest to the largest integer found. Part of `histogram`."""
    found = np.flatnonzero(counts)
    return counts[found[0] : found[-1] + 1].copy()


def histogram(
    image: Any,
    bins: int | None = 256,
    range: tuple[Any, Any] | None = None,  # noqa: A002  as in NumPy
) -> Any:
    """Count values in bins.

    Parameters
    ----------
    bins
        Number of bins of equal width. None, for an image of integers: a bin for each integer
        from the smallest to the largest value of the image.
    range
        Ends of the first and last bin: numbers, or values such as those of `quantile`. By
        default the smallest and largest value of the image. What lies outside is not counted.

    Returns
    -------
    array of int64
        Counts, as `numpy.histogram` and (with ``bins=None``)
        `skimage.exposure.histogram` give. Bin ``i`` begins at
        ``low + i * (high - low) / bins``, or holds the integer ``minimum_of(image) + i``.

    Raises
    ------
    ValueError
        When the image holds NaN or infinite values and no `range` is given; when a `range` is
        given with ``bins=None``; when the range is too narrow, for the size of its ends, to be cut
        into so many bins.
    """
    if bins is None and range is not None:
        raise ValueError("bins=None counts every integer of the image: leave out range=")
    if bins is None and is_counted(image):
        return found_of(counts=integer_counts(image))
    low, high = (minimum_of(image), maximum_of(image)) if range is None else range
    if bins is None:
        return range_counts(image, low, high, exactly=True)
    if is_counted(image):
        return histogram_of(
            counts=integer_counts(image),
            dtype=str(dtype_of(image)),
            bins=bins,
            low=low,
            high=high,
            of_image=range is None,
        )
    return histogram_counts(image, bins, low, high, range is None)
