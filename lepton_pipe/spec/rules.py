"""Rules that a kernel declares: depth, dtype, scratch, cost, value, grid.

A rule is a constant, or a function that is called with the kernel's own parameters by name: an
image parameter as its `ImageType`, a value as its `ValueType`, everything else as given. The name
``grid`` stands for the grid of the kernel's first image of full rank.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.spec.types import ImageType

DepthRule = int | Mapping[str, int] | Callable[..., Any]
DTypeRule = str | type | np.dtype[Any] | Callable[..., Any]
NumberRule = float | Callable[..., float]


def call_rule(rule: Callable[..., Any], context: Mapping[str, Any]) -> Any:
    """Call `rule` with those entries of `context` that its signature names.

    Raises
    ------
    TypeError
        When the rule names something that the kernel does not have.
    """
    named, needed = _names(rule)
    unknown = [n for n in needed if n not in context]
    if unknown:
        raise TypeError(
            f"the rule {getattr(rule, '__name__', rule)} names {', '.join(unknown)}, which the "
            f"kernel does not have; it can name {', '.join(context)}"
        )
    return rule(**{name: context[name] for name in named if name in context})


@lru_cache(maxsize=256)
def _names(rule: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the parameters of a rule, and those among them that it cannot do without.

    Looked up once: a plan asks some rules about every kind of block it considers.
    """
    named = inspect.signature(rule).parameters
    return tuple(named), tuple(n for n, p in named.items() if p.default is p.empty)


def resolve_depth(rule: DepthRule, grid: Grid, context: Mapping[str, Any]) -> Depth:
    """Return the overlap per axis and side; an entry ``n`` means ``(n, n)``.

    Raises
    ------
    ValueError
        When the rule gives a negative depth, or a part of a voxel.
    """
    value = call_rule(rule, context) if callable(rule) else rule
    entries = grid.per_axis(value, "depth", elsewhere=0)
    pairs = [e if isinstance(e, tuple) else (e, e) for e in entries]
    depth = tuple((int(low), int(high)) for low, high in pairs)
    if depth != tuple(pairs):
        raise ValueError(f"depth {value!r} is not whole voxels; round it up in the depth rule")
    if any(side < 0 for pair in depth for side in pair):
        raise ValueError(f"depth {depth} is negative; a depth rule must give voxels >= 0")
    return depth


def float_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the float dtype that holds every value of `dtype` up to 16 bits; float32 at least."""
    return np.promote_types(dtype, np.float32)


def resolve_dtype(rule: DTypeRule, first: ImageType, context: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the dtype of a result; ``"same"`` and ``"float"`` speak of the first image."""
    if isinstance(rule, str) and rule == "same":
        return first.dtype
    if isinstance(rule, str) and rule == "float":
        return float_dtype(first.dtype)
    if callable(rule) and not isinstance(rule, type):
        called: np.dtype[Any] = np.dtype(call_rule(rule, context))
        return called
    return np.dtype(rule)


def resolve_number(rule: NumberRule, context: Mapping[str, Any]) -> float:
    """Return a scratch factor or cost."""
    return float(call_rule(rule, context) if callable(rule) else rule)


def leading(types: Mapping[str, ImageType]) -> ImageType:
    """Return the image of highest rank, the first of them, if all fit it by broadcasting.

    Raises
    ------
    ValueError
        When one does not.
    """
    first_name, first = max(types.items(), key=lambda item: item[1].grid.rank)
    for name, other in types.items():
        shape, axes = first.grid.shape, first.grid.axes
        n = other.grid.ndim
        fits = all(
            b in (1, a) for a, b in zip(shape[len(shape) - n :], other.grid.shape, strict=True)
        )
        if axes[len(axes) - n :] != other.grid.axes or not fits:
            raise ValueError(
                f"{name} is {''.join(other.grid.axes)}{other.grid.shape} and does not fit "
                f"{first_name}, {''.join(axes)}{shape}: the trailing axes must be the same, and "
                "each as long as the other's or 1"
            )
    return first
