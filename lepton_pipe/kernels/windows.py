"""Windows: how far a kernel looks along each axis, and which voxels it looks at.

The kernels of `filters` and `morphology` take their windows from here, so that ``size=3`` and
``footprint`` mean the same everywhere, and a bad one gives the same message.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral, Real
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, load, loops, own_kernels
from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.kernels.boxes import box_extreme
from lepton_pipe.spec import ImageType
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH

PerAxis = float | Sequence[float] | Mapping[str, float]
Sizes = int | Sequence[int] | Mapping[str, int]


def _is_number(value: Any, family: type) -> bool:
    return isinstance(value, family) and not isinstance(value, bool)


def per_axis_numbers(grid: Grid, value: Any, name: str) -> tuple[float, ...]:
    """Spread a parameter over the axes, 0 elsewhere, and hold every entry to be a number >= 0.

    Raises
    ------
    ValueError
        When an entry is no number, NaN, infinite or below 0.
    UsageError
        When the number of entries does not fit the axes.
    """
    entries = grid.per_axis(value, name, elsewhere=0.0)
    for entry in entries:
        if not _is_number(entry, Real):
            raise ValueError(
                f"{name}={value!r} is not known before the run, or no number: how far a kernel "
                "looks must be known when the plan is made; give numbers, in voxels"
            )
        if not 0 <= entry < float("inf"):
            raise ValueError(
                f"{name}={value!r} must be at least 0 and finite: it is a width in "
                "voxels; correct it, or leave the kernel out where nothing should be done"
            )
    return tuple(float(e) for e in entries)


def check_size(grid: Grid, size: Sizes) -> None:
    """Raise where a window of that size makes no sense, as `per_axis_sizes` does."""
    per_axis_sizes(grid, size)


def per_axis_sizes(grid: Grid, size: Any, name: str = "size") -> tuple[int, ...]:
    """Spread a window's size over the axes; 1 along t and c unless they are named.

    Raises
    ------
    ValueError
        When a size is no whole number, or below 1.
    UsageError
        When the number of sizes does not fit the axes.
    """
    sizes = grid.per_axis(size, name, elsewhere=1)
    for entry in sizes:
        if not _is_number(entry, Integral) or entry < 1:
            raise ValueError(
                f"{name}={size!r} must be made of whole numbers of at least 1: a window has at "
                "least the voxel itself; use 1 for an axis that should be left alone"
            )
    return tuple(int(s) for s in sizes)


@dataclass(frozen=True)
class Window:
    """The voxels around one that a kernel looks at.

    Attributes
    ----------
    shape
        Extent along each axis. The voxel itself lies at ``shape // 2``, as in `scipy.ndimage`:
        an even window reaches one voxel further to the low side.
    footprint
        Which voxels of that box count, or None for all of them.
    """

    shape: tuple[int, ...]
    footprint: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    @property
    def depth(self) -> Depth:
        """Voxels looked at on the low and the high side of each axis."""
        return tuple((n // 2, (n - 1) // 2) for n in self.shape)

    @property
    def mirrored_depth(self) -> Depth:
        """The depth of the window turned around its centre."""
        return tuple((hi, lo) for lo, hi in self.depth)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sum of both sides: how far a window followed by its mirror image reaches."""
        return tuple(n - 1 for n in self.shape)

    def within(self, grid: Grid) -> Window:
        """Return the window without what lies beyond the image from any of its voxels."""
        sides = [
            (min(low, n - 1), min(high, n - 1))
            for (low, high), n in zip(self.depth, grid.shape, strict=True)
        ]
        shape = tuple(low + high + 1 for low, high in sides)
        if self.footprint is None:
            return Window(shape)
        starts = [n // 2 - low for n, (low, _) in zip(self.shape, sides, strict=True)]
        cells = self.footprint[tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))]
        if not cells.any():
            return self  # all that counts lies beyond, wherever the voxel
        return Window(shape, None if cells.all() else cells)


def window(
    grid: Grid, size: Any, footprint: Any = None, radius: Any = None, *, beyond: bool = False
) -> Window:
    """Make the window that a kernel's parameters describe; 3 voxels wide if none is given.

    Parameters
    ----------
    beyond
        Whether voxels beyond the image count. Else the window is no larger than it need be.

    Raises
    ------
    ValueError
        When more than one of them is given, or one of them makes no sense.
    UsageError
        When the number of sizes or radii does not fit the axes.
    """
    given = {"size": size, "footprint": footprint, "radius": radius}
    named = [f"{n}={v!r}" for n, v in given.items() if v is not None]
    if len(named) > 1:
        raise ValueError(
            f"{' and '.join(named)} were given, but each describes the whole window: "
            "keep one of size, footprint and radius"
        )
    if footprint is not None:
        given_cells = _from_footprint(grid, footprint)
        return given_cells if beyond else given_cells.within(grid)
    if radius is not None:
        return _from_radius(grid, radius, beyond=beyond)
    made = Window(per_axis_sizes(grid, 3 if size is None else size))
    return made if beyond else made.within(grid)


def _from_footprint(grid: Grid, footprint: Any) -> Window:
    cells = np.asarray(footprint)
    if cells.dtype.kind not in "biuf":
        raise ValueError(f"footprint={footprint!r} must be a small array of zeros and ones")
    cells = cells != 0
    spatial = len(grid.spatial)
    if cells.ndim not in (spatial, grid.ndim):
        raise ValueError(
            f"the footprint has {cells.ndim} axes (shape {cells.shape}), but the image has axes "
            f"{''.join(grid.axes)}: give one with {spatial}, for its spatial axes; "
            "footprint[None] makes a flat one of a plane"
        )
    if not cells.any():
        raise ValueError(
            f"the footprint of shape {cells.shape} is empty: no voxel would count; set at least "
            "its centre"
        )
    if cells.ndim < grid.ndim:
        extents = iter(cells.shape)
        cells = cells.reshape([next(extents) if i in grid.spatial else 1 for i in range(grid.ndim)])
    return Window(cells.shape, None if cells.all() else cells)


def _from_radius(grid: Grid, radius: Any, *, beyond: bool) -> Window:
    radii = per_axis_numbers(grid, radius, "radius")
    reach = [int(r if beyond else min(r, n - 1)) for r, n in zip(radii, grid.shape, strict=True)]
    square = np.zeros((1,) * grid.ndim)
    for i, (r, n) in enumerate(zip(radii, reach, strict=True)):
        if n > 0:
            offsets = np.arange(-n, n + 1) / r
            square = square + (offsets**2).reshape([-1 if j == i else 1 for j in range(grid.ndim)])
    # The tolerance keeps voxels that lie exactly on the sphere, whatever the division rounds to.
    cells = square <= 1 + 1e-12
    return Window(cells.shape, None if cells.all() else cells)


def item_bytes(number: float) -> Any:
    """Return a scratch rule: so many copies of the image."""

    def scratch(image: ImageType) -> float:
        return number * image.dtype.itemsize + 0.5

    return scratch


def extreme(block: Any, over: Window, ufunc: np.ufunc, *, mirrored: bool = False) -> Any:
    """Return the minimum or maximum over a window, in an array's own dtype.

    Voxels beyond the array's edge are left out. NaN in the window gives NaN. Every voxel is a
    function of its window alone, so the result is the same for any block.

    Parameters
    ----------
    ufunc
        `numpy.minimum` or `numpy.maximum`.
    mirrored
        Whether the window is turned around its centre, as a dilation does.
    """
    depth = over.mirrored_depth if mirrored else over.depth
    cells = None if over.footprint is None else _turned(over.footprint, mirrored)
    largest = ufunc is np.maximum
    ours = own_kernels("extremes", block)
    if ours is not None and ours.fits(block.shape, block.dtype, cells):
        return ours.extreme(block, cells, depth, largest=largest)
    if cells is None and isinstance(block, np.ndarray):
        return box_extreme(block, depth, ufunc, _outside(block.dtype, ufunc))
    fast = loops("ranks", block)
    if fast is not None and fast.fits(block, over.shape):
        return fast.extreme(block, cells, [low for low, _ in depth], largest=largest)
    return extreme_by_steps(block, over, ufunc, mirrored=mirrored)


def is_shared(over: Window) -> bool:
    """Tell whether a window is small enough for the programs of `lepton_pipe.compiled.ranks`.

    As its `fits` does, without loading it.
    """
    return prod(over.shape) <= 1000 and sum(n > 1 for n in over.shape[:-1]) <= 2


def extreme_copies(over: Window) -> float:
    """Return how many copies of its array `extreme` needs besides the result, on the CPU."""
    return 0.6 if over.footprint is None or is_shared(over) else 4.1


def extreme_device_bytes(over: Window, image: ImageType) -> float:
    """Return the bytes per voxel that `extreme` needs on a device besides the result."""
    ours = load("lepton_pipe.cuda.extremes")
    if ours.fits(image.grid.shape, image.dtype, over.footprint):
        return 2.1 * image.dtype.itemsize
    # Footprints are gone through row by row, each with an image of its own.
    return max(UNDECLARED_SCRATCH, 6.5 * image.dtype.itemsize)


def extreme_cost(over: Window, dtype: np.dtype[Any]) -> float:
    """Return the nanoseconds per voxel of `extreme`, as measured."""
    if over.footprint is None:
        return 0.5 * dtype.itemsize
    rows = float(np.count_nonzero(over.footprint.any(axis=-1)))
    return 1.0 + (0.07 if is_shared(over) else 0.15) * rows * dtype.itemsize


def _turned(cells: Any, mirrored: bool) -> Any:
    return cells[(slice(None, None, -1),) * cells.ndim] if mirrored else cells


def extreme_by_steps(block: Any, over: Window, ufunc: np.ufunc, *, mirrored: bool = False) -> Any:
    """Return what `extreme` does, by operations on whole arrays.

    Notes
    -----
    A box is taken axis by axis, each in a number of steps that grows with the logarithm of its
    size. Any other footprint is a union of rows along the last axis: the extreme of a row of one
    length is computed once and used wherever the footprint has such a row.
    """
    depth = over.mirrored_depth if mirrored else over.depth
    if over.footprint is None:
        whole = block
        for axis, sides in enumerate(depth):
            if sides != (0, 0):
                only = tuple(sides if i == axis else (0, 0) for i in range(block.ndim))
                block = _padded(block, only, ufunc)
                block = _along(block, sum(sides) + 1, ufunc, axis)
        return block.copy() if block is whole else block
    cells = _turned(over.footprint, mirrored)
    return _over_rows(_padded(block, depth, ufunc), block.shape, _rows(cells), ufunc)


def _outside(dtype: np.dtype[Any], ufunc: np.ufunc) -> Any:
    """Return the value that never wins."""
    if dtype.kind == "b":
        return ufunc is np.minimum
    if dtype.kind == "f":
        return np.inf if ufunc is np.minimum else -np.inf
    info = np.iinfo(dtype)
    return info.max if ufunc is np.minimum else info.min


def _padded(block: Any, depth: Depth, ufunc: np.ufunc) -> Any:
    fill = _outside(block.dtype, ufunc)
    return array_module(block).pad(block, depth, mode="constant", constant_values=fill)


def _along(padded: Any, length: int, ufunc: np.ufunc, axis: int) -> Any:
    """Return the extreme of every run of `length` voxels, at the place of its first."""

    def part(array: Any, start: int, stop: int) -> Any:
        return array[(slice(None),) * axis + (slice(start, stop),)]

    n = padded.shape[axis]
    covered, result = 1, padded
    while covered < length:
        step = min(covered, length - covered)
        now = n - covered + 1
        result = ufunc(part(result, 0, now - step), part(result, step, now))
        covered += step
    return result


def _rows(cells: Any) -> dict[int, list[tuple[int, ...]]]:
    """Return the runs of a footprint along its last axis: their first voxels, by length."""
    rows: dict[int, list[tuple[int, ...]]] = {}
    for lead in np.ndindex(cells.shape[:-1]):
        start = 0
        for inside, run in itertools.groupby(cells[lead]):
            length = len(list(run))
            if inside:
                rows.setdefault(length, []).append((*lead, start))
            start += length
    return rows


def _over_rows(
    padded: Any,
    shape: tuple[int, ...],
    rows: Mapping[int, Sequence[tuple[int, ...]]],
    ufunc: np.ufunc,
) -> Any:
    result: Any = None
    for length, starts in rows.items():
        run = _along(padded, length, ufunc, padded.ndim - 1)
        for start in starts:
            view = run[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
            result = view.copy() if result is None else ufunc(result, view, out=result)
        del run, view  # or they live on while the next run is made
    return result
