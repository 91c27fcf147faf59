"""An image to a number, or to a histogram.

Every result is for the whole image, over all its axes, and is the same however it is cut into
blocks: exactly for integers, to rounding for floats. A NaN in the image makes the result NaN, as
in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite, sqrt
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge import exact
from lepton_pipe.merge.slabs import SLAB, slabs
from lepton_pipe.spec import ImageType, ValueType, kernel

_DEVICE_SLAB = 1 << 26
MOST_BINS = 1 << 24
"""Bins of a histogram: 128 MiB for each block."""


def parts(array: Any) -> Iterator[Any]:
    """Cut an array into parts whose temporaries are small, larger ones on a GPU."""
    most = SLAB if array_module(array) is np else _DEVICE_SLAB
    return (array[part] for part in slabs(array.shape, most))


def check_image(image: ImageType, grid: Grid) -> None:
    """Refuse an image without voxels, or that is not made of real numbers."""
    if grid.size == 0:
        raise ValueError(f"the image has shape {grid.shape}: without voxels there is no result")
    if image.dtype.kind not in "biuf":
        raise ValueError(f"the image has dtype {image.dtype}; use abs or astype to make it real")


def _as_image(image: ImageType) -> ValueType:
    return ValueType(str(image.dtype))


def _as_sum(image: ImageType) -> ValueType:
    return ValueType({"u": "uint64", "f": "float64"}.get(image.dtype.kind, "int64"))


def _smaller(a: Any, b: Any) -> Any:
    return np.minimum(a, b)


def _larger(a: Any, b: Any) -> Any:
    return np.maximum(a, b)


def _item(value: Any) -> Any:
    return value.item()


@kernel(combine=_smaller, finalize=_item, value=_as_image, check=check_image, scratch=0.1, cost=0.3)
def minimum_of(image: Any) -> Any:
    """Return the smallest value: an int for an image of integers, else a float or bool."""
    return to_host(image.min())[()]


@kernel(combine=_larger, finalize=_item, value=_as_image, check=check_image, scratch=0.1, cost=0.3)
def maximum_of(image: Any) -> Any:
    """Return the largest value: an int for an image of integers, else a float or bool."""
    return to_host(image.max())[()]


def _total(image: Any, limbs: Callable[[Any], list[Any]] = exact.value_limbs) -> int:
    """Return the exact sum of integers, or of their squares."""
    return sum(exact.to_int([int(limb.sum()) for limb in limbs(part)]) for part in parts(image))


def _float_total(image: Any) -> float:
    with np.errstate(invalid="ignore"):
        return float(image.sum(dtype=np.float64))


def _add(a: Any, b: Any) -> Any:
    return a + b


def _add_each(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


@kernel(combine=_add, value=_as_sum, check=check_image, scratch=1.0, cost=0.6)
def sum_of(image: Any) -> int | float:
    """Return the sum of all values: an exact int for integers and booleans, else a float64."""
    return _float_total(image) if image.dtype.kind == "f" else _total(image)


def _ratio(partial: tuple[int, Any]) -> float:
    size, total = partial
    return float(total / size)


@kernel(combine=_add_each, finalize=_ratio, check=check_image, scratch=1.0, cost=0.6)
def mean(image: Any) -> tuple[int, Any]:
    """Return the mean, as a float.

    Integers are added up exactly and divided once; floats are added as float64, so the mean of a
    float32 image is more exact than NumPy's.
    """
    return image.size, _float_total(image) if image.dtype.kind == "f" else _total(image)


Moments = tuple[int, Any, Any]
"""Size and sum, and of integers the sum of squares, of floats that of squared deviations."""


def _add_moments(a: Moments, b: Moments) -> Moments:
    size, total = a[0] + b[0], a[1] + b[1]
    if isinstance(a[2], int):
        return size, total, a[2] + b[2]
    away = b[1] / b[0] - a[1] / a[0]
    return size, total, a[2] + b[2] + away * away * a[0] * b[0] / size


def _deviation(moments: Moments) -> float:
    size, total, squares = moments
    if isinstance(squares, int):
        return sqrt((size * squares - total * total) / (size * size))
    return sqrt(squares / size)


def _float_moments(part: Any) -> Moments:
    values = part.astype(np.float64)
    with np.errstate(invalid="ignore"):
        total = float(values.sum())
        values -= total / values.size
        values *= values
        return values.size, total, float(values.sum())


@kernel(combine=_add_moments, finalize=_deviation, check=check_image, scratch=3.0, cost=2.0)
def std(image: Any) -> Moments:
    """Return the standard deviation of the population (``ddof=0``), as a float.

    Of integers from exact sums. Of floats from the sums of squared deviations of parts, put
    together as in Chan, Golub, LeVeque, 1983, Algorithms for computing the sample variance, which
    loses nothing when the mean is large. NaN when the image holds NaN or infinite values.
    """
    if image.dtype.kind != "f":
        return image.size, _total(image), _total(image, exact.square_limbs)
    moments = [_float_moments(part) for part in parts(image)]
    result = moments[0]
    for more in moments[1:]:
        result = _add_moments(result, more)
    return result


def _check_bins(image: ImageType, grid: Grid, bins: int, low: Any, high: Any) -> None:
    check_image(image, grid)
    if not isinstance(bins, int) or not 1 <= bins <= MOST_BINS:
        raise ValueError(
            f"bins={bins!r} must be a number from 1 to {MOST_BINS}; each block counts them all"
        )
    ends = [e for e in (low, high) if isinstance(e, (int, float))]
    if len(ends) == 2 and ends[0] > ends[1]:
        raise ValueError(f"range=({low}, {high}) must go from low to high")


@kernel(
    combine=_add,
    value=lambda bins: ValueType("int64", (bins,)),
    check=_check_bins,
    scratch=1.5,
    cost=7.0,
)
def histogram_counts(
    image: Any, bins: int, low: float, high: float, of_image: bool = False
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count values in bins of equal width, as `numpy.histogram` does. See `histogram`.

    Parameters
    ----------
    low, high
        Ends of the range.
    of_image
        Whether they are values of the image: edges are then computed in its dtype.

    Raises
    ------
    ValueError
        When the range is not finite, as that of an image with NaN.
    """
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(
            f"the histogram's range is {low} to {high}, for there are NaN or infinite values in "
            "the image; replace them first, or give range="
        )
    dtype = np.dtype(np.uint8) if image.dtype == np.bool_ else image.dtype
    dtype = bin_dtype(dtype, bins, low, high) if of_image else dtype
    ends = (dtype.type(low), dtype.type(high)) if of_image else (low, high)
    counts = np.zeros(bins, np.int64)
    for part in parts(image):
        values = part.astype(dtype, copy=False)
        counts += _histogram(values, bins, ends)
    return counts


def bin_dtype(dtype: np.dtype[Any], bins: int, low: Any, high: Any) -> np.dtype[Any]:
    """Return the dtype for bin edges: the image's own, unless its numbers are too coarse for it."""
    try:
        with np.errstate(all="ignore"):
            ends = dtype.type(low), dtype.type(high)
            edges = np.histogram_bin_edges(np.empty(0, dtype), bins, ends)
    except ValueError:
        return np.dtype(np.float64)
    return dtype if np.isfinite(edges).all() else np.dtype(np.float64)


def _histogram(values: Any, bins: int, ends: tuple[Any, Any]) -> Any:
    xp = array_module(values)
    if xp is np:
        return np.histogram(values, bins=bins, range=ends)[0]
    # Edges made on a device could differ in the last place, and values lie on edges.
    edges = np.histogram_bin_edges(np.empty(0, values.dtype), bins, ends)
    return to_host(xp.histogram(values, bins=xp.asarray(edges))[0])


def bin_width(low: int, high: int, most: int) -> int:
    """Return how many integers share a bin when `most` bins have to hold ``low <= v <= high``."""
    return -(-(high - low + 1) // most)


def _check_integers(image: ImageType, grid: Grid, low: Any, most: int) -> None:
    check_image(image, grid)
    if image.dtype.kind == "f":
        raise ValueError(f"the image has dtype {image.dtype}; give bins= for what is no integer")
    if low is None and image.dtype.itemsize > 2:
        raise ValueError(f"integers of {image.dtype} have no histogram without a range")
    if not 1 <= most <= MOST_BINS:
        raise ValueError(f"most={most} bins: must be 1 to {MOST_BINS}; each block counts them all")


@kernel(
    combine=_add,
    value=ValueType("int64", (0,)),
    check=_check_integers,
    scratch=2.0,
    cost=2.5,
)
def integer_counts(
    image: Any,
    low: int | None = None,
    high: int | None = None,
    most: int = MOST_BINS,
    exactly: bool = False,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count how often each integer occurs.

    Parameters
    ----------
    low, high
        Smallest and largest value of the image; by default those of its dtype, of at most 16
        bits.
    most
        Bins at most. Where there are more integers, each bin holds `bin_width` of them.
    exactly
        Refuse such bins.

    Raises
    ------
    ValueError
        When `exactly` is asked for and there are too many integers.
    """
    xp = array_module(image)
    dtype = np.dtype(np.uint8) if image.dtype == np.bool_ else image.dtype
    info = np.iinfo(dtype)
    first = info.min if low is None else int(low)
    last = info.max if high is None else int(high)
    width = bin_width(first, last, most)
    if exactly and width > 1:
        raise ValueError(
            f"the image's values go from {first} to {last}: more than {most} bins; give bins="
        )
    # Differences of the bits as unsigned integers are right whatever the sign.
    unsigned = np.dtype(f"u{dtype.itemsize}")
    offset = np.array(first, dtype).view(unsigned)[()]
    size = -(-(last - first + 1) // width)
    counts = np.zeros(size, np.int64)
    for part in parts(image):
        index = xp.ascontiguousarray(part).view(unsigned).reshape(-1) - offset
        if width > 1:
            index //= unsigned.type(width)
        counts += to_host(xp.bincount(index.astype(np.intp), minlength=size))
    return counts


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
        given with ``bins=None``.
    """
    if bins is None and range is not None:
        raise ValueError("bins=None counts every integer of the image: leave out range=")
    low, high = (minimum_of(image), maximum_of(image)) if range is None else range
    if bins is None:
        return integer_counts(image, low, high, exactly=True)
    return histogram_counts(image, bins, low, high, range is None)
