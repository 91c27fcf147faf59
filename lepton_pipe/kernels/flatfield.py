"""Correction of uneven illumination, from a reference image or from the image itself."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import array_module, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.shading import (
    Sums,
    add_sums,
    as_volume,
    channel_count,
    channel_range,
    check_dark,
    check_floor,
    divide_shading,
    fit_shading,
    shading_loops,
    shading_scratch,
    volumes,
)
from lepton_pipe.spec import ImageType, Operation, Place, ValueType, Voxelwise, kernel
from lepton_pipe.spec.rules import float_dtype


def flatfield(image: Any, flat: Any = None, dark: Any = 0.0, *, floor: float = 0.1) -> Any:
    """Correct uneven illumination: ``(image - dark) / shading``, where shading is 1 on average.

    Parameters
    ----------
    image
        Image with axes y and x, of any dtype.
    flat
        Image of an evenly bright field. Its trailing axes are those of `image`, each as long or
        1. Shading is ``(flat - dark) / mean(flat - dark)``, for each channel if it has channels.

        Without it the shading is estimated from the image itself: a polynomial of second order
        in y and x, fitted by least squares to the mean over all other axes, one for each
        channel. This is right where objects are spread evenly over the field, or many planes or
        time points are; where one large object fills a side of the field, give a `flat`.
    dark
        What the detector gives without light: a number or value, or with `flat` also an image.
    floor
        Smallest shading that is believed, so that dead pixels of `flat` (zero, NaN) and the
        corners of a fitted surface are brightened at most ``1 / floor`` times.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold). NaN in the image stays NaN, and
        takes no part in the estimate.

    Raises
    ------
    ValueError
        When `flat` does not fit `image`, it has no axes y and x, or `floor` is not between 0 and
        1.
    TypeError
        When `flat` is no image, or `dark` is one while there is no `flat`.

    Notes
    -----
    The estimate sums the image in cells of a coarse grid, exactly for integers of up to 32 bits,
    so it does not depend on how the image is cut into blocks.

    References
    ----------
    I. T. Young (2000), Shading correction: compensation for illumination and sensor
    inhomogeneities. Current Protocols in Cytometry 14, 2.11.1-2.11.12.

    D. Tomazevic, B. Likar, F. Pernus (2002), Comparative evaluation of retrospective shading
    correction methods. Journal of Microscopy 208, 212-223 (there: surface fitting).
    """
    if flat is None:
        coefficients = fit_shading(image, dark)
        return divide_shading(image, dark, coefficients=coefficients, floor=floor)
    if getattr(flat, "ndim", 0) == 0:
        raise TypeError(
            f"flatfield: flat={flat!r} must be an image of an evenly bright field; leave it out "
            "to estimate the shading from the image"
        )
    return divide_flat(image, flat, dark, level=flat_level(flat, dark), floor=floor)


# -- with a reference -----------------------------------------------------------------------


def _level_value(grid: Grid) -> ValueType:
    return ValueType("float64", (channel_count(grid),))


def _mean_level(partial: Sums) -> Any:
    return partial.total / np.maximum(partial.count, 1)


@kernel(
    combine=add_sums,
    finalize=_mean_level,
    value=_level_value,
    scratch=11.0,
    cost=2.5,
    check=check_dark,
)
def flat_level(flat: Any, dark: Any = 0.0, *, place: Place) -> Any:
    """Return the mean of ``flat - dark`` for each channel; NaN and infinity are left out.

    Parameters
    ----------
    flat
        Image of an evenly bright field.
    dark
        A number, value or image.

    Returns
    -------
    array
        Shape ``(channels,)``, float64; one entry without an axis c.
    """
    xp = array_module(flat)
    bright = flat.astype(np.float64) - dark
    finite = xp.isfinite(bright)
    bright[~finite] = 0
    axes = tuple(i for i, a in enumerate(place.grid.axes) if a != "c")
    sums = Sums(np.zeros(channel_count(place.grid)), np.zeros(channel_count(place.grid), np.int64))
    covered = slice(*channel_range(place))
    sums.total[covered] = to_host(bright.sum(axis=axes))
    sums.count[covered] = to_host(finite.sum(axis=axes))
    return sums


def _check_divide_flat(image: ImageType, dark: Any, floor: float, grid: Grid) -> None:
    check_dark(dark)
    check_floor(floor)
    if image.grid.shape != grid.shape:
        raise ValueError(
            f"flat or dark has more axes ({''.join(grid.axes)}) than the image "
            f"({''.join(image.grid.axes)}): it would be spread over several; crop or project it"
        )


def _light(
    image: Any, flat: Any, dark: Any, *, level: Any, floor: float, place: Place
) -> tuple[Any, Any]:
    """Return what `divide_flat` subtracts and multiplies with, in the dtype of its result."""
    xp, work = array_module(image), float_dtype(image.dtype)
    shape: tuple[int, ...] = ()
    if len(level) > 1:
        level = level[slice(*channel_range(place))]
        shape = (-1, *(1,) * (place.grid.ndim - 1 - place.grid.axis("c")))
    level = xp.asarray(level, work).reshape(shape)
    less = dark.astype(work) if getattr(dark, "ndim", 0) else work.type(dark)
    return less, _gain(flat.astype(work), less, level, floor)


def _operations(
    image: Any, flat: Any, dark: Any, *, level: Any, floor: float, place: Place
) -> tuple[Operation, ...]:
    less, gain = _light(image, flat, dark, level=level, floor=floor, place=place)
    return ("subtract", less), ("multiply", gain)


def _gain(flat: Any, dark: Any, level: Any, floor: float) -> Any:
    """Return ``1 / max((flat - dark) / level, floor)``; of NaN and the floor, the floor."""
    xp, number = array_module(flat), flat.dtype.type
    gain = flat - dark
    gain = xp.divide(gain, level, out=None if level.ndim else gain)
    xp.fmax(gain, number(floor), out=gain)
    return xp.divide(number(1), gain, out=gain)


@kernel(
    dtype="float",
    kind="image",
    scratch=shading_scratch(3.0, 2.0),
    device_scratch=lambda image: 2.0 * float_dtype(image.dtype).itemsize + 1.0,
    cost=0.7,
    check=_check_divide_flat,
    absorb=Voxelwise(_operations),
)
def divide_flat(
    image: Any, flat: Any, dark: Any = 0.0, *, level: Any, floor: float = 0.1, place: Place
) -> Any:
    """Return ``(image - dark) * gain``, where gain is ``1 / shading``.

    Shading is ``(flat - dark) / level``. All is computed in the dtype of the result.

    Parameters
    ----------
    image
        Image of any dtype.
    flat
        Image of an evenly bright field.
    dark
        A number, value or image.
    level
        What `flat_level` gives.
    floor
        Smallest shading that is believed, also where `flat` is NaN.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold).
    """
    fast = shading_loops(image, flat)
    if fast is None:
        less, gain = _light(image, flat, dark, level=level, floor=floor, place=place)
        result = image.astype(less.dtype)
        result -= less
        result *= gain
        return result
    result = np.empty(image.shape, float_dtype(image.dtype))
    light_of = _light_of_parts(image, flat, dark, level, floor, place)
    for channel, index, volume in volumes(image, place.grid.axes):
        out = result[index].reshape(volume.shape)
        fast.multiply_less_dark(volume, *light_of(channel, index), out)
    return result


# -- part by part ---------------------------------------------------------------------------

_Index = tuple[slice, ...]
_LightOf = Callable[[int, _Index], tuple[NDArray[Any], NDArray[Any]]]

# Planes that share their light, from which on it is computed for all of them at once: until then
# it would take more memory than a part of them does.
_SHARED = 4


def _light_of_parts(
    image: NDArray[Any], flat: Any, dark: Any, level: Any, floor: float, place: Place
) -> _LightOf:
    """Return what gives dark and gain, as planes, for a part of an image (see `volumes`)."""
    shape, work = image.shape, float_dtype(image.dtype)

    def once(_: int, index: _Index) -> tuple[NDArray[Any], NDArray[Any]]:
        return _planes(less, shape, index, work), _planes(gain, shape, index, work)

    def each(channel: int, index: _Index) -> tuple[NDArray[Any], NDArray[Any]]:
        here = _planes(dark, shape, index, work)
        of_flat = _planes(flat, shape, index, work)
        return here, _gain(of_flat, here, levels[channel if levels.size > 1 else 0], floor)

    if _is_plane(flat) and _is_plane(dark) and prod(shape[:-2]) >= _SHARED:
        less, gain = _light(image, flat, dark, level=level, floor=floor, place=place)
        return once
    levels = np.asarray(level, work)
    levels = levels[slice(*channel_range(place))] if levels.size > 1 else levels
    return each


def _is_plane(array: Any) -> bool:
    lead: tuple[int, ...] = np.shape(array)[:-2]
    return prod(lead) == 1


def _planes(array: Any, shape: tuple[int, ...], index: _Index, work: np.dtype[Any]) -> NDArray[Any]:
    """Return what goes with a part of an image of `shape`: one plane where all are the same."""
    if np.ndim(array) == 0:
        columns = index[-1]
        return np.full((1, 1, columns.stop - columns.start), array, work)
    if _is_plane(array):
        plane = np.broadcast_to(array.reshape(array.shape[-2:]), shape[-2:])
        return as_volume(plane[index[-2:]], work)
    return as_volume(np.broadcast_to(array, shape)[index], work)
