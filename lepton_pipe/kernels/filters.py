"""Neighbourhood filters. Parameters speak of the spatial axes z, y, x unless given per axis.

All of them mirror the image at its edges (``reflect``: ``d c b a | a b c d | d c b a``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.device import array_module, ndimage
from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.kernels.windows import PerAxis, Sizes, Window, per_axis_numbers, per_axis_sizes
from lepton_pipe.spec import ImageType, Place, kernel
from lepton_pipe.spec.rules import float_dtype


def _readable(block: Any) -> Any:
    # scipy.ndimage reads every dtype but float16.
    return block.astype(np.float32) if block.dtype == np.float16 else block


def _correlate(block: Any, weights: list[float], axis: int, out: np.dtype[Any]) -> Any:
    weighing = array_module(block).asarray(weights)
    return ndimage(block).correlate1d(block, weighing, axis, output=out)


def _result_bytes(number: float) -> Any:
    """Return a scratch rule: so many copies of the result, which is float."""

    def scratch(image: ImageType) -> float:
        return number * float_dtype(image.dtype).itemsize + 0.5

    return scratch


# -- gaussians ------------------------------------------------------------------------------


def _gaussian_radius(grid: Grid, sigma: PerAxis, truncate: float) -> tuple[int, ...]:
    return tuple(int(truncate * s + 0.5) for s in grid.per_axis(sigma, "sigma", elsewhere=0.0))


def _check_gaussian(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    per_axis_numbers(grid, sigma, "sigma")
    if not 0 < truncate < float("inf"):
        raise ValueError(
            f"truncate={truncate!r} must be positive: it is where the gaussian is cut off, in "
            "standard deviations; 4 is usual"
        )


def _smooth(block: Any, sigmas: tuple[float, ...], truncate: float) -> Any:
    out = float_dtype(block.dtype)
    block = _readable(block)
    return ndimage(block).gaussian_filter(block, sigmas, truncate=truncate, output=out)


@kernel(
    depth=_gaussian_radius,
    dtype="float",
    kind="image",
    scratch=_result_bytes(0),
    cost=32.0,
    check=_check_gaussian,
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
    return _smooth(image, place.grid.per_axis(sigma, "sigma", elsewhere=0.0), truncate)


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
    return tuple(int(truncate * s + 0.5) for s in _high_sigma(grid, low_sigma, high_sigma)[1])


@kernel(
    depth=_dog_radius,
    dtype="float",
    kind="image",
    scratch=_result_bytes(1),
    cost=70.0,
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
    result = _smooth(image, low, truncate)
    result -= _smooth(image, high, truncate)
    return result


# -- gradients ------------------------------------------------------------------------------


def _check_gradient(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    _check_gaussian(grid, sigma, truncate)
    if not any(grid.per_axis(sigma, "sigma", elsewhere=0.0)):
        raise ValueError(
            f"sigma={sigma!r} leaves no axis to take a gradient along: give at least one axis a "
            "positive width (see sobel for a gradient without smoothing)"
        )


@kernel(
    depth=_gaussian_radius,
    dtype="float",
    kind="image",
    scratch=_result_bytes(1),
    cost=60.0,
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
    out = float_dtype(image.dtype)
    image = _readable(image)
    total: Any = None
    for axis in (i for i, s in enumerate(sigmas) if s > 0):
        order = tuple(int(i == axis) for i in range(image.ndim))
        slope = ndimage(image).gaussian_filter(
            image, sigmas, order=order, truncate=truncate, output=out
        )
        slope *= slope
        total = slope if total is None else np.add(total, slope, out=total)
        del slope  # or it lives on while the next is made
    return np.sqrt(total, out=total)


@kernel(depth=1, dtype="float", kind="image", scratch=_result_bytes(2), cost=60.0)
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
    out = float_dtype(image.dtype)
    image = _readable(image)
    axes = place.grid.spatial
    total: Any = None
    for edge in axes:
        slope: Any = None
        for axis in axes:
            weights = [-1.0, 0.0, 1.0] if axis == edge else [0.25, 0.5, 0.25]
            source = image if slope is None else slope
            slope = _correlate(source, weights, axis, out)
        slope *= slope
        total = slope if total is None else np.add(total, slope, out=total)
    total /= len(axes)
    return np.sqrt(total, out=total)


@kernel(depth=1, dtype="float", kind="image", scratch=_result_bytes(1), cost=25.0)
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
    out = float_dtype(image.dtype)
    image = _readable(image)
    total: Any = None
    for axis in place.grid.spatial:
        term = _correlate(image, [1.0, -2.0, 1.0], axis, out)
        total = term if total is None else np.add(total, term, out=total)
        del term  # or it lives on while the next is made
    return total


# -- box ------------------------------------------------------------------------------------


def _size_depth(grid: Grid, size: Sizes) -> Depth:
    return Window(per_axis_sizes(grid, size)).depth


def _check_size(grid: Grid, size: Sizes) -> None:
    per_axis_sizes(grid, size)


@kernel(
    depth=_size_depth,
    dtype="float",
    kind="image",
    scratch=_result_bytes(1),
    cost=20.0,
    check=_check_size,
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
    out = float_dtype(image.dtype)
    result = _readable(image)
    for axis, n in enumerate(per_axis_sizes(place.grid, size)):
        if n > 1:
            result = _correlate(result, [1.0 / n] * n, axis, out)
    return result.astype(out) if result is image else result.astype(out, copy=False)
