"""The shading of an image, estimated from the image itself, and division by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import array_module, loops, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge.shading import (
    FLAT,
    cell_count,
    cell_range,
    cell_slices,
    cells_of,
    fit_surfaces,
    positions,
    sum_cells,
)
from lepton_pipe.merge.slabs import slabs
from lepton_pipe.spec import ImageType, Place, ValueType, kernel
from lepton_pipe.spec.rules import float_dtype

_PART = 1 << 16
"""Voxels that a compiled loop is given at a time."""


def check_dark(dark: Any) -> None:
    """Refuse a number for `dark` that is not finite."""
    if isinstance(dark, (int, float)) and not abs(dark) < float("inf"):
        raise ValueError(f"dark={dark!r} must be finite: it is subtracted from every voxel")


def check_floor(floor: float) -> None:
    """Refuse a smallest shading that is none."""
    if not 0 < floor <= 1:
        raise ValueError(
            f"floor={floor!r} must be above 0 and at most 1: it is the smallest shading that is "
            "divided by, where 1 is the average; 0.1 is usual"
        )


def channel_count(grid: Grid) -> int:
    """Return the number of channels; 1 without an axis c."""
    return grid.shape[grid.axis("c")] if "c" in grid.axes else 1


def channel_range(place: Place) -> tuple[int, int]:
    """Return the channels that the array covers."""
    if "c" not in place.grid.axes:
        return 0, 1
    axis = place.grid.axis("c")
    return place.read.start[axis], place.read.stop[axis]


def shading_scratch(fast: float, copies: float) -> Any:
    """Return a scratch rule: bytes for parts of the image, or so many copies of the result.

    Of parts there are a few at a time, each small, and only where they are not contiguous or must
    be converted. Copies are made of images of a dtype that the compiled loops do not know.
    """

    def scratch(image: ImageType) -> float:
        known = _is_known(image.dtype)
        return fast if known else copies * float_dtype(image.dtype).itemsize + 1.0

    return scratch


def _is_known(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biu" or dtype in (np.float32, np.float64)


def shading_loops(image: Any, *others: Any) -> Any:
    """Return the compiled loops; None where they do not know the image's dtype or device."""
    return loops("shading", image, *others) if _is_known(image.dtype) else None


def volumes(
    array: NDArray[Any], names: tuple[str, ...]
) -> Iterator[tuple[int, tuple[slice, ...], NDArray[Any]]]:
    """Cut an array into parts for compiled loops, in C order, each of one channel.

    Yields
    ------
    channel, index, volume
        Where the part lies, and the part: contiguous, read-only, shape ``(n, rows, columns)``.
    """
    lead = names.index("c") + 1 if "c" in names else 0
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    for outer in np.ndindex(array.shape[:lead]):
        for inner in slabs(array.shape[lead:], _PART):
            index = (*(slice(i, i + 1) for i in outer), *inner)
            yield (outer[-1] if lead else 0), index, as_volume(array[index], array.dtype)


def as_volume(part: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a part as compiled loops want it: shape ``(n, rows, columns)``, read-only."""
    part = np.require(part, dtype.newbyteorder("="), ["C", "A"])
    volume = part.reshape(-1, *(1, *part.shape)[-2:])
    volume.flags.writeable = False
    return volume


class Sums(NamedTuple):
    """Sums of finite voxels and their number, for each channel (and each cell)."""

    total: Any
    count: Any


def add_sums(a: Sums, b: Sums) -> Sums:
    """Fold the sums of two blocks."""
    return Sums(a.total + b.total, a.count + b.count)


# -- estimate -------------------------------------------------------------------------------


def _check_fit(grid: Grid, dark: Any) -> None:
    check_dark(dark)
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
    return ValueType("float64", (channel_count(grid), len(FLAT)))


def _fit(partial: Sums, dark: float, grid: Grid) -> Any:
    return fit_surfaces(partial.total, partial.count, dark, _extent(grid))


def _fit_scratch(image: ImageType) -> float:
    # Where a block lies within one cell along y, NumPy makes a mask and a copy without NaN.
    return float(shading_scratch(1.0, 1.0)(image))


@kernel(
    combine=add_sums,
    finalize=_fit,
    value=_fit_value,
    scratch=_fit_scratch,
    cost=0.6,
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
    shape = (channel_count(grid), *(cell_count(n) for n in _extent(grid)))
    exact = image.dtype.kind != "f" and image.dtype.itemsize < 8
    sums = Sums(np.zeros(shape, np.int64 if exact else np.float64), np.zeros(shape, np.int64))
    fast = shading_loops(image)
    if fast is None or (image.dtype.kind != "f" and not exact):
        _add_cells(sums, image, place)
    else:
        _add_cells_fast(fast, sums, image, place)
    return sums


def _add_cells_fast(fast: Any, sums: Sums, image: NDArray[Any], place: Place) -> None:
    grid, read = place.grid, place.read
    rows, columns = (
        cells_of(read.start[i], read.stop[i], grid.shape[i]) for i in map(grid.axis, "yx")
    )
    start, stop = channel_range(place)
    if image.dtype.kind != "f":
        planes = image.size // (rows.size * columns.size * (stop - start))
        along = (
            np.bincount(c, minlength=n)
            for c, n in zip((rows, columns), sums.count.shape[1:], strict=True)
        )
        sums.count[start:stop] = planes * np.multiply.outer(*along)
    for channel, index, volume in volumes(image, grid.axes):
        total, count = (a[start + channel] for a in sums)
        y, x = rows[index[-2]], columns[index[-1]]
        if volume.dtype.kind == "f":
            fast.sum_finite_cells(volume, y, x, total, count)
        else:
            fast.sum_cells(volume, y, x, total)


def _add_cells(sums: Sums, image: Any, place: Place) -> None:
    grid = place.grid
    at_y, at_x = grid.axis("y"), grid.axis("x")
    channels = slice(*channel_range(place))
    start, stop, width = place.read.start[at_x], place.read.stop[at_x], grid.shape[at_x]
    row = cell_range(start, stop, width)
    for cell, rows in cell_slices(place.read.start[at_y], image.shape[at_y], grid.shape[at_y]):
        part = _row_sums(image[(slice(None),) * at_y + (rows,)], grid.axes, sums.total.dtype)
        for to, of in zip(sums, part, strict=True):
            to[channels, cell, row] = sum_cells(of, 1, start, width)


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


# -- division -------------------------------------------------------------------------------


def _check_divide_shading(dark: Any, floor: float) -> None:
    check_dark(dark)
    check_floor(floor)


@kernel(
    dtype="float",
    kind="image",
    scratch=shading_scratch(1.0, 1.05),
    device_scratch=lambda image: float_dtype(image.dtype).itemsize + 1.0,
    cost=0.5,
    check=_check_divide_shading,
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
    work = float_dtype(image.dtype)
    surfaces = [
        _lines(np.asarray(coefficients)[c], place, work) for c in range(*channel_range(place))
    ]
    fast = shading_loops(image)
    if fast is not None:
        return _divide_surface_fast(fast, image, work.type(dark), surfaces, work.type(floor), place)
    result = image.astype(work)
    result -= work.type(dark)
    for i, lines in enumerate(surfaces):
        part = result
        if "c" in place.grid.axes:
            axis = place.grid.axis("c")
            part = result[(slice(None),) * axis + (i,)]
        part /= _surface(array_module(image), lines, work.type(floor))
    return result


Lines = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""A surface is ``y * yx + of_y + of_x``: two numbers for each row, then two for each column."""


def _lines(coefficients: Any, place: Place, dtype: np.dtype[Any]) -> Lines:
    """Return the surface over the y and x that the array covers, in the dtype of the result."""
    one, fy, fx, fyy, fyx, fxx = (float(f) for f in coefficients)

    def along(name: str) -> Any:
        axis = place.grid.axis(name)
        return positions(place.read.start[axis], place.read.stop[axis], place.grid.shape[axis])

    y, x = along("y"), along("x")
    lines = y, fy * y + fyy * y**2, fyx * x, one + fx * x + fxx * x**2
    first, second, third, fourth = (line.astype(dtype) for line in lines)
    return first, second, third, fourth


def _surface(xp: Any, lines: Lines, floor: Any) -> Any:
    y, of_y, yx, of_x = (xp.asarray(line) for line in lines)
    surface = xp.multiply.outer(y, yx)
    surface += of_y[:, None]
    surface += of_x
    return xp.maximum(surface, floor, out=surface)


def _divide_surface_fast(
    fast: Any,
    image: NDArray[Any],
    dark: Any,
    surfaces: list[Lines],
    floor: Any,
    place: Place,
) -> NDArray[Any]:
    result = np.empty(image.shape, dark.dtype)
    for channel, index, volume in volumes(image, place.grid.axes):
        y, of_y, yx, of_x = surfaces[channel]
        rows, columns = index[-2], index[-1]
        out = result[index].reshape(volume.shape)
        lines = y[rows], of_y[rows], yx[columns], of_x[columns]
        fast.divide_by_surface(volume, dark, *lines, floor, out)
    return result
