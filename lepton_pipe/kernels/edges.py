"""Edges and blobs. Parameters speak of the spatial axes z, y, x unless given per axis.

All of them mirror the image at its edges (``reflect``: ``d c b a | a b c d | d c b a``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.correlation import (
    correlate,
    correlation_cost,
    correlation_device_scratch,
    correlation_scratch,
)
from lepton_pipe.kernels.filters import check_gaussian, gaussian_depth, smoothed, widths
from lepton_pipe.kernels.weights import gaussian_reach, gaussian_taps, gaussian_weights
from lepton_pipe.kernels.windows import PerAxis, per_axis_numbers
from lepton_pipe.spec import ImageType, Place, kernel

# -- blobs ----------------------------------------------------------------------------------


def _high_sigma(
    grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low = per_axis_numbers(grid, low_sigma, "low_sigma")
    if high_sigma is None:
        return low, tuple(1.6 * s for s in low)
    return low, per_axis_numbers(grid, high_sigma, "high_sigma")


def _check_dog(grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float) -> None:
    low, high = _high_sigma(grid, low_sigma, high_sigma)
    check_gaussian(grid, low_sigma, truncate)
    if any(b < a for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"high_sigma={high_sigma!r} is below low_sigma={low_sigma!r}: the result would be "
            "turned upside down; exchange them"
        )


def _dog_depth(
    grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float
) -> tuple[int, ...]:
    return gaussian_reach(grid, _high_sigma(grid, low_sigma, high_sigma)[1], truncate)


def _dog_scratch(
    image: ImageType, grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float
) -> float:
    wide = _high_sigma(grid, low_sigma, high_sigma)[1]
    return correlation_scratch(image, gaussian_taps(grid, wide, truncate), copies=1)


def _dog_cost(
    image: ImageType, grid: Grid, low_sigma: PerAxis, high_sigma: PerAxis | None, truncate: float
) -> float:
    both = (gaussian_taps(grid, s, truncate) for s in _high_sigma(grid, low_sigma, high_sigma))
    return sum(correlation_cost(image, taps) for taps in both) + 0.8


@kernel(
    depth=_dog_depth,
    dtype="float",
    kind="image",
    scratch=_dog_scratch,
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

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

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
    result = smoothed(image, low, truncate, place)
    result -= smoothed(image, high, truncate, place)
    return result


# -- gradients ------------------------------------------------------------------------------


def _check_gradient(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    check_gaussian(grid, sigma, truncate)
    if not any(widths(grid, sigma)):
        raise ValueError(
            f"sigma={sigma!r} leaves no axis to take a gradient along: give at least one axis a "
            "positive width (see sobel for a gradient without smoothing)"
        )


def _gradient_scratch(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> float:
    return correlation_scratch(image, gaussian_taps(grid, widths(grid, sigma), truncate), copies=1)


def _gradient_cost(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> float:
    taps = gaussian_taps(grid, widths(grid, sigma), truncate)
    return sum(n > 1 for n in taps) * (correlation_cost(image, taps) + 0.8)


@kernel(
    depth=gaussian_depth,
    dtype="float",
    kind="image",
    scratch=_gradient_scratch,
    device_scratch=correlation_device_scratch(2),
    cost=_gradient_cost,
    check=_check_gradient,
)
def gradient_magnitude(
    image: Any, sigma: PerAxis = 1.0, *, truncate: float = 4.0, place: Place
) -> Any:
    """Measure how steep the image is, after smoothing with a gaussian.

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

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
    along = list(zip(widths(place.grid, sigma), place.grid.shape, strict=True))
    weights = (
        [gaussian_weights(s, truncate, axis == i, length=n) for i, (s, n) in enumerate(along)]
        for axis, (width, _) in enumerate(along)
        if width > 0
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


def _scratch(image: ImageType) -> float:
    return correlation_scratch(image, (3,), copies=1)


def _sobel_cost(image: ImageType, grid: Grid) -> float:
    axes = len(grid.spatial)
    return axes * (correlation_cost(image, (3,) * axes) + 0.8)


@kernel(
    depth=1,
    dtype="float",
    kind="image",
    scratch=_scratch,
    device_scratch=correlation_device_scratch(2),
    cost=_sobel_cost,
)
def sobel(image: Any, *, place: Place) -> Any:
    """Find edges: the magnitude of Sobel's gradient over the spatial axes.

    Along each axis the difference of the two neighbours is averaged across the other spatial axes
    with weights 1/4, 1/2, 1/4. The result is the root of the mean square over the axes, in the
    image's own units: a ramp that rises by 1 per voxel along every axis gives 2.

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

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
    return len(grid.spatial) * (correlation_cost(image, (3,)) + 0.8)


@kernel(
    depth=1,
    dtype="float",
    kind="image",
    scratch=_scratch,
    device_scratch=correlation_device_scratch(2),
    cost=_laplace_cost,
)
def laplace(image: Any, *, place: Place) -> Any:
    """Sum the second differences along the spatial axes.

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

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
