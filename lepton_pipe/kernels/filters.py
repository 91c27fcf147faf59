"""Smoothing filters. Parameters speak of the spatial axes z, y, x unless given per axis.

All of them mirror the image at its edges (``reflect``: ``d c b a | a b c d | d c b a``).
"""

from __future__ import annotations

from typing import Any

from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.kernels.correlation import (
    correlate,
    correlate_around,
    correlation_cost,
    correlation_device_scratch,
    correlation_scratch,
    fits_around,
)
from lepton_pipe.kernels.weights import (
    box_depth,
    box_taps,
    box_weights,
    gaussian_reach,
    gaussian_taps,
    gaussian_weights,
)
from lepton_pipe.kernels.windows import (
    PerAxis,
    Sizes,
    check_size,
    per_axis_numbers,
    per_axis_sizes,
)
from lepton_pipe.spec import Absorbing, Around, ImageType, Place, kernel

# -- gaussians ------------------------------------------------------------------------------


def widths(grid: Grid, sigma: PerAxis) -> tuple[float, ...]:
    """Return the standard deviation along each axis of an image; 0 leaves it alone."""
    return tuple(grid.per_axis(sigma, "sigma", elsewhere=0.0))


def gaussian_depth(grid: Grid, sigma: PerAxis, truncate: float) -> tuple[int, ...]:
    """Return how far a gaussian looks along each axis."""
    return gaussian_reach(grid, widths(grid, sigma), truncate)


def smoothed(block: Any, sigmas: tuple[float, ...], truncate: float, place: Place) -> Any:
    """Return the voxels that a block owns, smoothed with a gaussian."""
    return correlate(block, _gaussian_weights(place.grid, sigmas, truncate), place.inner)


def _gaussian_weights(grid: Grid, sigmas: tuple[float, ...], truncate: float) -> list[Any]:
    lengths = zip(sigmas, grid.shape, strict=True)
    return [gaussian_weights(s, truncate, length=n) for s, n in lengths]


def _gaussian_cost(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> float:
    return correlation_cost(image, gaussian_taps(grid, widths(grid, sigma), truncate))


def _gaussian_scratch(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> float:
    return correlation_scratch(image, gaussian_taps(grid, widths(grid, sigma), truncate))


def check_gaussian(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    """Raise `ValueError` where a gaussian of that width makes no sense."""
    per_axis_numbers(grid, sigma, "sigma")
    if not 0 < truncate < float("inf"):
        raise ValueError(
            f"truncate={truncate!r} must be positive: it is where the gaussian is cut off, in "
            "standard deviations; 4 is usual"
        )


def _gaussian_fits_around(image: ImageType, grid: Grid, sigma: PerAxis, truncate: float) -> bool:
    return fits_around(image, gaussian_taps(grid, widths(grid, sigma), truncate))


def _gaussian_around(
    image: Any, sigma: PerAxis, *, truncate: float, place: Place, around: Around
) -> Any:
    weights = _gaussian_weights(place.grid, widths(place.grid, sigma), truncate)
    return correlate_around(image, weights, place, around)


@kernel(
    depth=gaussian_depth,
    dtype="float",
    kind="image",
    scratch=_gaussian_scratch,
    device_scratch=correlation_device_scratch(1),
    cost=_gaussian_cost,
    check=check_gaussian,
    absorb=Absorbing(_gaussian_fits_around, _gaussian_around),
)
def gaussian(image: Any, sigma: PerAxis = 1.0, *, truncate: float = 4.0, place: Place) -> Any:
    """Smooth with a gaussian.

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

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
    return smoothed(image, widths(place.grid, sigma), truncate, place)


# -- box ------------------------------------------------------------------------------------


def _size_depth(grid: Grid, size: Sizes) -> Depth:
    return box_depth(grid, per_axis_sizes(grid, size))


def _uniform_cost(image: ImageType, grid: Grid, size: Sizes) -> float:
    return correlation_cost(image, box_taps(grid, per_axis_sizes(grid, size)))


def _uniform_scratch(image: ImageType, grid: Grid, size: Sizes) -> float:
    return correlation_scratch(image, box_taps(grid, per_axis_sizes(grid, size)))


def _uniform_weights(grid: Grid, size: Sizes) -> list[Any]:
    return [box_weights(k, n) for k, n in zip(per_axis_sizes(grid, size), grid.shape, strict=True)]


def _uniform_fits_around(image: ImageType, grid: Grid, size: Sizes) -> bool:
    return fits_around(image, box_taps(grid, per_axis_sizes(grid, size)))


def _uniform_around(image: Any, size: Sizes, *, place: Place, around: Around) -> Any:
    return correlate_around(image, _uniform_weights(place.grid, size), place, around)


@kernel(
    depth=_size_depth,
    dtype="float",
    kind="image",
    scratch=_uniform_scratch,
    device_scratch=correlation_device_scratch(1),
    cost=_uniform_cost,
    check=check_size,
    absorb=Absorbing(_uniform_fits_around, _uniform_around),
)
def uniform(image: Any, size: Sizes = 3, *, place: Place) -> Any:
    """Average over a box.

    At its edges the image is mirrored: ``d c b a | a b c d | d c b a``.

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
