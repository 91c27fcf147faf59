"""Neighbourhood filters. Parameters speak of the spatial axes z, y, x unless given per axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_pipe.device import ndimage
from lepton_pipe.geometry import Grid
from lepton_pipe.spec import Place, kernel
from lepton_pipe.spec.rules import float_dtype

PerAxis = float | Sequence[float] | Mapping[str, float]


def _gaussian_radius(grid: Grid, sigma: PerAxis, truncate: float) -> tuple[int, ...]:
    return tuple(int(truncate * s + 0.5) for s in grid.per_axis(sigma, "sigma", elsewhere=0.0))


def _check_gaussian(grid: Grid, sigma: PerAxis, truncate: float) -> None:
    sigmas = grid.per_axis(sigma, "sigma", elsewhere=0.0)
    if any(not s >= 0 for s in sigmas):
        raise ValueError(f"sigma={sigma!r} must not be negative: it is a width in voxels")
    if not truncate > 0:
        raise ValueError(f"truncate={truncate!r} must be positive")


@kernel(depth=_gaussian_radius, dtype="float", scratch=8.0, cost=32.0, check=_check_gaussian)
def gaussian(block: Any, sigma: PerAxis = 1.0, *, truncate: float = 4.0, place: Place) -> Any:
    """Smooth with a gaussian.

    Parameters
    ----------
    sigma
        Standard deviation in voxels: one for all spatial axes, one for each, or by axis name.
    truncate
        Where the gaussian is cut off, in standard deviations.

    Returns
    -------
    array
        float32 (float64 for inputs that float32 cannot hold), mirrored at the edges
        (``reflect``), as `scipy.ndimage.gaussian_filter` gives.
    """
    block = block.astype(float_dtype(block.dtype), copy=False)
    sigmas = place.grid.per_axis(sigma, "sigma", elsewhere=0.0)
    return ndimage(block).gaussian_filter(block, sigmas, truncate=truncate)
