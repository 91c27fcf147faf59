"""Correlation with 1-D weights along the axes, which most of the kernels of `filters` are made of.

On the CPU it runs as compiled loops: along all axes in one pass over memory, or, where weights are
very many, along one axis after the other. On a GPU it is one kernel of our own. What these do not
take runs axis by axis with `scipy.ndimage` (or CuPy's), which is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, loops, ndimage, own_kernels, tracing
from lepton_pipe.spec import Around, ImageType, Place
from lepton_pipe.spec.rules import float_dtype

Weights = Sequence[Any]

# The most taps along an axis for which all axes are done in one pass.
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
    own = own_kernels("smooth", block)
    made = None if own is None else own.correlated(block, weights, inner)
    if made is not None:
        return made
    fast = loops("separable", block)
    if fast is None or not fast.fits(block, ()):
        return correlate_by_axes(block, weights)[tuple(inner)]
    if not is_wide([1 if w is None else len(w) for w in weights]):
        return fast.separable(block, weights, inner=inner)
    return _correlate_wide(block, weights, inner)


def _correlate_wide(block: Any, weights: Weights, inner: Sequence[slice]) -> Any:
    wide, separable = loops("wide", block), loops("separable", block)
    assert wide is not None and separable is not None
    # What nothing looks at is cut off first.
    block = block[
        tuple(p if w is None else slice(None) for w, p in zip(weights, inner, strict=True))
    ]
    narrow, parts = list(weights), list(inner)
    for axis, w in enumerate(weights):
        if w is None or len(w) > _WIDEST:
            narrow[axis], parts[axis] = None, slice(None)
        if w is not None and len(w) > _WIDEST:
            block = wide.correlate_axis(block, axis, w, inner[axis])
    if any(w is not None for w in narrow):
        block = separable.separable(block, narrow, inner=parts)
    return block


def correlate_around(block: Any, weights: Weights, place: Place, around: Around) -> Any:
    """Correlate, and do what is `around` it in the same pass; only where that `fits_around`."""
    fast = loops("separable", block)
    assert fast is not None
    params = {"before": around.before, "out_dtype": around.dtype, "tally": around.tally}
    return fast.separable(block, weights, inner=place.inner, **params)


def fits_around(image: ImageType, taps: Sequence[int]) -> bool:
    """Tell whether the loops of one pass read a dtype in place, and so many taps along each axis.

    It is known before Numba is loaded, and for all blocks of an image alike.
    """
    return image.dtype in _READ and not is_wide(taps)


def is_wide(taps: Sequence[int]) -> bool:
    """Tell whether there are too many taps along some axis for one pass over all axes."""
    return max(taps, default=1) > _WIDEST


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


# -- what it takes --------------------------------------------------------------------------


def correlation_scratch(image: ImageType, taps: Sequence[int], copies: float = 0) -> float:
    """Return bytes per voxel: so many copies of the float result, and what `correlate` needs.

    These are strips of floats of at most 640 KiB, or a byte for each voxel of a small block, and
    the image as floats if it is of a dtype that is not read in place. Axis after axis, it is what
    was made of one axis and is made of the next, and lines along an axis.
    """
    copies += 2.5 if is_wide(taps) else 0.25 + (image.dtype not in _READ)
    return copies * float_dtype(image.dtype).itemsize + 0.5


def correlation_device_scratch(copies: float) -> Any:
    """Return a rule for a device: copies of the float result, and the image as floats if half."""

    def scratch(image: ImageType) -> float:
        size = float_dtype(image.dtype).itemsize
        return (copies + (image.dtype == np.float16)) * size + 0.5

    return scratch


def correlation_cost(image: ImageType, taps: Sequence[int]) -> float:
    """Return nanoseconds per voxel for so many taps along each axis; 1 leaves it alone."""
    each = [n for n in taps if n > 1]
    ns = sum(3.0 + 0.04 * n for n in each) if is_wide(taps) else 1.2 + 0.03 * sum(each)
    return ns * float_dtype(image.dtype).itemsize / 4
