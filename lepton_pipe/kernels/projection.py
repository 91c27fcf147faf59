"""Projection of an image along one of its axes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from lepton_pipe.device import array_module
from lepton_pipe.geometry import Grid
from lepton_pipe.spec import ImageType, Place, kernel
from lepton_pipe.spec.rules import float_dtype
from lepton_pipe.spec.types import ImageKind

How = Literal["max", "min", "mean", "sum"]
_FOLDS: dict[str, np.ufunc] = {
    "max": np.maximum,
    "min": np.minimum,
    "mean": np.add,
    "sum": np.add,
}


class Projected(NamedTuple):
    """What a slab contributes: the fold over its planes, with the swept axis of length 1."""

    how: How
    fold: Any
    dtype: np.dtype[Any]
    planes: int


def _check(grid: Grid, axis: str, how: str, keepdims: bool) -> None:
    if not isinstance(axis, str):
        raise TypeError(
            f"axis={axis!r} must be the name of an axis, one of {', '.join(grid.axes)}: the number "
            "of an axis changes with the image"
        )
    grid.axis(axis)
    if how not in _FOLDS:
        raise ValueError(f"how={how!r} is not known; there are {', '.join(_FOLDS)}")
    if grid.ndim == 1 and not keepdims:
        raise ValueError(
            f"the image has no axis but {axis}: nothing would be left; use keepdims=True, or a "
            "reduction such as maximum_of"
        )


def _sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype({"b": np.uint64, "u": np.uint64, "i": np.int64, "f": np.float64}[dtype.kind])


def _result_dtype(dtype: np.dtype[Any], how: How) -> np.dtype[Any]:
    if how == "sum":
        return _sum_dtype(dtype)
    return float_dtype(dtype) if how == "mean" else dtype


def _dtype(image: ImageType, how: How) -> np.dtype[Any]:
    return _result_dtype(image.dtype, how)


def _kind(image: ImageType, how: How) -> ImageKind:
    return image.kind if how in ("max", "min") else "image"


def _cost(how: How) -> float:
    return 0.3 if how in ("max", "min") else 0.6


def _grid(grid: Grid, axis: str, keepdims: bool) -> Grid:
    at = grid.axis(axis)
    return grid.flatten(at) if keepdims else grid.drop(at)


def _combine(a: Projected, b: Projected) -> Projected:
    fold = _FOLDS[a.how](a.fold, b.fold, out=a.fold)
    return Projected(a.how, fold, a.dtype, a.planes + b.planes)


def _finalize(partial: Projected, axis: str, keepdims: bool, grid: Grid) -> Any:
    at = grid.axis(axis)
    result = partial.fold
    if partial.how == "mean":
        result = (result / np.float64(partial.planes)).astype(partial.dtype, copy=False)
    return (
        result
        if keepdims
        else result.reshape(tuple(n for i, n in enumerate(result.shape) if i != at))
    )


@kernel(
    sweep="axis",
    grid=_grid,
    dtype=_dtype,
    kind=_kind,
    combine=_combine,
    finalize=_finalize,
    scratch=0.1,
    cost=_cost,
    check=_check,
)
def project(
    image: Any,
    axis: str = "z",
    how: How = "max",
    *,
    keepdims: bool = False,  # noqa: ARG001  the rules and finalize read it
    place: Place,
) -> Any:
    """Project along an axis.

    Parameters
    ----------
    image
        Image of any dtype.
    axis
        Name of the axis to project along.
    how
        ``"max"``, ``"min"``, ``"mean"`` or ``"sum"``.
    keepdims
        Whether to keep the axis, with a single voxel as long as the whole axis was.

    Returns
    -------
    array
        The maximum and minimum are of the image's dtype. The sum is int64 or uint64 for integers
        and masks, exact as long as it fits, and float64 for floats. The mean is float32 (float64
        for inputs that float32 cannot hold): exact sums divided once for integers of up to 32
        bits, sums in float64 for others. NaN anywhere along the axis gives NaN.

    Raises
    ------
    ValueError
        When `how` is unknown, or the image has no other axis.
    TypeError
        When `axis` is no name.
    UsageError
        When the image has no such axis.
    """
    at = place.grid.axis(axis)
    xp = array_module(image)
    if how in ("max", "min"):
        fold = (xp.max if how == "max" else xp.min)(image, axis=at, keepdims=True)
    else:
        wide = _sum_dtype(image.dtype)
        if how == "mean" and image.dtype.kind in "iu" and image.dtype.itemsize == 8:
            wide = np.dtype(np.float64)
        fold = xp.sum(image, axis=at, keepdims=True, dtype=wide)
    return Projected(how, fold, _result_dtype(image.dtype, how), image.shape[at])
