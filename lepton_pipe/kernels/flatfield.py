"""Correction of uneven illumination, from a reference image or from the image itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lepton_pipe.device import array_module, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge.shading import (
    FLAT,
    cell_count,
    cell_range,
    cell_slices,
    fit_surfaces,
    positions,
    sum_cells,
)
from lepton_pipe.spec import ImageType, Place, ValueType, kernel
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


def _check_dark(dark: Any) -> None:
    if isinstance(dark, (int, float)) and not abs(dark) < float("inf"):
        raise ValueError(f"dark={dark!r} must be finite: it is subtracted from every voxel")


def _check_floor(floor: float) -> None:
    if not 0 < floor <= 1:
        raise ValueError(
            f"floor={floor!r} must be above 0 and at most 1: it is the smallest shading that is "
            "divided by, where 1 is the average; 0.1 is usual"
        )


def _channels(grid: Grid) -> int:
    return grid.shape[grid.axis("c")] if "c" in grid.axes else 1


def _channel_range(place: Place) -> tuple[int, int]:
    """Return the channels that the array covers."""
    if "c" not in place.grid.axes:
        return 0, 1
    axis = place.grid.axis("c")
    return place.read.start[axis], place.read.stop[axis]


def _work_bytes(number: float) -> Any:
    """Return a scratch rule: so many copies of the result."""

    def scratch(image: ImageType) -> float:
        return number * float_dtype(image.dtype).itemsize + 1.0

    return scratch


class Sums(NamedTuple):
    """Sums of finite voxels and their number, for each channel (and each cell)."""

    total: Any
    count: Any


def _add(a: Sums, b: Sums) -> Sums:
    return Sums(a.total + b.total, a.count + b.count)


# -- with a reference -----------------------------------------------------------------------


def _level_value(grid: Grid) -> ValueType:
    return ValueType("float64", (_channels(grid),))


def _mean_level(partial: Sums) -> Any:
    return partial.total / np.maximum(partial.count, 1)


@kernel(
    combine=_add,
    finalize=_mean_level,
    value=_level_value,
    scratch=11.0,
    cost=4.0,
    check=_check_dark,
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
    sums = Sums(np.zeros(_channels(place.grid)), np.zeros(_channels(place.grid), np.int64))
    covered = slice(*_channel_range(place))
    sums.total[covered] = to_host(bright.sum(axis=axes))
    sums.count[covered] = to_host(finite.sum(axis=axes))
    return sums


def _check_divide_flat(image: ImageType, dark: Any, floor: float, grid: Grid) -> None:
    _check_dark(dark)
    _check_floor(floor)
    if image.grid.shape != grid.shape:
        raise ValueError(
            f"flat or dark has more axes ({''.join(grid.axes)}) than the image "
            f"({''.join(image.grid.axes)}): it would be spread over several; crop or project it"
        )


@kernel(dtype="float", kind="image", scratch=_work_bytes(2), cost=6.0, check=_check_divide_flat)
def divide_flat(
    image: Any, flat: Any, dark: Any = 0.0, *, level: Any, floor: float = 0.1, place: Place
) -> Any:
    """Return ``(image - dark) / shading`` with shading ``(flat - dark) / level``.

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
    xp, work = array_module(image), float_dtype(image.dtype)
    level = xp.asarray(level, dtype=work)
    if len(level) > 1:
        start, stop = _channel_range(place)
        after = place.grid.ndim - 1 - place.grid.axis("c")
        level = level[start:stop].reshape((-1,) + (1,) * after)
    shading = (flat.astype(work) - _as(work, dark)) / level
    shading = xp.fmax(shading, work.type(floor))
    result = image.astype(work)
    result -= _as(work, dark)
    result /= shading
    return result


def _as(work: np.dtype[Any], dark: Any) -> Any:
    return dark.astype(work) if getattr(dark, "ndim", 0) else work.type(dark)


# -- from the image itself ------------------------------------------------------------------


def _check_fit(grid: Grid, dark: Any) -> None:
    _check_dark(dark)
    if isinstance(dark, ImageType):
        raise TypeError(
            "dark is an image, but without flat the shading is estimated from the image alone: "
            "give flat too, or a number for dark"
        )
    missing = [a for a in "yx" if a not in grid.axes]
    if missing:
        raise ValueError(
            f"shading is a surface over y and x, but the image has axes {''.join(grid.axes)}: "
            "give it these axes"
        )


def _fit_value(grid: Grid) -> ValueType:
    return ValueType("float64", (_channels(grid), len(FLAT)))


def _fit(partial: Sums, dark: float, grid: Grid) -> Any:
    return fit_surfaces(partial.total, partial.count, dark, _extent(grid))


def _fit_scratch(image: ImageType) -> float:
    # Where a block lies within one cell along y, that is a mask and a copy without NaN.
    return image.dtype.itemsize + 1.5 if image.dtype.kind == "f" else 0.5


@kernel(
    combine=_add,
    finalize=_fit,
    value=_fit_value,
    scratch=_fit_scratch,
    cost=8.0,
    check=_check_fit,
)
def fit_shading(
    image: Any,
    dark: Any = 0.0,  # noqa: ARG001  finalize reads it
    *,
    place: Place,
) -> Any:
    """Fit a polynomial of second order in y and x to the mean over all other axes but c.

    Parameters
    ----------
    image
        Image with axes y and x.
    dark
        A number or value that is subtracted first.

    Returns
    -------
    array
        Shape ``(channels, 6)``, float64: factors of 1, y, x, yy, yx and xx, where y and x go
        from -1 to 1 over the image. The surface is 1 on average. It is 1 everywhere where there
        is nothing to fit: no finite voxel, or a mean that is not above `dark`.
    """
    grid = place.grid
    at_y, at_x = grid.axis("y"), grid.axis("x")
    cells = [cell_count(n) for n in _extent(grid)]
    shape = (_channels(grid), *cells)
    exact = image.dtype.kind != "f" and image.dtype.itemsize < 8
    sums = Sums(np.zeros(shape, np.int64 if exact else np.float64), np.zeros(shape, np.int64))
    channels = slice(*_channel_range(place))
    start, stop, width = place.read.start[at_x], place.read.stop[at_x], grid.shape[at_x]
    row = cell_range(start, stop, width)
    for cell, rows in cell_slices(place.read.start[at_y], image.shape[at_y], grid.shape[at_y]):
        part = _row_sums(image[(slice(None),) * at_y + (rows,)], grid.axes, sums.total.dtype)
        for to, of in zip(sums, part, strict=True):
            to[channels, cell, row] = sum_cells(of, 1, start, width)
    return sums


def _extent(grid: Grid) -> tuple[int, int]:
    return grid.shape[grid.axis("y")], grid.shape[grid.axis("x")]


def _row_sums(image: Any, names: tuple[str, ...], dtype: np.dtype[Any]) -> Sums:
    """Sum over all axes but c and x; the result has these two."""
    xp = array_module(image)
    axes = tuple(i for i, a in enumerate(names) if a not in "cx")
    lead = image.shape[names.index("c")] if "c" in names else 1
    shape = (lead, image.shape[-1])
    if image.dtype.kind != "f":
        count = np.full(shape, image.size // (shape[0] * shape[1]), np.int64)
    else:
        finite = xp.isfinite(image)
        count = to_host(finite.sum(axis=axes, dtype=np.int64)).reshape(shape)
        image = image if finite.all() else xp.where(finite, image, 0)
    return Sums(to_host(image.sum(axis=axes, dtype=dtype)).reshape(shape), count)


def _check_divide_shading(dark: Any, floor: float) -> None:
    _check_dark(dark)
    _check_floor(floor)


@kernel(
    dtype="float", kind="image", scratch=_work_bytes(1.05), cost=1.0, check=_check_divide_shading
)
def divide_shading(
    image: Any, dark: Any = 0.0, *, coefficients: Any, floor: float = 0.1, place: Place
) -> Any:
    """Return ``(image - dark) / surface``.

    Parameters
    ----------
    image
        Image with axes y and x.
    dark
        A number or value.
    coefficients
        What `fit_shading` gives.
    floor
        Smallest value of the surface that is divided by.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold).
    """
    result = image.astype(float_dtype(image.dtype))
    result -= result.dtype.type(dark)
    channels = range(*_channel_range(place))
    for i, channel in enumerate(channels):
        part = result
        if "c" in place.grid.axes:
            axis = place.grid.axis("c")
            part = result[(slice(None),) * axis + (i,)]
        part /= _surface(part, np.asarray(coefficients)[channel], floor, place)
    return result


def _surface(part: Any, coefficients: Any, floor: float, place: Place) -> Any:
    """Return the surface over the y and x that the array covers, in the array's dtype."""
    xp, dtype = array_module(part), part.dtype
    one, fy, fx, fyy, fyx, fxx = (float(f) for f in coefficients)

    def along(name: str) -> Any:
        axis = place.grid.axis(name)
        return positions(place.read.start[axis], place.read.stop[axis], place.grid.shape[axis])

    y, x = along("y"), along("x")
    surface = xp.multiply.outer(xp.asarray(y, dtype=dtype), xp.asarray(fyx * x, dtype=dtype))
    surface += xp.asarray(fy * y + fyy * y**2, dtype=dtype)[:, None]
    surface += xp.asarray(one + fx * x + fxx * x**2, dtype=dtype)
    return xp.maximum(surface, dtype.type(floor), out=surface)
