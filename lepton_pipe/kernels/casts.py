"""Conversion between dtypes, with a say in what happens to values that do not fit."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lepton_pipe.device import array_module
from lepton_pipe.errors import CastError
from lepton_pipe.spec import ImageType, Place, kernel
from lepton_pipe.spec.types import ImageKind

Cast = Literal["raise", "clip", "wrap"]
DType = str | type | np.dtype[Any]


def checked_dtype(dtype: DType) -> np.dtype[Any]:
    """Return the dtype that is meant.

    Raises
    ------
    ValueError
        When there is no such dtype, or it cannot hold an image.
    """
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise ValueError(
            f"dtype={dtype!r} is no dtype that NumPy knows; use a name such as 'uint8' or 'float32'"
        ) from error
    if found.kind not in "biuf":
        raise ValueError(
            f"dtype={dtype!r} cannot hold an image; use a boolean, integer or float dtype"
        )
    return found


def _check_cast(dtype: DType, cast: str) -> None:
    checked_dtype(dtype)
    if cast not in ("raise", "clip", "wrap"):
        raise ValueError(
            f"cast={cast!r} is not known: 'raise' refuses to lose values, 'clip' takes the "
            "nearest value there is, 'wrap' keeps the low bits"
        )


def _astype_kind(image: ImageType, dtype: DType) -> ImageKind:
    target = checked_dtype(dtype)
    if target == np.bool_:
        return "mask"
    return "labels" if image.kind == "labels" and target.kind in "iu" else "image"


def _astype_scratch(image: ImageType, dtype: DType, cast: str) -> float:
    """Return the floats on the way to an integer, and masks of what is out of range."""
    source, target = image.dtype, checked_dtype(dtype)
    if np.can_cast(source, target):
        return 0.5
    if target.kind == "f":
        return source.itemsize + target.itemsize + 4.5
    if source.kind != "f":
        return source.itemsize + 3.5
    work = np.promote_types(source, np.float32).itemsize
    return work + 24.5 if cast == "wrap" else 2.0 * work + 3.5


@kernel(
    dtype=checked_dtype,
    kind=_astype_kind,
    scratch=_astype_scratch,
    cost=1.5,
    check=_check_cast,
)
def astype(image: Any, dtype: DType, *, cast: Cast = "raise", place: Place) -> Any:
    """Convert to another dtype, and say what happens to values that it cannot hold.

    Parameters
    ----------
    image
        Image of any dtype.
    dtype
        The dtype wanted: a name such as ``"uint8"``, or NumPy's.
    cast
        ``"raise"`` stops when a value is lost. ``"clip"`` takes the nearest value that the dtype
        has, and 0 for NaN. ``"wrap"`` keeps the low bits of integers, as C does; NaN and infinity
        become 0.

    Returns
    -------
    array
        Floats are rounded to the nearest integer, halves to the even one, in all three cases:
        rounding is not a loss, and neither are the digits that a smaller float or a float of a
        large integer lacks. A value is lost when it is NaN or infinite and the dtype is an
        integer, or beyond the dtype's range. As a mask, 0 and 1 are in range; with ``"wrap"``
        everything but 0 is true.

    Raises
    ------
    CastError
        With ``cast="raise"``, when a value of the block would be lost.
    """
    target = np.dtype(dtype)
    if np.can_cast(image.dtype, target):
        return image.astype(target)
    if cast == "raise":
        _refuse_loss(image[place.inner], target)
    if target.kind == "f":
        return _to_float(image, target, cast)
    if image.dtype.kind == "f":
        return _float_to_integer(image, target, cast)
    return _integer_to_integer(image, target, cast)


def limits(target: np.dtype[Any]) -> tuple[int, int]:
    """Return the smallest and largest value of an integer or boolean dtype."""
    if target == np.bool_:
        return 0, 1
    info = np.iinfo(target)
    return int(info.min), int(info.max)


def _wide(block: Any) -> Any:
    """Round to whole numbers, in a float that can compare them with any integer limit."""
    return array_module(block).rint(block.astype(np.promote_types(block.dtype, np.float32)))


def _lost(block: Any, target: np.dtype[Any]) -> Any:
    """Return a mask of the values that `target` cannot hold."""
    if target.kind == "f":
        xp = array_module(block)
        with np.errstate(over="ignore"):
            return xp.isfinite(block) & xp.isinf(block.astype(target))
    low, high = limits(target)
    if block.dtype.kind == "f":
        whole = _wide(block)
        return ~((whole >= float(low)) & (whole < float(high + 1)))
    source = limits(block.dtype)
    return (block < max(low, source[0])) | (block > min(high, source[1]))


def _refuse_loss(block: Any, target: np.dtype[Any]) -> None:
    lost = _lost(block, target)
    count = int(lost.sum())
    if count:
        example = block[lost][0].item()
        low, high = limits(target) if target.kind != "f" else (-_top(target), _top(target))
        raise CastError(
            f"{count} of {block.size} values cannot be {target}, {example!r} for one: it holds "
            f"{low} to {high}; use cast='clip' for the nearest value there is, cast='wrap' to keep "
            "the low bits, or rescale first"
        )


def _top(target: np.dtype[Any]) -> float:
    return float(np.finfo(target).max)


def _to_float(block: Any, target: np.dtype[Any], cast: Cast) -> Any:
    with np.errstate(over="ignore"):
        result = block.astype(target)
    if cast != "wrap":
        xp, top = array_module(block), target.type(_top(target))
        over = _lost(block, target)
        result[over] = xp.where(block[over] > 0, top, -top)
    return result


def _float_to_integer(block: Any, target: np.dtype[Any], cast: Cast) -> Any:
    xp = array_module(block)
    whole = _wide(block)
    low, high = limits(target)
    if cast == "wrap":
        return _wrapped(xp, whole, target)
    inside = (whole >= float(low)) & (whole < float(high + 1))
    result = xp.where(inside, whole, 0).astype(target)
    result[whole >= float(high + 1)] = high
    result[whole < float(low)] = low
    return result


def _wrapped(xp: Any, whole: Any, target: np.dtype[Any]) -> Any:
    whole = xp.where(xp.isfinite(whole), whole, 0)
    if target == np.bool_:
        return whole != 0
    # Exact: fmod is, and what is folded into the range of int64 is a multiple of 2**11.
    whole = xp.fmod(whole.astype(np.float64), 2.0**64)
    whole = xp.where(whole >= 2.0**63, whole - 2.0**64, whole)
    whole = xp.where(whole < -(2.0**63), whole + 2.0**64, whole)
    return whole.astype(np.int64).astype(target)


def _integer_to_integer(block: Any, target: np.dtype[Any], cast: Cast) -> Any:
    if cast == "wrap":
        return block.astype(target)
    ours, theirs = limits(target), limits(block.dtype)
    low, high = max(ours[0], theirs[0]), min(ours[1], theirs[1])
    return array_module(block).clip(block, low, high).astype(target)
