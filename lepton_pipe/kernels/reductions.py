"""An image to a number.

Every result is for the whole image, over all its axes, and the same to the last bit however it is
cut into blocks: sums are exact, of floats too, and rounded once at the end. (On a GPU the sums of
floats are the device's own.) A NaN in the image makes the result NaN, as in NumPy.

They all share one pass over the image: integers of up to 16 bits are counted
(`lepton_pipe.kernels.counts`), of other images the moments are taken. What was asked for is then
computed from these.
"""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import loops
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.counts import (
    check_image,
    dtype_of,
    flat_parts,
    integer_counts,
    is_counted,
    parts,
    smallest_counted,
)
from lepton_pipe.merge import exact
from lepton_pipe.merge.moments import Moments, float_power, of_counts, of_floats
from lepton_pipe.spec import ImageType, ValueType, kernel

_LANES = 64

# -- moments --------------------------------------------------------------------------------


def _check_moments(image: ImageType, grid: Grid) -> None:
    check_image(image, grid)
    if is_counted(image):
        raise ValueError(f"the image has dtype {image.dtype}: use moments_of_counts")


def _add(a: Moments, b: Moments) -> Moments:
    return a + b


@kernel(
    combine=_add,
    value=ValueType("float64", (5,)),
    check=_check_moments,
    scratch=1.1,
    device_scratch=lambda image: 9.0 if image.dtype.kind == "f" else 90.0,
    cost=1.0,
)
def moments(image: Any) -> Moments:
    """Return size, extremes, sum and spread of an image. Part of `mean` and its like.

    Parameters
    ----------
    image
        Image of floats, or of integers of more than 16 bits.
    """
    is_float = image.dtype.kind == "f"
    fast = loops("float_sums" if is_float else "moments", image)
    if fast is None:
        taken = [_of_floats(p) if is_float else _of_integers(p) for p in parts(image)]
    elif is_float:
        taken = [_of_floats_fast(fast, flat) for flat in flat_parts(image)]
    else:
        taken = [_of_integers_fast(fast, flat) for flat in flat_parts(image)]
    result = taken[0]
    for more in taken[1:]:
        result += more
    return result


def _of_floats(part: Any) -> Moments:
    """Return the moments of floats on a device, to the rounding of its own sums."""
    values = part.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        total = float(values.sum())
        values -= total / values.size
        values *= values
        spread = float(values.sum())
    ends = float(part.min()), float(part.max())
    return of_floats(values.size, *ends, total, spread, float_power(part.dtype))


def _of_floats_fast(fast: Any, flat: NDArray[Any]) -> Moments:
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32 if flat.dtype == np.float16 else np.float64)
        flat.flags.writeable = False
    low, high = np.full(_LANES, inf, flat.dtype), np.full(_LANES, -inf, flat.dtype)
    size, odd = flat.size, 0.0
    some_odd = fast.ends(flat, low, high)
    ends = float(low.min()), float(high.max())
    if some_odd:
        finite = np.isfinite(flat)
        with np.errstate(invalid="ignore"):
            odd = float(flat[~finite].sum())
        ends = (nan, nan) if np.isnan(flat).any() else ends
        flat = flat[finite]
    total, squares = fast.float_sums(flat)
    return Moments(size, *ends, total, squares, float_power(flat.dtype), odd)


def _of_integers(part: Any) -> Moments:
    def total(limbs: list[Any]) -> int:
        return exact.to_int([int(limb.sum()) for limb in limbs])

    sums = total(exact.value_limbs(part)), total(exact.square_limbs(part))
    return Moments(part.size, int(part.min()), int(part.max()), *sums)


def _of_integers_fast(fast: Any, flat: NDArray[Any]) -> Moments:
    low, high, sums, squares = fast.integer_moments(flat)
    lower, upper, negative = map(int, sums)
    total = lower + (upper << 32) - (negative << 64)
    counts_for = (0, 32, 33, 65, 64, 96)
    square = sum(int(s) << shift for s, shift in zip(squares, counts_for, strict=True))
    return Moments(flat.size, int(low), int(high), total, square)


@kernel(value=ValueType("float64", (5,)))
def moments_of_counts(*, counts: NDArray[np.int64], dtype: str) -> Moments:
    """Return the moments of the integers that were counted. Part of `mean` and its like."""
    return of_counts(counts, smallest_counted(dtype))


def _moments(image: Any) -> Any:
    if is_counted(image):
        return moments_of_counts(counts=integer_counts(image), dtype=str(dtype_of(image)))
    return moments(image)


# -- what follows from them -----------------------------------------------------------------


def _as_image(dtype: str) -> ValueType:
    return ValueType(dtype)


def _as_sum(dtype: str) -> ValueType:
    return ValueType({"u": "uint64", "f": "float64"}.get(np.dtype(dtype).kind, "int64"))


def _end(value: float, dtype: str) -> int | float | bool:
    # Adding 0 makes one zero of the two that compare equal, of which blocks may find either.
    return {"b": bool, "f": float}.get(np.dtype(dtype).kind, int)(value + 0)


@kernel(value=_as_image)
def smallest_of(*, found: Moments, dtype: str) -> int | float | bool:
    """Return the smallest value. Part of `minimum_of`."""
    return _end(found.low, dtype)


@kernel(value=_as_image)
def largest_of(*, found: Moments, dtype: str) -> int | float | bool:
    """Return the largest value. Part of `maximum_of`."""
    return _end(found.high, dtype)


@kernel(value=_as_sum)
def total_of(*, found: Moments, dtype: str) -> int | float:  # noqa: ARG001  _as_sum's
    """Return the sum. Part of `sum_of`."""
    return found.sum


@kernel
def mean_of(*, found: Moments) -> float:
    """Return the mean. Part of `mean`."""
    return found.mean


@kernel
def std_of(*, found: Moments) -> float:
    """Return the standard deviation. Part of `std`."""
    return found.std


def minimum_of(image: Any) -> Any:
    """Return the smallest value: an int for an image of integers, else a float or bool."""
    return smallest_of(found=_moments(image), dtype=str(dtype_of(image)))


def maximum_of(image: Any) -> Any:
    """Return the largest value: an int for an image of integers, else a float or bool."""
    return largest_of(found=_moments(image), dtype=str(dtype_of(image)))


def sum_of(image: Any) -> Any:
    """Return the sum of all values: an exact int for integers and booleans, else a float64."""
    return total_of(found=_moments(image), dtype=str(dtype_of(image)))


def mean(image: Any) -> Any:
    """Return the mean, as a float.

    It is the nearest float to the true mean: values are added up exactly, and divided once.
    """
    return mean_of(found=_moments(image))


def std(image: Any) -> Any:
    """Return the standard deviation of the population (``ddof=0``), as a float.

    From exact sums, so nothing is lost when the mean is large. NaN when the image holds NaN or
    infinite values.
    """
    return std_of(found=_moments(image))
