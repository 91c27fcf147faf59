"""Neighbourhood filters. Parameters speak of the spatial axes z, y, x unless given per axis.

All of them mirror the image at its edges (``reflect``: ``d c b a | a b c d | d c b a``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.kernels.correlation import (
    correlate,
    correlate_around,
    correlation_cost,
    correlation_device_scratch,
    correlation_scratch,
    fits_around,
    gaussian_radius,
    gaussian_weights,
)
from lepton_pipe.kernels.windows import PerAxis, Sizes, Window, per_axis_numbers, per_axis_sizes
from lepton_pipe.spec import Absorbing, Around, ImageType, Place, kernel

# -- gaussians ------------------------------------------------------------------------------


def _gaussian_radius(grid: Grid, sigma: PerAxis, truncate: float) -> tuple[int, ...]:
    sigmas = grid.per_axis(sigma, "sigma", elsewhere=0.0)
    return tuple(gaussian_radius(s, truncate) for s in sigmas)


def _taps(radii: tuple[int, ...]) -> int:
    return sum(2 * r + 1 for r in radii if r > 0)


def _gaussian_cost(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> float:
    return correlation_cost(image, _taps(_gaussian_radius(grid, sigma, truncate)))


def _check_gaussian(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    per_axis_numbers(grid, sigma, "sigma")
    if not 0 < truncate < float("inf"):
        raise ValueError(
            f"truncate={truncate!r} must be positive: it is where the gaussian is cut off, in "
            "standard deviations; 4 is usual"
        )


def _gaussian_fits_around(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> bool:
    return fits_around(image, 2 * _gaussian_radius(grid, sigma, truncate)[-1] + 1)


def _gaussian_around(
    image: Any, sigma: PerAxis, *, truncate: float, place: Place, around: Around
) -> Any:
    sigmas = place.grid.per_axis(sigma, "sigma", elsewhere=0.0)
    weights = [gaussian_weights(s, truncate) for s in sigmas]
    return correlate_around(image, weights, place, around)


def _smooth(block: Any, sigmas: tuple[float, ...], truncate: float, place: Place) -> Any:
    return correlate(block, [gaussian_weights(s, truncate) for s in sigmas], place.inner)


@kernel(
    depth=_gaussian_radius,
    dtype="float",
    kind="image",
    scratch=correlation_scratch(0),
    device_scratch=correlation_device_scratch(1),
    cost=_gaussian_cost,
    check=_check_gaussian,
    absorb=Absorbing(_gaussian_fits_around, _gaussian_around),
)
def gaussian(image: Any, sigma: PerAxis = 1.0, *, truncate: float = 4.0, place: Place) -> Any:
    """Smooth with a gaussian.

    Parameters
    ----------
    image
        Image of any dtype.
    sigma
        Standard deviation in voxels: one for all spatial axes, one for each, or by axis name.
        0 leaves an axis alone.
    truncate
        Where the gaussian is cut off, in standard deviations.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), as
        `scipy.ndimage.gaussian_filter` gives. NaN spreads as far as the gaussian reaches.

    Raises
    ------
    ValueError
        When a sigma is negative or no number.
    """
    return _smooth(image, place.grid.per_axis(sigma, "sigma", elsewhere=0.0), truncate, place)


def _high_sigma(
    grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low = per_axis_numbers(grid, low_sigma, "low_sigma")
    if high_sigma is None:
        return low, tuple(1.6 * s for s in low)
    return low, per_axis_numbers(grid, high_sigma, "high_sigma")


def _check_dog(grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float) -> None:
    low, high = _high_sigma(grid, low_sigma, high_sigma)
    _check_gaussian(grid, low_sigma, truncate)
    if any(b < a for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"high_sigma={high_sigma!r} is below low_sigma={low_sigma!r}: the result would be "
            "turned upside down; exchange them"
        )


def _dog_radius(
    grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float
) -> tuple[int, ...]:
    wide = _high_sigma(grid, low_sigma, high_sigma)[1]
    return tuple(gaussian_radius(s, truncate) for s in wide)


def _dog_cost(
    image: ImageType, grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float
) -> float:
    low, high = _high_sigma(grid, low_sigma, high_sigma)
    both = (_gaussian_cost(image, grid, s, truncate) for s in (low, high))
    return sum(both) + 0.8


@kernel(
    depth=_dog_radius,
    dtype="float",
    kind="image",
    scratch=correlation_scratch(1),
    device_scratch=correlation_device_scratch(2),
    cost=_dog_cost,
    check=_check_dog,
)
def difference_of_gaussians(
    image: Any,
    low_sigma: PerAxis = 1.0,
    high_sigma: PerAxis | None = None,
    *,
    truncate: float = 4.0,
    place: Place,
) -> Any:
    """Keep structures between two widths: the image smoothed a little minus smoothed much.

    Parameters
    ----------
    image
        Image of any dtype.
    low_sigma
        Standard deviation of the narrow gaussian in voxels; details below it are smoothed away.
    high_sigma
        Standard deviation of the wide gaussian, whose result is subtracted; by default
        1.6 times `low_sigma`, which comes close to a Laplacian of a gaussian.
    truncate
        Where the gaussians are cut off, in standard deviations.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), about zero on average. The same
        as `skimage.filters.difference_of_gaussians` with ``mode="reflect"``, in the image's own
        units (scikit-image scales integers to between 0 and 1).

    Raises
    ------
    ValueError
        When a sigma is negative, or `high_sigma` is below `low_sigma`.

    References
    ----------
    D. Marr and E. Hildreth (1980), Theory of edge detection. Proc. R. Soc. Lond. B 207, 187-217.
    """
    low, high = _high_sigma(place.grid, low_sigma, high_sigma)
    result = _smooth(image, low, truncate, place)
    result -= _smooth(image, high, truncate, place)
    return result


# -- gradients ------------------------------------------------------------------------------


def _check_gradient(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    _check_gaussian(grid, sigma, truncate)
    if not any(grid.per_axis(sigma, "sigma", elsewhere=0.0)):
        raise ValueError(
            f"sigma={sigma!r} leaves no axis to take a gradient along: give at least one axis a "
            "positive width (see sobel for a gradient without smoothing)"
        )


def _gradient_cost(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> float:
    slopes = sum(r > 0 for r in _gaussian_radius(grid, sigma, truncate))
    return slopes * (_gaussian_cost(image, grid, sigma, truncate) + 0.8)


@kernel(
    depth=_gaussian_radius,
    dtype="float",
    kind="image",
    scratch=correlation_scratch(1),
    device_scratch=correlation_device_scratch(2),
    cost=_gradient_cost,
    check=_check_gradient,
)
def gradient_magnitude(
    image: Any, sigma: PerAxis = 1.0, *, truncate: float = 4.0, place: Place
) -> Any:
    """Measure how steep the image is, after smoothing with a gaussian.

    Parameters
    ----------
    image
        Image of any dtype.
    sigma
        Standard deviation in voxels: one for all spatial axes, one for each, or by axis name.
        No gradient is taken along an axis where it is 0.
    truncate
        Where the gaussian is cut off, in standard deviations.

    Returns
    -------
    array
        Length of the gradient per voxel, float32 (float64 for inputs that float32 cannot hold),
        as `scipy.ndimage.gaussian_gradient_magnitude` gives.

    Raises
    ------
    ValueError
        When a sigma is negative, or all are 0.
    """
    sigmas = place.grid.per_axis(sigma, "sigma", elsewhere=0.0)
    axes = [axis for axis, s in enumerate(sigmas) if s > 0]
    weights = (
        [gaussian_weights(s, truncate, axis == i) for i, s in enumerate(sigmas)] for axis in axes
    )
    slopes = (correlate(image, w, place.inner) for w in weights)
    return _root_of_squares(slopes, 1)


def _root_of_squares(slopes: Iterable[Any], count: int) -> Any:
    """Return the root of the sum of squares divided by `count`, in the memory of the first."""
    total: Any = None
    for slope in slopes:
        slope *= slope
        total = slope if total is None else np.add(total, slope, out=total)
        del slope  # or it lives on while the next is made
    if count > 1:
        total /= count
    return np.sqrt(total, out=total)


def _sobel_cost(image: ImageType, grid: Grid) -> float:
    axes = len(grid.spatial)
    return axes * (correlation_cost(image, 3 * axes) + 0.8)


@kernel(
    depth=1,
    dtype="float",
    kind="image",
    scratch=correlation_scratch(1),
    device_scratch=correlation_device_scratch(2),
    cost=_sobel_cost,
)
def sobel(image: Any, *, place: Place) -> Any:
    """Find edges: the magnitude of Sobel's gradient over the spatial axes.

    Along each axis the difference of the two neighbours is averaged across the other spatial axes
    with weights 1/4, 1/2, 1/4. The result is the root of the mean square over the axes, in the
    image's own units: a ramp that rises by 1 per voxel along every axis gives 2.

    Parameters
    ----------
    image
        Image of any dtype.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), as `skimage.filters.sobel` gives
        for a floating-point image.

    References
    ----------
    I. Sobel and G. Feldman (1968), A 3x3 isotropic gradient operator for image processing.
    Stanford Artificial Intelligence Project.
    """
    axes, every = place.grid.spatial, range(image.ndim)
    across, along = [0.25, 0.5, 0.25], [-1.0, 0.0, 1.0]
    weights = (
        [along if i == axis else across if i in axes else None for i in every] for axis in axes
    )
    slopes = (correlate(image, w, place.inner) for w in weights)
    return _root_of_squares(slopes, len(axes))


def _laplace_cost(image: ImageType, grid: Grid) -> float:
    return len(grid.spatial) * (correlation_cost(image, 3) + 0.8)


@kernel(
    depth=1,
    dtype="float",
    kind="image",
    scratch=correlation_scratch(1),
    device_scratch=correlation_device_scratch(2),
    cost=_laplace_cost,
)
def laplace(image: Any, *, place: Place) -> Any:
    """Sum the second differences along the spatial axes.

    Parameters
    ----------
    image
        Image of any dtype.

    Returns
    -------
    array
        ``a - 2 b + c`` of neighbouring voxels, summed over the axes; float32 (float64 for inputs
        that float32 cannot hold), as `scipy.ndimage.laplace` gives for such an image.
    """
    total: Any = None
    for axis in place.grid.spatial:
        weights = [[1.0, -2.0, 1.0] if i == axis else None for i in range(image.ndim)]
        term = correlate(image, weights, place.inner)
        total = term if total is None else np.add(total, term, out=total)
        del term  # or it lives on while the next is made
    return total


# -- box ------------------------------------------------------------------------------------


def _size_depth(grid: Grid, size: Sizes) -> Depth:
    return Window(per_axis_sizes(grid, size)).depth


def _uniform_cost(image: ImageType, grid: Grid, size: Sizes) -> float:
    return correlation_cost(image, sum(n for n in per_axis_sizes(grid, size) if n > 1))


def _check_size(grid: Grid, size: Sizes) -> None:
    per_axis_sizes(grid, size)


def _uniform_weights(grid: Grid, size: Sizes) -> list[list[float] | None]:
    return [[1.0 / n] * n if n > 1 else None for n in per_axis_sizes(grid, size)]


def _uniform_fits_around(image: ImageType, grid: Grid, size: Sizes) -> bool:
    return fits_around(image, per_axis_sizes(grid, size)[-1])


def _uniform_around(image: Any, size: Sizes, *, place: Place, around: Around) -> Any:
    return correlate_around(image, _uniform_weights(place.grid, size), place, around)


@kernel(
    depth=_size_depth,
    dtype="float",
    kind="image",
    scratch=correlation_scratch(0),
    device_scratch=correlation_device_scratch(1),
    cost=_uniform_cost,
    check=_check_size,
    absorb=Absorbing(_uniform_fits_around, _uniform_around),
)
def uniform(image: Any, size: Sizes = 3, *, place: Place) -> Any:
    """Average over a box.

    Parameters
    ----------
    image
        Image of any dtype.
    size
        Length of the box in voxels: one for all spatial axes, one for each, or by axis name. An
        even box reaches one voxel further to the low side.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold). The mean that
        `scipy.ndimage.uniform_filter` gives for such an image, but summed anew for each voxel:
        no rounding error and no NaN is carried along a row.

    Raises
    ------
    ValueError
        When a size is below 1 or no whole number.
    """
    return correlate(image, _uniform_weights(place.grid, size), place.inner)
