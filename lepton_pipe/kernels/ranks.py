"""Filters by rank: the smallest, largest and middle value in a window."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, load, loops, ndimage, own_kernels
from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.kernels.windows import (
    PerAxis,
    Sizes,
    Window,
    check_size,
    extreme,
    extreme_device_bytes,
    is_shared,
    item_bytes,
    per_axis_numbers,
    per_axis_sizes,
    window,
)
from lepton_pipe.spec import ImageType, Place, kernel
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH

# In the window of a median.
_MOST_VOXELS = 2**20


def _size_depth(grid: Grid, size: Sizes) -> Depth:
    return _box(grid, size).depth


def _box(grid: Grid, size: Sizes) -> Window:
    return Window(per_axis_sizes(grid, size)).within(grid)


def _device_scratch(grid: Grid, image: ImageType, size: Sizes) -> float:
    return extreme_device_bytes(Window(per_axis_sizes(grid, size)), image)


_extreme_of_box = kernel(
    depth=_size_depth,
    kind="same",
    scratch=item_bytes(0.6),
    device_scratch=_device_scratch,
    cost=lambda image: 0.5 * image.dtype.itemsize,
    check=check_size,
)


@_extreme_of_box
def minimum(image: Any, size: Sizes = 3, *, place: Place) -> Any:
    """Take the smallest value in a box.

    Voxels beyond the edge of the image are left out of the box, as if it were mirrored there.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
    size
        Length of the box in voxels: one for all spatial axes, one for each, or by axis name. An
        even box reaches one voxel further to the low side.

    Returns
    -------
    array
        Of the image's dtype, as `scipy.ndimage.minimum_filter` gives. NaN in the box gives NaN.

    Raises
    ------
    ValueError
        When a size is below 1 or no whole number.
    """
    return extreme(image, _box(place.grid, size), np.minimum)


@_extreme_of_box
def maximum(image: Any, size: Sizes = 3, *, place: Place) -> Any:
    """Take the largest value in a box.

    Voxels beyond the edge of the image are left out of the box, as if it were mirrored there.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
    size
        Length of the box in voxels: one for all spatial axes, one for each, or by axis name. An
        even box reaches one voxel further to the low side.

    Returns
    -------
    array
        Of the image's dtype, as `scipy.ndimage.maximum_filter` gives. NaN in the box gives NaN.

    Raises
    ------
    ValueError
        When a size is below 1 or no whole number.
    """
    return extreme(image, _box(place.grid, size), np.maximum)


def _median_depth(grid: Grid, size: Sizes | None, footprint: Any, radius: Any) -> Depth:
    return window(grid, size, footprint, radius, beyond=True).depth


def _check_median(grid: Grid, size: Sizes | None, footprint: Any, radius: Any) -> None:
    if radius is not None:
        lengths = tuple(2 * int(r) + 1 for r in per_axis_numbers(grid, radius, "radius"))
    else:
        lengths = per_axis_sizes(grid, 1 if size is None else size)
    if prod(lengths) > _MOST_VOXELS:
        told = f"size={size!r}" if radius is None else f"radius={radius!r}"
        raise ValueError(
            f"{told} is a window of {' x '.join(map(str, lengths))} voxels, which are sorted anew "
            "for each voxel: it would take for ever; give a smaller one, or take the median of a "
            "coarser scale level"
        )
    window(grid, size, footprint, radius, beyond=True)


def _median_cost(
    grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any
) -> float:
    """Return measured ns: of sorting networks that neighbours share, or of SciPy's sorting."""
    over = window(grid, size, footprint, radius, beyond=True)
    cells = np.prod(over.shape) if over.footprint is None else np.count_nonzero(over.footprint)
    if not is_shared(over):
        return 12.0 * float(cells)
    shared = 0.22 * cells if over.footprint is None else 0.16 * cells**1.3
    return 2.0 + float(shared) * max(0.7, image.dtype.itemsize / 2)


def _median_device_scratch(
    grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any
) -> float:
    cells = _cells(window(grid, size, footprint, radius))
    ours = load("lepton_pipe.cuda.medians")
    fits = ours.fits(image.grid.shape, image.dtype, cells)
    return 1.1 * image.dtype.itemsize if fits else UNDECLARED_SCRATCH


@kernel(
    depth=_median_depth,
    kind="same",
    scratch=item_bytes(1),
    device_scratch=_median_device_scratch,
    cost=_median_cost,
    check=_check_median,
)
def median(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Take the middle value in a window; of an even number of voxels, the upper of the two.

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask (the majority).
    size
        Length of a box in voxels: one for all spatial axes, one for each, or by axis name; 3 by
        default. An even box reaches one voxel further to the low side.
    footprint
        Instead of `size`: a small array of zeros and ones, with one axis for each spatial axis.
    radius
        Instead of `size`: radius of a disk or ball in voxels; several make an ellipsoid.

    Returns
    -------
    array
        Of the image's dtype, as `scipy.ndimage.median_filter` gives. Where a window holds NaN,
        the value is undefined: replace NaN first.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius, beyond=True)
    cells = _cells(over)
    ours = own_kernels("medians", image)
    if ours is not None and ours.fits(image.shape, image.dtype, cells):
        return ours.median(image, cells)
    fast = loops("ranks", image)
    if fast is not None and fast.fits(image, over.shape):
        return fast.median(image, cells)
    return median_by_sorting(image, cells)


def _cells(over: Window) -> Any:
    return np.ones(over.shape, bool) if over.footprint is None else over.footprint


def median_by_sorting(image: Any, cells: Any) -> Any:
    """Return the median in a window as SciPy finds it: by sorting each voxel's window anew."""
    readable = image.astype(np.float32) if image.dtype == np.float16 else image
    # With one axis more, SciPy keeps to its general code: its code for one axis has crashed on
    # rows shorter than the window (scipy#22250, scipy#23075).
    footprint = array_module(image).asarray(cells)[None]
    filtered = ndimage(image).median_filter(readable[None], footprint=footprint)[0]
    return filtered.astype(image.dtype, copy=False)
