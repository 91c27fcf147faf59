"""The decorator that makes a kernel of a plain function, by what it declares."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypedDict, Unpack, overload

from lepton_pipe.geometry import Grid, Region
from lepton_pipe.spec import rules
from lepton_pipe.spec.absorb import Absorb
from lepton_pipe.spec.kernel import Kernel
from lepton_pipe.spec.losses import Counting
from lepton_pipe.spec.types import ImageKind, Place, ValueType


class Declared(TypedDict, total=False):
    """What `kernel` takes, by keyword."""

    depth: rules.DepthRule
    dtype: rules.DTypeRule
    kind: ImageKind | Literal["same"] | Callable[..., ImageKind] | None
    scratch: rules.NumberRule
    device_scratch: rules.NumberRule | None
    cost: rules.NumberRule
    check: Callable[..., None] | None
    combine: Callable[..., Any] | None
    finalize: Callable[..., Any] | None
    returns: Literal["value", "table"]
    value: ValueType | Callable[..., ValueType]
    grid: Callable[..., Grid] | None
    needs: Callable[..., Region] | None
    sweep: str | None
    absorb: Absorb | tuple[Absorb, ...]
    counting: Counting | None
    absent: Callable[[Place], Any] | None
    version: str | None


@overload
def kernel(fn: Callable[..., Any], /) -> Kernel: ...
@overload
def kernel(**declared: Unpack[Declared]) -> Callable[[Callable[..., Any]], Kernel]: ...
def kernel(
    fn: Callable[..., Any] | None = None, /, **declared: Unpack[Declared]
) -> Kernel | Callable[[Callable[..., Any]], Kernel]:
    """Mark a function on arrays as a kernel.

    The function is written for one array and knows nothing of blocks. It must not change its
    inputs, and what it computes for a voxel may depend on voxels at most `depth` away. One that
    takes ``place`` may return the voxels ``place.inner`` alone: the others are cut off anyway.

    Parameters
    ----------
    depth
        Voxels that the kernel looks at beyond the one it computes, on every side: a number for
        all spatial axes, a mapping from axis names, or a rule (see `lepton_pipe.spec.rules`).
    dtype
        Of the result: ``"same"`` as the first image, ``"float"`` (float32, or float64 for what
        float32 cannot hold), a dtype, or a rule. Checked on every block.
    kind
        ``"labels"`` for integer objects, ``"same"`` as the first image, or a rule; by default a
        mask for booleans and else an image.
    scratch
        Bytes per voxel of the array handed in that the kernel needs for a moment, besides its
        arguments and its result. A number or a rule; by default three float64 copies.
    device_scratch
        The same of device memory, where the kernel runs on a GPU; by default `scratch`, or three
        float64 copies if that is more.
    cost
        Nanoseconds per voxel on one core, for the planner's choices. A number or a rule.
    check
        A rule that raises `ValueError` when parameters make no sense.
    combine, finalize
        Make the kernel a reduction: ``combine(a, b)`` folds two partials, in block order, and
        may change `a`; ``finalize(partial, ...)`` gives the result.
    returns
        What a reduction gives: ``"value"`` or ``"table"`` (a mapping from column names to arrays).
    value
        Type of a reduction's value, or a rule.
    grid, needs
        Make the kernel a resampling: the result's grid, and the region of the input needed for a
        region of the result. Rules; ``needs`` may also name ``region``.
    sweep
        Name of the parameter that holds the axis along which partials are folded into an image.
    absorb
        What the kernel is, so that it and a filter next to it can be one pass over memory: one
        thing or several, see `lepton_pipe.spec.absorb`.
    counting
        Of a conversion: how it counts what it loses, see `lepton_pipe.spec.losses`.
    absent
        Of a reduction that must hear of every block as a whole: the partial of a block of which
        nothing is known, from its `Place`. By default such a block is left out, and of a block
        that is known in part the known boxes are reduced each by itself.
    version
        Names the version of the code. By default a digest of the source, and of what it calls.

    Examples
    --------
    >>> @lp.kernel(depth=1)
    ... def sharpen(block, amount=1.0):
    ...     return block + (amount * laplace(block)).astype(block.dtype)
    """

    if fn is not None:
        return Kernel(fn)
    return functools.partial(Kernel, **declared)
