"""Correlation with 1-D weights along the axes, which most of the kernels of `filters` are made of.

On the CPU it runs as compiled loops, elsewhere and for very wide weights axis by axis with
`scipy.ndimage`, which is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, loops, ndimage, tracing
from lepton_pipe.spec import Around, ImageType, Place
from lepton_pipe.spec.rules import float_dtype

Weights = Sequence[Any]

# The most taps along the last axis that the compiled loops know.
_WIDEST = 401
# What they read in place; other dtypes are converted first.
_READ = tuple(map(np.dtype, ("bool", "uint8", "uint16", "int16", "float32", "float64")))


def correlate(block: Any, weights: Weights, inner: Sequence[slice]) -> Any:
    """Correlate with 1-D weights, mirroring the image at its edges.

    Parameters
    ----------
    weights
        For each axis of `block` a 1-D array, or None to leave the axis alone. Of ``n`` weights
        ``n // 2`` lie before the voxel.
    inner
        The voxels that are wanted, a slice for each axis.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), never `block` itself; the voxels
        that are wanted, and no others.
    """
    noted = tracing(block)
    if noted is not None:
        return noted.correlate(block, weights, inner)
    fast = loops("separable", block)
    if fast is not None and fast.fits(block, weights):
        return fast.separable(block, weights, inner=inner)
    return correlate_by_axes(block, weights)[tuple(inner)]


def correlate_around(block: Any, weights: Weights, place: Place, around: Around) -> Any:
    """Correlate, and do what is `around` it in the same pass; only where that `fits_around`."""
    fast = loops("separable", block)
    assert fast is not None
    params = {"before": around.before, "out_dtype": around.dtype, "tally": around.tally}
    return fast.separable(block, weights, inner=place.inner, **params)


def fits_around(image: ImageType, taps: int) -> bool:
    """Tell whether the compiled loops read a dtype in place, and as many taps along the last axis.

    It is known before Numba is loaded, and for all blocks of an image alike.
    """
    return image.dtype in _READ and taps <= _WIDEST


def correlate_by_axes(block: Any, weights: Weights) -> Any:
    """Do the same axis by axis, summing in double precision."""
    xp, out = array_module(block), float_dtype(block.dtype)
    # scipy.ndimage reads every dtype but float16.
    result = block.astype(out) if block.dtype == np.float16 else block
    for axis, w in enumerate(weights):
        if w is not None:
            # SciPy copies line by line, and so can write to what it reads.
            target = result if xp is np and result is not block else out
            result = ndimage(block).correlate1d(result, xp.asarray(w), axis, output=target)
    return block.astype(out) if result is block else result


def gaussian_weights(sigma: float, truncate: float, order: int = 0) -> Any:
    """Return the weights of a gaussian, or of its first derivative; None where it has one alone.

    Parameters
    ----------
    sigma
        Standard deviation in voxels.
    truncate
        Where the gaussian is cut off, in standard deviations.
    order
        0, or 1 for weights that give the slope.
    """
    radius = gaussian_radius(sigma, truncate)
    if radius == 0:
        return None if order == 0 else np.zeros(1)
    x = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / sigma**2 * x**2)
    weights /= weights.sum()
    return weights * x / sigma**2 if order == 1 else weights


def gaussian_radius(sigma: float, truncate: float) -> int:
    """Return how many voxels a gaussian reaches to either side."""
    return int(truncate * sigma + 0.5)


# -- what it takes --------------------------------------------------------------------------


def correlation_scratch(copies: float) -> Any:
    """Return a scratch rule: so many copies of the float result, and what `correlate` needs.

    These are strips of floats of at most 640 KiB, or a byte for each voxel of a small block, and
    the image as floats if it is of a dtype that is not read in place.
    """

    def scratch(image: ImageType) -> float:
        size = float_dtype(image.dtype).itemsize
        return (copies + (image.dtype not in _READ) + 0.25) * size + 0.5

    return scratch


def correlation_device_scratch(copies: float) -> Any:
    """Return a rule for a device: copies of the float result, and the image as floats if half."""

    def scratch(image: ImageType) -> float:
        size = float_dtype(image.dtype).itemsize
        return (copies + (image.dtype == np.float16)) * size + 0.5

    return scratch


def correlation_cost(image: ImageType, taps: float) -> float:
    """Return nanoseconds per voxel for so many taps, summed over the axes."""
    return (1.2 + 0.03 * taps) * float_dtype(image.dtype).itemsize / 4
