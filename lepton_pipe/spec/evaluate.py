"""The reference answer: a bound pipeline computed on whole arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from lepton_pipe.device import frozen
from lepton_pipe.errors import KernelError
from lepton_pipe.geometry import Grid
from lepton_pipe.spec.blame import blamed
from lepton_pipe.spec.canonical import Ref, Spec, Step
from lepton_pipe.spec.types import ImageType, PerBlock, Place


def evaluate(spec: Spec, arrays: Mapping[str, Any], *, told: str = "") -> dict[str, Any]:
    """Compute every output from whole arrays, each kernel once.

    Parameters
    ----------
    arrays
        One array for each input image, of the shape and dtype that the pipeline was bound to.
    told
        What the arrays are: where a kernel raises, `KernelError` says what and where. By default
        what it raises is raised.

    Returns
    -------
    dict
        An array, scalar, or mapping of columns for each output.
    """
    results: dict[str, Any] = dict(arrays)
    for step in spec.steps:
        if step.kernel is not None:
            with blamed(step, told) if told else nullcontext():
                results[step.id] = compute_step(spec, step, results)
    return {name: results[step_id] for name, step_id in spec.outputs.items()}


def compute_step(spec: Spec, step: Step, results: Mapping[str, Any]) -> Any:
    """Compute one step on whole arrays, or a value from values."""
    if step.kernel is None:
        raise ValueError(f"{step.id} is an input; there is nothing to compute")
    args = {n: _argument(a, results) for n, a in step.args.items()}
    if not spec.image_inputs(step):
        return as_value(step.kernel.run(args, None))
    grid = spec.leading_grid(step)
    partial = step.kernel.run(args, whole_place(step, grid))
    if step.kernel.combine is not None:
        return finish_step(spec, step, partial, results)
    check_result(step, partial, spec.image_type(step.id).grid.shape)
    return partial


def finish_step(spec: Spec, step: Step, partial: Any, values: Mapping[str, Any]) -> Any:
    """Turn the fold of all partials of a reduction or sweep into its result.

    Parameters
    ----------
    values
        The values known so far, by step id; those that the step needs are among them.
    """
    kernel = step.kernel
    assert kernel is not None
    images = spec.image_inputs(step)
    args = {
        n: _argument(a, values)
        for n, a in step.args.items()
        if not (isinstance(a, Ref) and a.id in images)
    }
    made = kernel.finish(partial, args, spec.leading_grid(step))
    if isinstance(step.type, ImageType):
        return made
    return as_value(made) if kernel.returns == "value" else made


def whole_place(step: Step, grid: Grid) -> Place:
    """Return the place of an image that is a single block; `grid` is that of the step's image."""
    resampled = step.kernel is not None and step.kernel.role == "resample"
    if resampled and isinstance(step.type, ImageType):
        return Place(grid.region, step.type.grid.region, grid)
    return Place.whole(grid)


def check_result(step: Step, result: Any, *shapes: tuple[int, ...]) -> None:
    """Hold a kernel to what it declared.

    Parameters
    ----------
    shapes
        Those that the result may have.

    Raises
    ------
    KernelError
        When the shape or dtype of the result is another than was declared.
    """
    declared = step.type
    shape, dtype = getattr(result, "shape", None), getattr(result, "dtype", type(result).__name__)
    if isinstance(declared, ImageType) and (shape not in shapes or dtype != declared.dtype):
        wanted = " or ".join(str(s) for s in dict.fromkeys(shapes))
        raise KernelError(
            f"{step.id} returned {dtype} of shape {shape}, but declares {declared.dtype} of "
            f"shape {wanted}: the result would be written wrongly; correct the kernel, or its "
            "dtype= and depth="
        )


def as_value(value: Any) -> Any:
    """Turn a scalar of any kind into a Python number, as `ValueType` promises."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        return value.item()
    return value


def _argument(argument: Any, results: Mapping[str, Any]) -> Any:
    if not isinstance(argument, Ref):
        return argument
    value = results[argument.id]
    return value.part(0) if isinstance(value, PerBlock) else frozen(value)
