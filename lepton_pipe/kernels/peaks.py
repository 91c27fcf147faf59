"""Local maxima as a table of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, loops, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.boxes import box_extreme
from lepton_pipe.kernels.counts import check_image
from lepton_pipe.kernels.reductions import minimum_of
from lepton_pipe.spec import ImageType, Place, kernel

PerAxis = int | Sequence[int] | Mapping[str, int]
Found = list[tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, Any]]]
"""Voxels, as ``(n, axes)`` in the whole image, and their values: a pair for each block."""


def _distance(grid: Grid, min_distance: PerAxis) -> tuple[int, ...]:
    return tuple(int(d) for d in grid.per_axis(min_distance, "min_distance", elsewhere=0))


def _border(grid: Grid, min_distance: PerAxis, exclude_border: bool | int) -> tuple[int, ...]:
    if exclude_border is True:
        return _distance(grid, min_distance)
    return tuple(int(b) for b in grid.per_axis(int(exclude_border), "exclude_border", elsewhere=0))


def _check_peaks(
    image: ImageType,
    grid: Grid,
    min_distance: PerAxis,
    exclude_border: bool | int,
) -> None:
    check_image(image, grid)
    given = grid.per_axis(min_distance, "min_distance", elsewhere=0)
    if any(d != int(d) or d < 0 for d in given) or not any(given):
        raise ValueError(
            f"min_distance={min_distance!r} must be whole voxels, at least 1 along some axis"
        )
    if exclude_border < 0:
        raise ValueError(f"exclude_border={exclude_border!r} must not be negative")


def _finish(found: Found, grid: Grid) -> dict[str, Any]:
    voxels = np.concatenate([v for v, _ in found])
    values = np.concatenate([v for _, v in found])
    order = np.lexsort(voxels.T[::-1])
    voxels, values = voxels[order], values[order]
    table: dict[str, Any] = {axis: voxels[:, i] for i, axis in enumerate(grid.axes)}
    for i, axis in enumerate(grid.axes):
        table[f"{axis}_world"] = voxels[:, i] * grid.scale[i] + grid.translation[i]
    return table | {"value": values}


def _together(a: Found, b: Found) -> Found:
    a += b
    return a


@kernel(
    depth=_distance,
    combine=_together,
    finalize=_finish,
    returns="table",
    check=_check_peaks,
    scratch=lambda image: 2.5 * image.dtype.itemsize + 2.5,
    device_scratch=lambda image: 5.0 * image.dtype.itemsize + 4.0,
    cost=lambda image: 0.5 + 0.5 * image.dtype.itemsize,
)
def peaks_above(
    image: Any,
    threshold: Any,
    min_distance: PerAxis = 1,
    exclude_border: bool | int = False,
    *,
    place: Place,
) -> Found:
    """Find local maxima above a threshold. See `find_peaks`.

    Raises
    ------
    ValueError
        When the threshold is NaN.
    """
    if threshold != threshold:
        raise ValueError(
            "threshold is NaN, and nothing is above it: the image it was computed from holds "
            "NaN; replace them first, or give a number for threshold="
        )
    distance = _distance(place.grid, min_distance)
    peak = _peaks(image, threshold, distance)[place.inner]
    _clear_border(peak, _border(place.grid, min_distance, exclude_border), place)
    # NumPy finds what is marked ten times as fast along one axis.
    where = _indices(array_module(peak).flatnonzero(peak.reshape(-1)), peak.shape)
    voxels = np.stack([to_host(w).astype(np.int64) for w in where], axis=1)
    values = to_host(image[place.inner][where])
    return [(voxels + np.array(place.write.start, np.int64), values)]


def _clear_border(peak: Any, border: Sequence[int], place: Place) -> None:
    for axis, (start, width) in enumerate(zip(place.write.start, border, strict=True)):
        low = max(0, width - start)
        high = max(low, min(peak.shape[axis], place.grid.shape[axis] - width - start))
        outside = (slice(None),) * axis
        peak[(*outside, slice(0, low))] = False
        peak[(*outside, slice(high, None))] = False


def _indices(flat: Any, shape: Sequence[int]) -> tuple[Any, ...]:
    index = []
    for n in reversed(shape):
        index.append(flat % n)
        flat = flat // n
    return tuple(reversed(index))


def _peaks(image: Any, threshold: Any, distance: Sequence[int]) -> Any:
    fast = loops("peaks", image)
    if fast is None or not image.dtype.isnative:
        return is_peak(_ordered(image), distance) & (image > threshold)
    values = np.ascontiguousarray(_numbers(image))
    peak = _none_above(values, threshold, distance)
    # Numba knows no half precision.
    readable = values.astype(np.float32) if values.dtype == np.float16 else values
    fast.keep_first(peak, readable, distance)
    return peak


def _numbers(image: Any) -> Any:
    """Return an image, a mask as numbers."""
    return image.view(np.uint8) if image.dtype == np.bool_ else image


def _ordered(image: Any) -> Any:
    """Return values that can be compared: NaN lower than all others."""
    if image.dtype.kind != "f":
        return _numbers(image)
    xp = array_module(image)
    return xp.where(xp.isnan(image), image.dtype.type(-np.inf), image)


def _none_above(values: Any, threshold: Any, distance: Sequence[int]) -> Any:
    """Tell which voxels are above the threshold and the lowest value, and not below their box."""
    lowest = _lowest(values.dtype)
    ufunc = np.fmax if values.dtype.kind == "f" else np.maximum  # fmax takes no notice of NaN
    highest = box_extreme(values, tuple((d, d) for d in distance), ufunc, lowest)
    peak: Any = values == highest
    peak &= values > max(threshold, lowest)
    if distance[-1]:  # few voxels of a plateau are left for a closer look
        peak[..., 1:] &= values[..., 1:] != values[..., :-1]
    return peak


def _lowest(dtype: np.dtype[Any]) -> Any:
    return dtype.type(-np.inf) if dtype.kind == "f" else np.iinfo(dtype).min


def is_peak(values: Any, distance: Sequence[int]) -> Any:
    """Tell which voxels are the highest of their box; of equal ones, the earlier is higher.

    By operations on whole arrays: for the GPU, and to hold the compiled form against.

    The box is split into what comes before the voxel in C order and what comes after. In a plane::

        E E E E E      E  rows before: the whole width
        e e v l l      e  the same row before, l after
        L L L L L      L  rows after
    """
    peak = values > _lowest(values.dtype)
    wide = values  # the maximum over the axes after this one
    for axis in reversed(range(values.ndim)):
        reach = distance[axis]
        if reach:
            peak &= _window(wide, axis, -reach, -1) < values
            peak &= _window(wide, axis, 1, reach) <= values
            wide = _window(wide, axis, -reach, reach)
    return peak


def _window(values: Any, axis: int, low: int, high: int) -> Any:
    """Return the maximum of the voxels ``low`` to ``high`` away along an axis.

    Beyond the edges lies the lowest value. Windows of doubled length are made of two, so that the
    work grows with the logarithm of the length; exact for every dtype.
    """
    xp = array_module(values)
    n, length = values.shape[axis], high - low + 1
    shape = list(values.shape)
    shape[axis] = n + length - 1
    padded = xp.full(shape, _lowest(values.dtype), values.dtype)
    # padded[j] is values[j + low].
    source = slice(max(0, low), min(n, n + length - 1 + low))
    target = slice(source.start - low, source.stop - low)
    outside = (slice(None),) * axis
    if source.stop > source.start:
        padded[(*outside, target)] = values[(*outside, source)]
    size = 1
    while size < length:
        step = min(size, length - size)
        padded = xp.maximum(
            padded[(*outside, slice(None, -step))], padded[(*outside, slice(step, None))]
        )
        size += step
    return padded


def find_peaks(
    image: Any,
    min_distance: PerAxis = 1,
    threshold: Any = None,
    exclude_border: bool | int = False,
) -> Any:
    """Find local maxima.

    A voxel is a peak if it is the highest of the box that reaches `min_distance` voxels to each
    side of it, and above `threshold`. Of equal voxels the one that comes first in C order counts
    as higher. So two peaks are never closer than `min_distance` (along at least one axis they are
    further apart), and a plateau gives one peak, its first voxel, unless its shape has several
    voxels with no other of it earlier in their boxes. Of a chain of equal maxima, each within
    reach of the one before, only the first is a peak: smooth an image that is saturated. Voxels
    beyond the edge of the image are left out of the box: a voxel at the edge can be a peak.

    Parameters
    ----------
    min_distance
        Voxels: one for all spatial axes, one for each, or by axis name. Images of several times
        or channels are searched each by itself.
    threshold
        A number, or a value such as that of `otsu`. By default the minimum of the image.
    exclude_border
        Leave out peaks closer than this many voxels to the edge of the image; True stands for
        `min_distance`.

    Returns
    -------
    table
        One row for each peak, in C order: ``z``, ``y``, ``x`` (int64, in voxels; ``t`` and ``c``
        first where the image has them), ``z_world``, ... in the units of the image's scale, and
        ``value``, of the image's dtype. NaN, and the lowest value of the dtype, are never peaks.

    Raises
    ------
    ValueError
        When the threshold is NaN, as the minimum of an image with NaN is.
    """
    if threshold is None:
        threshold = minimum_of(image)
    return peaks_above(image, threshold, min_distance, exclude_border)
