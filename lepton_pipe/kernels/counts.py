"""One count for each number in an image, from which everything else about its values follows.

Integers of up to 16 bits have at most 65536 values. Their histogram, mean, deviation, extremes,
quantiles and thresholds are all computed from `integer_counts`; a pipeline that asks for several
of them counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import array_module, loops, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge.slabs import SLAB, slabs
from lepton_pipe.merge.tally import Tally
from lepton_pipe.spec import ImageType, ValueType, kernel

_DEVICE_SLAB = 1 << 26
_FLAT = 1 << 17
MOST_BINS = 1 << 24
"""Bins of a histogram: 128 MiB for each block."""


def parts(array: Any, most: int = SLAB) -> Iterator[Any]:
    """Cut an array into parts whose temporaries are small, larger ones on a GPU.

    Parameters
    ----------
    most
        Voxels of a part on a CPU.
    """
    most = most if array_module(array) is np else _DEVICE_SLAB
    return (array[part] for part in slabs(array.shape, most))


def flat_parts(array: NDArray[Any], dtype: np.dtype[Any] | None = None) -> Iterator[NDArray[Any]]:
    """Cut an array into parts for compiled loops: flat, contiguous, read-only.

    They are cut in the same way whatever the array's layout in memory, so that sums of floats do
    not depend on it; a part is copied only where it is not contiguous.

    Parameters
    ----------
    dtype
        An unsigned dtype of the same size, to get the bits of the values.
    """
    native = array.dtype.newbyteorder("=")
    for part in parts(array, _FLAT):
        flat = np.require(part, native, ["C", "A"]).reshape(-1).view(dtype or native)
        flat.flags.writeable = False
        yield flat


def check_image(image: ImageType, grid: Grid) -> None:
    """Refuse an image without voxels, or that is not made of real numbers."""
    if grid.size == 0:
        raise ValueError(f"the image has shape {grid.shape}: without voxels there is no result")
    if image.dtype.kind not in "biuf":
        raise ValueError(f"the image has dtype {image.dtype}; use abs or astype to make it real")


def dtype_of(image: Any) -> np.dtype[Any]:
    """Return the dtype of an image or array; what is neither is left to kernels to refuse."""
    return np.dtype(image.dtype if hasattr(image, "dtype") else np.float64)


def is_counted(image: Any) -> bool:
    """Tell whether all that is asked about an image's values follows from `integer_counts`."""
    dtype = dtype_of(image)
    return dtype.kind in "biu" and dtype.itemsize <= 2


def smallest_counted(dtype: Any) -> int:
    """Return the integer that the counts of an image of `dtype` begin with."""
    return 0 if np.dtype(dtype).kind != "i" else int(np.iinfo(dtype).min)


def _bits(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _add(a: Any, b: Any) -> Any:
    return a + b


def whole(tally: Tally) -> NDArray[np.int64]:
    """Return all counts of a tally."""
    return tally.whole()


# -- every integer by itself ----------------------------------------------------------------


def _check_counted(image: ImageType, grid: Grid) -> None:
    check_image(image, grid)
    if not is_counted(image):
        raise ValueError(f"the image has dtype {image.dtype}: too many values to count each")


def _as_counts(image: ImageType) -> ValueType:
    return ValueType("int64", (1 << 8 * image.dtype.itemsize,))


@kernel(
    combine=_add,
    finalize=whole,
    value=_as_counts,
    check=_check_counted,
    scratch=1.0,
    cost=0.4,
)
def integer_counts(image: Any) -> Tally:
    """Count how often each integer occurs.

    Parameters
    ----------
    image
        Image of booleans or of integers of at most 16 bits.

    Returns
    -------
    array of int64
        A count for each value of the dtype, from the smallest on: 256 or 65536.
    """
    fast = loops("counts", image)
    counts = _words_by_numpy(image) if fast is None else _words(fast, image)
    # In memory the negative numbers come after the others.
    return Tally.of(counts if image.dtype.kind != "i" else np.roll(counts, counts.size // 2))


def _words(fast: Any, image: NDArray[Any]) -> NDArray[np.int64]:
    bits = _bits(image.dtype)
    count = fast.count_bytes if bits.itemsize == 1 else fast.count_words
    result: NDArray[np.int64] = count(flat_parts(image, bits))
    return result


def _words_by_numpy(image: Any) -> NDArray[np.int64]:
    xp, bits = array_module(image), _bits(image.dtype)
    counts = np.zeros(1 << 8 * bits.itemsize, np.int64)
    for part in parts(image):
        words = xp.ascontiguousarray(part).view(bits).reshape(-1)
        counts += to_host(xp.bincount(words.astype(np.intp), minlength=counts.size))
    return counts


# -- integers of more bits ------------------------------------------------------------------


def bin_width(low: int, high: int, most: int) -> int:
    """Return how many integers share a bin when `most` bins have to hold ``low <= v <= high``."""
    return -(-(high - low + 1) // most)


def _check_range(image: ImageType, grid: Grid, most: int) -> None:
    check_image(image, grid)
    if image.dtype.kind == "f":
        raise ValueError(f"the image has dtype {image.dtype}; give bins= for what is no integer")
    if not 1 <= most <= MOST_BINS:
        raise ValueError(f"most={most} bins: must be 1 to {MOST_BINS}; each block counts them all")


@kernel(
    combine=_add,
    finalize=whole,
    value=ValueType("int64", (0,)),
    check=_check_range,
    scratch=2.0,
    cost=1.0,
)
def range_counts(
    image: Any, low: int, high: int, most: int = MOST_BINS, exactly: bool = False
) -> Tally:
    """Count how often each integer occurs between the smallest and the largest of the image.

    Parameters
    ----------
    image
        Image of integers.
    low, high
        Its smallest and largest value. What lies beyond is not counted, or refused.
    most
        Bins at most. Where there are more integers, each bin holds `bin_width` of them.
    exactly
        Refuse such bins.

    Raises
    ------
    ValueError
        When `exactly` is asked for and there are too many integers.
    """
    low, high = int(low), int(high)
    width = bin_width(low, high, most)
    if exactly and width > 1:
        raise ValueError(
            f"the image's values go from {low} to {high}: more than {most} bins; give bins="
        )
    counts = np.zeros(-(-(high - low + 1) // width), np.int64)
    # Differences of the bits as unsigned integers are right whatever the sign.
    bits = _bits(image.dtype)
    first = np.array(low, image.dtype.newbyteorder("=")).view(bits)[()]
    fast = loops("counts", image)
    if fast is None:
        return Tally.of(_bins_by_numpy(image, first, bits.type(width), counts))
    for flat in flat_parts(image, bits):
        fast.count_bins(flat, np.uint64(first), np.uint64(width), counts)
    return Tally.of(counts)


def _bins_by_numpy(image: Any, first: Any, width: Any, counts: Any) -> NDArray[np.int64]:
    xp = array_module(image)
    for part in parts(image):
        index = xp.ascontiguousarray(part).view(first.dtype).reshape(-1) - first
        if width > 1:
            index //= width
        counts += to_host(xp.bincount(index.astype(np.intp), minlength=counts.size))
    return counts  # type: ignore[no-any-return]
