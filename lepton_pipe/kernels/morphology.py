"""Morphology on grey images and masks: a mask in gives a mask out.

Voxels beyond the image's edge never win: an erosion takes the minimum of those voxels of the window
that exist, a dilation the maximum. For boxes, disks and balls this equals mirroring the image.
A dilation turns the window around its centre, so that ``opening <= image <= closing`` holds for
every window, even ones that are not symmetric.

References
----------
J. Serra (1982), Image Analysis and Mathematical Morphology. Academic Press.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.device import array_module
from lepton_pipe.geometry import Depth, Grid, symmetric_depth
from lepton_pipe.kernels.windows import (
    PerAxis,
    Sizes,
    Window,
    extreme,
    extreme_copies,
    extreme_cost,
    extreme_device_bytes,
    window,
)
from lepton_pipe.spec import ImageType, Place, kernel


def _check(grid: Grid, size: Sizes | None, footprint: Any, radius: Any) -> None:
    window(grid, size, footprint, radius)


def _depth(grid: Grid, size: Sizes | None, footprint: Any, radius: Any) -> Depth:
    return window(grid, size, footprint, radius).depth


def _mirrored_depth(grid: Grid, size: Sizes | None, footprint: Any, radius: Any) -> Depth:
    return window(grid, size, footprint, radius).mirrored_depth


def _both_depths(grid: Grid, size: Sizes | None, footprint: Any, radius: Any) -> Depth:
    return symmetric_depth(window(grid, size, footprint, radius).sides)


def _cost(grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any) -> float:
    return extreme_cost(window(grid, size, footprint, radius), image.dtype)


def _twice_cost(
    grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any
) -> float:
    return 2 * _cost(grid, image, size, footprint, radius)


def _scratch(
    grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any
) -> float:
    return extreme_copies(window(grid, size, footprint, radius)) * image.dtype.itemsize + 0.5


def _device_scratch(
    grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any
) -> float:
    return extreme_device_bytes(window(grid, size, footprint, radius), image)


def _twice_scratch(
    grid: Grid, image: ImageType, size: Sizes | None, footprint: Any, radius: Any
) -> float:
    return _scratch(grid, image, size, footprint, radius) + image.dtype.itemsize


def _erode(image: Any, over: Window) -> Any:
    return extreme(image, over, np.minimum)


def _dilate(image: Any, over: Window) -> Any:
    return extreme(image, over, np.maximum, mirrored=True)


def _minus(larger: Any, smaller: Any) -> Any:
    """Return the difference of two images, the first nowhere below the second."""
    xp = array_module(larger)
    if larger.dtype == np.bool_:
        return xp.logical_xor(larger, smaller)
    return xp.subtract(larger, smaller)


@kernel(
    depth=_depth,
    kind="same",
    scratch=_scratch,
    device_scratch=_device_scratch,
    cost=_cost,
    check=_check,
)
def erosion(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Shrink what is bright: the smallest value in a window.

    Voxels beyond the edge of the image are left out of the window: they never win.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
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
        Of the image's dtype. NaN in the window gives NaN.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius)
    return _erode(image, over)


@kernel(
    depth=_mirrored_depth,
    kind="same",
    scratch=_scratch,
    device_scratch=_device_scratch,
    cost=_cost,
    check=_check,
)
def dilation(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Grow what is bright: the largest value in a window.

    Voxels beyond the edge of the image are left out of the window: they never win.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
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
        Of the image's dtype. NaN in the window gives NaN.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius)
    return _dilate(image, over)


# An erosion and a dilation, one after the other.
_done_twice = kernel(
    depth=_both_depths,
    kind="same",
    scratch=_twice_scratch,
    device_scratch=_device_scratch,
    cost=_twice_cost,
    check=_check,
)


@_done_twice
def opening(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Remove bright structures that the window does not fit into.

    Voxels beyond the edge of the image are left out of the window, in erosion and dilation alike.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
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
        The dilation of the erosion, of the image's dtype; nowhere above the image.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius)
    return _dilate(_erode(image, over), over)


@_done_twice
def closing(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Fill dark structures that the window does not fit into.

    Voxels beyond the edge of the image are left out of the window, in erosion and dilation alike.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
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
        The erosion of the dilation, of the image's dtype; nowhere below the image.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius)
    return _erode(_dilate(image, over), over)


@_done_twice
def white_tophat(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Keep bright structures that the window does not fit into.

    Voxels beyond the edge of the image are left out of the window, in erosion and dilation alike.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
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
        The image minus its opening, of the image's dtype; never negative.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius)
    return _minus(image, _dilate(_erode(image, over), over))


@_done_twice
def black_tophat(
    image: Any,
    size: Sizes | None = None,
    *,
    footprint: Any = None,
    radius: PerAxis | None = None,
    place: Place,
) -> Any:
    """Keep dark structures that the window does not fit into.

    Voxels beyond the edge of the image are left out of the window, in erosion and dilation alike.

    Parameters
    ----------
    image
        Image of any dtype; a mask gives a mask.
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
        The closing minus the image, of the image's dtype; never negative.

    Raises
    ------
    ValueError
        When more than one of `size`, `footprint` and `radius` is given, or one makes no sense.
    """
    over = window(place.grid, size, footprint, radius)
    return _minus(_erode(_dilate(image, over), over), image)
