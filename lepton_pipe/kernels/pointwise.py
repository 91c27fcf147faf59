"""Kernels that look at one voxel at a time. Arithmetic, comparisons and the like are NumPy's own:
``np.sqrt(image)``, ``a - b`` and ``image > 3`` work in a pipeline with NumPy's rules for dtypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.device import array_module, loops
from lepton_pipe.kernels.casts import DType, checked_dtype, limits
from lepton_pipe.kernels.counts import flat_parts
from lepton_pipe.spec import ImageType, Operation, Place, ValueType, Voxelwise, kernel
from lepton_pipe.spec.rules import float_dtype
from lepton_pipe.spec.types import ImageKind

# -- where ----------------------------------------------------------------------------------


def _where_dtype(a: Any, b: Any) -> np.dtype[Any]:
    samples = [
        np.ones(1, x.dtype)
        if isinstance(x, ImageType)
        else x.sample()
        if isinstance(x, ValueType)
        else x
        for x in (a, b)
    ]
    dtypes = [np.asarray(s).dtype for s in samples]
    result = np.where(np.ones(1, bool), *samples).dtype
    if result.kind == "f" and all(d.kind in "iu" for d in dtypes):
        raise TypeError(
            f"{dtypes[0]} with {dtypes[1]} becomes {result}, which cannot hold integers above "
            "2**53: values would be lost; use astype on one of them first"
        )
    return result


def _where_kind(a: Any, b: Any) -> ImageKind:
    dtype = _where_dtype(a, b)
    kinds = [x.kind for x in (a, b) if isinstance(x, ImageType)]
    if "labels" in kinds and dtype.kind in "iu":
        return "labels"
    return "mask" if dtype == np.bool_ else "image"


def _check_where(a: Any, b: Any) -> None:
    """Refuse a plain number that NumPy would wrap around: its `where` does so in silence."""
    for name, number, other in (("a", a, b), ("b", b, a)):
        dtype = getattr(other, "dtype", None)
        if type(number) is not int or dtype is None or np.dtype(dtype).kind not in "iu":
            continue
        low, high = limits(np.dtype(dtype))
        if not low <= number <= high:
            raise ValueError(
                f"{name}={number} does not fit {dtype}, which holds {low} to {high}: it would "
                "become another number; use astype on the image first"
            )


@kernel(
    dtype=_where_dtype,
    kind=_where_kind,
    scratch=1.0,
    device_scratch=1.0,
    cost=2.0,
    check=_check_where,
)
def where(condition: Any, a: Any, b: Any) -> Any:
    """Choose voxel by voxel: from `a` where the condition holds, else from `b`.

    Parameters
    ----------
    condition
        A mask, such as ``image > 3``. Of another dtype, every value but 0 counts as true.
    a, b
        Images, numbers or values.

    Returns
    -------
    array
        Of the dtype that `a` and `b` have in common; plain numbers take the dtype of the image.
        Labels where `a` or `b` are labels.

    Raises
    ------
    TypeError
        When signed and unsigned 64-bit integers meet, whose common dtype would lose values.
    ValueError
        When a plain number does not fit the image's dtype.
    """
    _check_where(a, b)
    return array_module(condition, a, b).where(condition, a, b)


# -- clip and rescale -----------------------------------------------------------------------


def _check_clip(low: Any, high: Any) -> None:
    if low is None and high is None:
        raise ValueError("clip was given neither low nor high: it would do nothing; give one")
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, float) and bound != bound:
            raise ValueError(f"{name}={bound!r} is not a bound: every voxel would become NaN")
    numbers = [b for b in (low, high) if isinstance(b, (int, float))]
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ValueError(
            f"low={low!r} is above high={high!r}: every voxel would become {high!r}; exchange them"
        )


def _bound(dtype: np.dtype[Any], bound: Any, ceil: bool) -> Any:
    """Return `bound` as a number of an integer dtype that cuts off the same values."""
    if dtype.kind == "f" or (bound is None and dtype.kind != "b"):
        return bound
    if bound is None:
        return np.bool_(not ceil)  # CuPy has no open end for booleans
    if bound != bound:
        raise ValueError(
            f"a bound of clip is {bound!r}: {dtype} has no such value, so nothing could be kept "
            "between the bounds; look at what the bound was computed from"
        )
    low, high = limits(dtype)
    if not low <= bound <= high:
        bound = low if bound < low else high
    whole = int(np.ceil(bound) if ceil else np.floor(bound))
    return np.bool_(whole) if dtype.kind == "b" else whole


def _clips_by_numbers(low: Any, high: Any) -> bool:
    return all(b is None or type(b) in (int, float) for b in (low, high))


def _clip_operations(image: Any, low: Any, high: Any, *, place: Place) -> tuple[Operation, ...]:
    del image, place
    both: tuple[Operation, ...] = (("maximum", low), ("minimum", high))
    return tuple((name, bound) for name, bound in both if bound is not None)


@kernel(
    kind="same",
    scratch=0.5,
    device_scratch=0.5,
    cost=0.5,
    check=_check_clip,
    absorb=Voxelwise(_clip_operations, _clips_by_numbers),
)
def clip(image: Any, low: Any = None, high: Any = None) -> Any:
    """Keep values between two bounds.

    Parameters
    ----------
    image
        Image of any dtype.
    low, high
        Smallest and largest value of the result: numbers, values, or None for no bound. Where
        values turn out with `low` above `high`, everything becomes `high`.

    Returns
    -------
    array
        Of the image's dtype. For integers a bound with a fraction is moved inwards, and one
        beyond the dtype's range to its end. NaN stays NaN.

    Raises
    ------
    ValueError
        When there is no bound, a bound is NaN, or they are the wrong way round.
    """
    bounds = _bound(image.dtype, low, ceil=True), _bound(image.dtype, high, ceil=False)
    return array_module(image).clip(image, *bounds)


def _check_rescale(low: Any, high: Any, out_range: tuple[float, float], dtype: DType) -> None:
    target = checked_dtype(dtype)
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, (int, float)) and not abs(bound) < float("inf"):
            raise ValueError(f"{name}={bound!r} must be finite: it is where the range ends")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and not low < high:
        raise ValueError(
            f"low={low!r} must be below high={high!r}: they are the input values that become "
            f"the ends of out_range={out_range!r}; turn out_range round to invert an image"
        )
    if len(out_range) != 2 or not all(abs(float(e)) < float("inf") for e in out_range):
        raise ValueError(f"out_range={out_range!r} must be two finite numbers")
    if target.kind != "f" and not all(
        limits(target)[0] <= e <= limits(target)[1] for e in out_range
    ):
        raise ValueError(
            f"out_range={out_range!r} does not fit {target}, which holds {limits(target)[0]} to "
            f"{limits(target)[1]}; choose a wider dtype or a smaller range"
        )


def _rescale_work(image: np.dtype[Any], dtype: DType) -> np.dtype[Any]:
    # 32-bit results have more digits than float32.
    target = np.dtype(dtype)
    return np.promote_types(float_dtype(image), target if target.kind != "b" else np.uint8)


def _rescale_scratch(image: ImageType, dtype: DType) -> float:
    work = _rescale_work(image.dtype, dtype)
    quick = _has_loop(image.dtype, np.dtype(dtype)) or work == np.dtype(dtype)
    return 0.5 if quick else work.itemsize + 1.5


def _has_loop(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    known = source.kind in "iu" or source in (np.float32, np.float64)
    return (
        known
        and (target in (np.float32, np.float64) or target.itemsize <= 4)
        and target != np.float16
    )


def _rescale_cost(image: ImageType, dtype: DType) -> float:
    return 0.5 if _has_loop(image.dtype, np.dtype(dtype)) else 3.0


@kernel(
    dtype=checked_dtype,
    scratch=_rescale_scratch,
    device_scratch=lambda image, dtype: _rescale_work(image.dtype, dtype).itemsize + 1.5,
    cost=_rescale_cost,
    check=_check_rescale,
)
def rescale(
    image: Any,
    low: Any = 0.0,
    high: Any = 1.0,
    *,
    out_range: tuple[float, float] = (0.0, 1.0),
    dtype: DType = "float32",
) -> Any:
    """Map values linearly from one range to another, and clip what lies outside.

    Parameters
    ----------
    image
        Image of any dtype.
    low, high
        Input values that become the ends of `out_range`: numbers or values, such as
        ``minimum_of(image)`` or a quantile. Where values turn out with `low` not below `high`
        (an image all of one value), everything becomes the first end.
    out_range
        Ends of the result's range; the larger first inverts the image.
    dtype
        Of the result. To an integer dtype values are rounded, halves to even.

    Returns
    -------
    array
        NaN stays NaN in a float dtype, and becomes the first end of `out_range` in another.

    Raises
    ------
    ValueError
        When `low` is not below `high`, or `out_range` does not fit `dtype`.
    """
    target = np.dtype(dtype)
    first, last = (float(e) for e in out_range)
    numbers = float(low), float(high) - float(low), first, last - first
    fast = loops("casts", image) if _has_loop(image.dtype, target) else None
    if fast is not None:
        return _rescale_fast(fast, image, numbers, target)
    return _rescale(image, numbers, target)


def _rescale_fast(fast: Any, image: Any, numbers: tuple[float, ...], target: np.dtype[Any]) -> Any:
    loop = fast.rescale_to_float if target.kind == "f" else fast.rescale_to_integer
    given = np.array(numbers, _rescale_work(image.dtype, target))
    result = np.empty(image.shape, target)
    out, done = result.reshape(-1).view(np.uint8 if target == np.bool_ else target), 0
    for flat in flat_parts(image):
        loop(flat, given, out[done : done + flat.size])
        done += flat.size
    return result


def _rescale(image: Any, numbers: tuple[float, ...], target: np.dtype[Any]) -> Any:
    xp = array_module(image)
    low, span, first, width = numbers
    result = image.astype(_rescale_work(image.dtype, target))
    result -= low
    if span > 0:
        result /= span
    else:
        result *= 0.0
    result = xp.clip(result, 0.0, 1.0, out=result)
    result *= width
    result += first
    if target.kind == "f":
        return result.astype(target, copy=False)
    result[xp.isnan(result)] = first
    return xp.rint(result, out=result).astype(target)
