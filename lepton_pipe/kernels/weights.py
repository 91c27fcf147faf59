"""The weights of gaussians and boxes, folded where they reach beyond the image.

An image that is mirrored at its edges repeats itself every ``2 n`` voxels. Weights that reach over
an axis of ``n`` voxels and further are therefore summed over all places that show the same voxel,
which leaves ``2 n`` of them, from ``-n`` to ``n - 1``: the answer is the same, and what it takes no
longer grows with the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erf, sqrt
from typing import Any

import numpy as np

from lepton_pipe.geometry import Grid

# Standard deviations beyond which the exponential is zero in double precision.
_VANISHES = 39.0
# Of more weights than this for each that is left, a sum is as good as its integral: it differs by
# less than 2e-7 of a weight, and for the usual truncation by less than 1e-8.
_SUMMED = 1024


def gaussian_weights(
    sigma: float, truncate: float, order: int = 0, *, length: int | None = None
) -> Any:
    """Return the weights of a gaussian, or of its first derivative; None where it has one alone.

    Parameters
    ----------
    sigma
        Standard deviation in voxels.
    truncate
        Where the gaussian is cut off, in standard deviations.
    order
        0, or 1 for weights that give the slope.
    length
        Voxels of the axis, to fold what reaches beyond.
    """
    limit = truncate * sigma + 0.5
    if limit < 1:
        return None if order == 0 else np.zeros(1)
    if length is not None and limit >= length:
        return _folded_gaussian(sigma, limit, order, length)
    radius = int(limit)
    x = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / sigma**2 * x**2)
    weights /= weights.sum()
    return weights * x / sigma**2 if order == 1 else weights


def _folded_gaussian(sigma: float, limit: float, order: int, length: int) -> Any:
    period = 2 * length
    places = np.arange(-length, length)
    radius = int(min(limit, _VANISHES * sigma, 2.0**60))
    first = places + period * -((radius + places) // period)
    count = (radius - first) // period + 1
    if count.max() <= _SUMMED:
        mass, slope = _sums(first, count, period, sigma)
    else:
        mass, slope = _integrals(first, count, period, sigma)
    return slope / mass.sum() if order == 1 else mass / mass.sum()


def _sums(first: Any, count: Any, period: int, sigma: float) -> tuple[Any, Any]:
    """Return the sums of ``g(x)`` and ``g(x) x / sigma**2`` over every `period`-th voxel."""
    mass, slope = np.zeros(first.size), np.zeros(first.size)
    for turn in range(int(count.max())):
        x = first + turn * period
        g = np.where(turn < count, np.exp(-0.5 * (x / sigma) ** 2), 0)
        mass += g
        slope += g * x / sigma**2
    return mass, slope


def _integrals(first: Any, count: Any, period: int, sigma: float) -> tuple[Any, Any]:
    """Return the same from integrals, from half a period before the first voxel to after the last.

    Both are larger by one factor, which does not matter.
    """
    low = (first - period / 2) / sigma
    high = (first + (count - 0.5) * period) / sigma
    mass = np.array([erf(b / sqrt(2)) - erf(a / sqrt(2)) for a, b in zip(low, high, strict=True)])
    slope = np.exp(-0.5 * low**2) - np.exp(-0.5 * high**2)
    return mass * sqrt(np.pi / 2), slope / sigma


def gaussian_reach(grid: Grid, sigmas: Sequence[float], truncate: float) -> tuple[int, ...]:
    """Return how many voxels gaussians reach to either side, as far as there are any."""
    return tuple(
        int(min(truncate * s + 0.5, n - 1)) for s, n in zip(sigmas, grid.shape, strict=True)
    )


def gaussian_taps(grid: Grid, sigmas: Sequence[float], truncate: float) -> tuple[int, ...]:
    """Return how many weights `gaussian_weights` gives along each axis."""
    limits = (truncate * s + 0.5 for s in sigmas)
    return tuple(
        2 * int(limit) + 1 if limit < n else 1 if limit < 1 else 2 * n
        for limit, n in zip(limits, grid.shape, strict=True)
    )


def box_weights(size: int, length: int) -> Any:
    """Return the weights of a box; None where it has one alone."""
    if size == 1:
        return None
    period = 2 * length
    if size <= period:
        return [1.0 / size] * size
    times, rest = divmod(size, period)
    weights = np.full(period, times / size)
    # What is left over begins at the first voxel of the box.
    begin = (length - size // 2) % period
    weights[(begin + np.arange(rest)) % period] = (times + 1) / size
    return weights


def box_taps(grid: Grid, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return how many weights `box_weights` gives along each axis."""
    return tuple(min(size, 2 * n) for size, n in zip(sizes, grid.shape, strict=True))


def box_depth(grid: Grid, sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return how many voxels boxes reach to both sides, as far as there are any."""
    return tuple(
        (min(size // 2, n - 1), min((size - 1) // 2, n - 1))
        for size, n in zip(sizes, grid.shape, strict=True)
    )
