"""Kernels whose result lies on another grid: a part of the image, or a coarser one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels.windows import Sizes, per_axis_sizes
from lepton_pipe.merge.pyramid import METHODS, Method, downsample_array, has_loop, scratch_bytes
from lepton_pipe.spec import ImageType, Place, kernel

Range = int | Sequence[int | None] | None

# -- crop -----------------------------------------------------------------------------------


def _cropped(grid: Grid, **ranges: Range) -> Region:
    """Return the region that the ranges keep.

    Raises
    ------
    ValueError
        When a range is empty, reaches beyond the image, or is no range.
    UsageError
        When the image has no such axis.
    """
    given = {name: r for name, r in ranges.items() if r is not None}
    start, stop = [0] * grid.ndim, list(grid.shape)
    for name, wanted in given.items():
        axis = grid.axis(name)
        start[axis], stop[axis] = _ends(name, wanted, grid.shape[axis])
    return Region(tuple(start), tuple(stop))


def _ends(name: str, wanted: Any, length: int) -> tuple[int, int]:
    if isinstance(wanted, int):
        wanted = (wanted, wanted + 1 if wanted != -1 else None)
    if (
        not isinstance(wanted, Sequence)
        or len(wanted) != 2
        or not all(e is None or isinstance(e, int) for e in wanted)
    ):
        raise ValueError(
            f"{name}={wanted!r} is no range of voxels: give (start, stop), where None stands for "
            "an end of the image and negative numbers count from its end, or one index"
        )
    ends = [default if e is None else e for e, default in zip(wanted, (0, length), strict=True)]
    first, last = (e + length if e < 0 else e for e in ends)
    if not 0 <= first < last <= length:
        raise ValueError(
            f"{name}={tuple(wanted)!r} leaves nothing or reaches beyond the image, which has "
            f"{length} voxels along {name}: use 0 <= start < stop <= {length}"
        )
    return first, last


def _check_crop(grid: Grid, t: Range, c: Range, z: Range, y: Range, x: Range) -> None:
    _cropped(grid, t=t, c=c, z=z, y=y, x=x)


def _crop_grid(grid: Grid, t: Range, c: Range, z: Range, y: Range, x: Range) -> Grid:
    return grid.crop(_cropped(grid, t=t, c=c, z=z, y=y, x=x))


def _crop_needs(
    grid: Grid, region: Region, t: Range, c: Range, z: Range, y: Range, x: Range
) -> Region:
    return region.shift(_cropped(grid, t=t, c=c, z=z, y=y, x=x).start)


@kernel(
    grid=_crop_grid,
    needs=_crop_needs,
    kind="same",
    scratch=0.0,
    device_scratch=0.5,
    cost=0.1,
    check=_check_crop,
)
def crop(
    image: Any,
    *,
    t: Range = None,
    c: Range = None,
    z: Range = None,
    y: Range = None,
    x: Range = None,
    place: Place,
) -> Any:
    """Keep a part of the image.

    Parameters
    ----------
    image
        Image of any dtype.
    t, c, z, y, x
        What to keep along an axis: ``(start, stop)`` in voxels, where None stands for an end of
        the image and negative numbers count from its end; or one index, which keeps the axis
        with a length of 1. Axes that are not named are kept whole.

    Returns
    -------
    array
        Of the image's dtype. Its voxels keep their positions in the world.

    Raises
    ------
    ValueError
        When a range is empty or reaches beyond the image.
    UsageError
        When the image has no such axis.

    Examples
    --------
    >>> crop(image, z=(10, 20), y=(0, 512), c=0)
    """
    kept = _cropped(place.grid, t=t, c=c, z=z, y=y, x=x).intersect(place.read)
    return image[kept.inside(place.read)]


# -- downsample -----------------------------------------------------------------------------


def _factors(grid: Grid, factor: Sizes) -> tuple[int, ...]:
    return per_axis_sizes(grid, factor, "factor")


def _check_downsample(grid: Grid, image: ImageType, factor: Sizes, method: str | None) -> None:
    _factors(grid, factor)
    if method not in (None, *METHODS):
        raise ValueError(f"method={method!r} is not known; there are {', '.join(METHODS)}")
    if image.kind == "labels" and method in (None, "mean"):
        raise ValueError(
            f"method={method!r} would average labels, and the mean of objects 3 and 5 is not "
            "object 4: use method='nearest' (or 'max')"
        )


def _downsample_grid(grid: Grid, factor: Sizes) -> Grid:
    return grid.coarsen(_factors(grid, factor))


def _downsample_needs(grid: Grid, region: Region, factor: Sizes) -> Region:
    factors = _factors(grid, factor)
    return Region(
        tuple(a * f for a, f in zip(region.start, factors, strict=True)),
        tuple(min(b * f, n) for b, f, n in zip(region.stop, factors, grid.shape, strict=True)),
    )


def _method(dtype: np.dtype[Any], method: Method | None) -> Method:
    return method or ("nearest" if dtype.kind == "b" else "mean")


def _downsample_scratch(
    grid: Grid, image: ImageType, factor: Sizes, method: Method | None
) -> float:
    return scratch_bytes(image.dtype, _factors(grid, factor), _method(image.dtype, method))


def _downsample_cost(grid: Grid, image: ImageType, factor: Sizes, method: Method | None) -> float:
    how, factors = _method(image.dtype, method), _factors(grid, factor)
    if how == "nearest":
        return 0.2
    return 0.4 if how == "mean" and has_loop(image.dtype, factors) else 2.0


@kernel(
    grid=_downsample_grid,
    needs=_downsample_needs,
    kind="same",
    scratch=_downsample_scratch,
    device_scratch=lambda image: 10.0 if image.dtype.itemsize < 8 else 45.0,
    cost=_downsample_cost,
    check=_check_downsample,
)
def downsample(image: Any, factor: Sizes = 2, method: Method | None = None, *, place: Place) -> Any:
    """Make cells of voxels into one voxel each.

    Parameters
    ----------
    image
        Image of any dtype.
    factor
        Voxels of a cell: one number for all spatial axes, one for each, or by axis name.
    method
        ``"mean"``, ``"max"``, ``"min"``, or ``"nearest"`` for the first voxel of the cell. By
        default the mean for images and ``"nearest"`` for masks. Labels are never averaged.

    Returns
    -------
    array
        Of the image's dtype and ``ceil(n / factor)`` voxels along an axis; the last cell is made
        of the voxels that are there. The mean of integers is exact and rounded once, halves to
        the even integer; of a mask it is the majority, and False for a draw. NaN in a cell gives
        NaN, but for ``"nearest"``.

    Raises
    ------
    ValueError
        When a factor is below 1, the method is unknown, or labels would be averaged.
    """
    return downsample_array(image, _factors(place.grid, factor), _method(image.dtype, method))
