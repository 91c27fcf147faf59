"""The shading of an image: sums over the cells of a coarse grid, and a surface fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

CELLS = 64
"""Most cells along y and along x. Bounds what a block contributes: 32 KiB for each channel."""

FLAT = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
"""Coefficients of even illumination."""


def _cell_size(length: int) -> int:
    return -(-length // CELLS)


def cell_count(length: int) -> int:
    """Return the number of cells along an axis."""
    return -(-length // _cell_size(length))


def cell_range(start: int, stop: int, length: int) -> slice:
    """Return the cells that voxels `start` to `stop` of an axis lie in."""
    size = _cell_size(length)
    return slice(start // size, (stop - 1) // size + 1)


def cells_of(start: int, stop: int, length: int) -> Any:
    """Return the cell of each of the voxels `start` to `stop` of an axis."""
    return np.arange(start, stop) // _cell_size(length)


def _edges(start: int, here: int, length: int) -> list[int]:
    """Return where cells begin among `here` voxels, the first of them voxel `start`."""
    size = _cell_size(length)
    return [0, *range(size - start % size, here, size)]


def cell_slices(start: int, here: int, length: int) -> Iterator[tuple[int, slice]]:
    """Yield each cell that an array of `here` voxels touches, and which voxels are in it."""
    edges = _edges(start, here, length)
    first = cell_range(start, start + here, length).start
    for i, (low, high) in enumerate(zip(edges, [*edges[1:], here], strict=True)):
        yield first + i, slice(low, high)


def sum_cells(planes: Any, axis: int, start: int, length: int) -> Any:
    """Sum the voxels of each cell.

    Parameters
    ----------
    planes
        Array whose first voxel along `axis` is voxel `start` of an axis of `length`.
    """
    return np.add.reduceat(planes, _edges(start, planes.shape[axis], length), axis=axis)


def positions(start: int, stop: int, length: int) -> Any:
    """Return where voxels lie along an axis, from -1 to 1 over the whole of it."""
    return (2.0 * np.arange(start, stop) + 1.0) / length - 1.0


def _moments(length: int) -> tuple[Any, Any]:
    """Return the mean position, and the mean of its square, over each cell along an axis."""
    place = positions(0, length, length)
    sizes = sum_cells(np.ones(length), 0, 0, length)
    return sum_cells(place, 0, 0, length) / sizes, sum_cells(place**2, 0, 0, length) / sizes


def _basis(y: Sequence[Any], x: Sequence[Any]) -> Any:
    """Return 1, y, x, yy, yx, xx for every pair of moments along y and x; shape (..., 6)."""
    (y1, y2), (x1, x2) = y, x
    y1, x1 = np.meshgrid(y1, x1, indexing="ij")
    y2, x2 = np.meshgrid(y2, x2, indexing="ij")
    return np.stack([np.ones_like(y1), y1, x1, y2, y1 * x1, x2], axis=-1)


def fit_surfaces(total: Any, count: Any, dark: float, extent: tuple[int, int]) -> Any:
    """Fit a polynomial of second order to the mean of each cell, by least squares.

    Parameters
    ----------
    total, count
        Sum and number of the voxels in each cell, shape ``(channels, cells_y, cells_x)``.
    dark
        Subtracted from every voxel.
    extent
        Voxels along y and x.

    Returns
    -------
    array
        Shape ``(channels, 6)``: factors of 1, y, x, yy, yx and xx. The surface is 1 on average;
        it is 1 everywhere where no voxel counts, or their mean is not above `dark`. An image that
        is such a surface is fitted without error, however coarse the cells.
    """
    basis = _basis(_moments(extent[0]), _moments(extent[1]))
    whole = [[np.mean(positions(0, n, n) ** k) for k in (1, 2)] for n in extent]
    average = _basis(whole[0], whole[1])[0, 0]
    return np.stack(
        [_fit(basis, average, t - dark * c, c) for t, c in zip(total, count, strict=True)]
    )


def _fit(basis: Any, average: Any, total: Any, count: Any) -> Any:
    seen = count > 0
    if not seen.any():
        return FLAT
    weight = np.sqrt(count[seen])
    mean = total[seen] / count[seen]
    found = np.linalg.lstsq(basis[seen] * weight[:, None], mean * weight, rcond=1e-9)[0]
    level = float(found @ average)
    return found / level if level > 0 else FLAT
