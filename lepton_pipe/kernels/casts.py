"""Conversion between dtypes, with a say in what happens to values that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import array_module, loops
from lepton_pipe.errors import CastError
from lepton_pipe.kernels.counts import flat_parts, parts
from lepton_pipe.spec import (
    Counting,
    ImageType,
    Lost,
    Operation,
    Place,
    Rounding,
    Voxelwise,
    kernel,
)
from lepton_pipe.spec.losses import Box
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
    if _loop_name(source, target, cast):
        return 0.5
    return _astype_device_scratch(image, dtype, cast)


def _astype_device_scratch(image: ImageType, dtype: DType, cast: str) -> float:
    source, target = image.dtype, checked_dtype(dtype)
    if np.can_cast(source, target):
        return 0.5
    if target.kind == "f":
        return source.itemsize + target.itemsize + 4.5
    if source.kind != "f":
        return source.itemsize + 3.5
    work = np.promote_types(source, np.float32).itemsize
    return work + 24.5 if cast == "wrap" else 2.0 * work + 3.5


def _astype_cost(image: ImageType, dtype: DType, cast: str) -> float:
    source, target = image.dtype, checked_dtype(dtype)
    quick = np.can_cast(source, target) or _loop_name(source, target, cast)
    return 0.5 if quick else 5.0


def _is_rounding(image: ImageType, dtype: DType, cast: str) -> bool:
    wanted = checked_dtype(dtype) in (np.uint8, np.uint16, np.int16)
    return wanted and cast == "clip" and image.dtype.kind == "f"


def _keeps_values(image: ImageType, dtype: DType) -> bool:
    return bool(np.can_cast(image.dtype, checked_dtype(dtype)))


def _nothing_besides(
    image: Any, dtype: DType, *, cast: Cast, place: Place
) -> tuple[Operation, ...]:
    """Return what is done besides making floats of the image: nothing."""
    del image, dtype, cast, place
    return ()


def _loses_values(image: ImageType, dtype: DType, cast: str) -> bool:
    return cast != "raise" and not _keeps_values(image, dtype)


def _astype_counted(
    image: Any, dtype: DType, *, cast: Cast, place: Place, boxes: Sequence[Box]
) -> tuple[Any, Lost]:
    """Convert, and count what is lost in parts of the image."""
    target = np.dtype(dtype)
    found = _converted_by_loop(image, target, cast)
    if found is not None and not found[1] and target.kind != "f":
        return found[0], Lost()
    made = found[0] if found is not None else astype.fn(image, dtype, cast=cast, place=place)
    return made, _summed(count_lost(image[box], target) for box in boxes)


def _lost_masks(image: Any, dtype: DType, *, cast: Cast, place: Place) -> tuple[Any, Any, Any]:
    """Return masks of what is lost, see `Counting`."""
    del cast, place
    xp, lost = array_module(image), _lost(image, np.dtype(dtype))
    if image.dtype.kind != "f":
        nothing = image != image
        return nothing, nothing, lost
    return xp.isnan(image), xp.isinf(image), lost & xp.isfinite(image)


@kernel(
    dtype=checked_dtype,
    kind=_astype_kind,
    scratch=_astype_scratch,
    device_scratch=_astype_device_scratch,
    cost=_astype_cost,
    check=_check_cast,
    absorb=(Rounding(_is_rounding), Voxelwise(_nothing_besides, _keeps_values)),
    counting=Counting(_loses_values, _astype_counted, _lost_masks),
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
    found = _converted_by_loop(image, target, cast)
    if found is not None:
        result, lost = found
        if lost and cast == "raise":
            _refuse_loss(image[place.inner], target)
        return result
    if cast == "raise":
        _refuse_loss(image[place.inner], target)
    if target.kind == "f":
        return _to_float(image, target, cast)
    if image.dtype.kind == "f":
        return _float_to_integer(image, target, cast)
    return _integer_to_integer(image, target, cast)


def _loop_name(source: np.dtype[Any], target: np.dtype[Any], cast: str) -> str:
    """Return the compiled loop that converts between two dtypes; empty where there is none."""
    if cast == "wrap":
        return ""
    if source.kind != "f":
        return "integer_to_integer" if target.kind != "f" else ""
    if source not in (np.float32, np.float64):
        return ""
    if target.kind != "f":
        return "float_to_integer" if target.itemsize <= 4 else ""
    return "double_to_single" if target == np.float32 else ""


def _converted_by_loop(
    image: Any, target: np.dtype[Any], cast: Cast
) -> tuple[NDArray[Any], int] | None:
    """Return what `_by_loop` does; None where there is no loop."""
    name = _loop_name(image.dtype, target, cast)
    fast = loops("casts", image) if name else None
    return None if fast is None else _by_loop(getattr(fast, name), image, target)


def _by_loop(loop: Any, image: NDArray[Any], target: np.dtype[Any]) -> tuple[NDArray[Any], int]:
    """Return the converted image, and how many of its values were lost."""
    result = np.empty(image.shape, target)
    out = result.reshape(-1).view(np.uint8 if target == np.bool_ else target)
    ends, done, lost = _loop_ends(image.dtype, target), 0, 0
    for flat in flat_parts(image):
        lost += loop(flat, *ends, out[done : done + flat.size])
        done += flat.size
    return result, lost


def _loop_ends(source: np.dtype[Any], target: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the numbers between which a loop keeps values, of a dtype that holds them."""
    if target.kind == "f":
        return (target.type(_top(target)),)
    low, high = limits(target)
    if source.kind == "f":
        work = np.dtype(np.float64) if target.itemsize > 2 else source
        return work.type(low), work.type(high)
    theirs = limits(source)
    return source.type(max(low, theirs[0])), source.type(min(high, theirs[1]))


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


def count_lost(image: Any, target: np.dtype[Any]) -> Lost:
    """Count the voxels that are NaN, infinite, or finite and out of the range of `target`."""
    if image.dtype.kind != "f":
        return Lost(0, 0, sum(int(_lost(part, target).sum()) for part in parts(image)))
    # What a loop of the CPU can convert it can count, whatever is made of it.
    fast = loops("casts", image) if _loop_name(image.dtype, target, "clip") else None
    if fast is not None and target.kind != "f":
        ends = _loop_ends(image.dtype, target)
        return _summed(Lost(*fast.lost_floats(flat, *ends)) for flat in flat_parts(image))
    return _summed(_lost_floats(part, target) for part in parts(image))


def _summed(counts: Iterable[Lost]) -> Lost:
    """Return counts added up."""
    return reduce(Lost.add, counts, Lost())


def _lost_floats(part: Any, target: np.dtype[Any]) -> Lost:
    xp = array_module(part)
    out = _lost(part, target) & xp.isfinite(part)
    return Lost(*(int(mask.sum()) for mask in (xp.isnan(part), xp.isinf(part), out)))


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
