"""Values of the whole image, from what the blocks of a stage contribute."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lepton_pipe.errors import KernelError, RunError
from lepton_pipe.plan import Stage
from lepton_pipe.spec import Ref, Spec, ValueType, blamed, compute_step, finish_step


def take_in(
    spec: Spec, stage: Stage, partials: Mapping[str, Any], values: dict[str, Any], out: str
) -> None:
    """Turn the folds of a stage into values and tables, then compute values from values.

    Parameters
    ----------
    partials
        What all blocks of the stage contribute together, by step.
    values
        What is known so far, by step; what is found is added.
    out
        The output, for the message.

    Raises
    ------
    RunError
        When no block of the image contributed anything.
    """
    for step_id in stage.reduces:
        step = spec[step_id]
        if step_id not in partials:
            raise RunError(
                f"{step_id}: nothing that it is computed from could be read or computed, see "
                f"lepton-pipe status {shlex.quote(out)}; nothing was published"
            )
        with blamed(step, "the partials of all blocks, finishing them"):
            values[step_id] = finish_step(spec, step, partials[step_id], values)
    for step in spec.steps:
        if step.id not in values and _only_needs(spec, step.id, values):
            with blamed(step, "values of the whole image"):
                values[step.id] = compute_step(spec, step, values)


def refuse_values(spec: Spec, stage: Stage, values: Mapping[str, Any]) -> None:
    """Raise `KernelError` where what a stage would compute of its values cannot be computed.

    It is raised before any block is, so that no block is blamed for it.
    """
    for step in (spec[s] for s in stage.steps):
        used = {n: a.id for n, a in step.args.items() if isinstance(a, Ref)}
        if step.kernel is None or not any(i in values for i in used.values()):
            continue
        context = {n: values.get(i, spec[i].type) for n, i in used.items()}
        try:
            step.kernel.refuse_values({n: context.get(n, a) for n, a in step.args.items()})
        except (OverflowError, ValueError) as error:
            raise KernelError(f"{step.id}: {error}\n  {step.where}") from error


def _only_needs(spec: Spec, step_id: str, values: Mapping[str, Any]) -> bool:
    step = spec[step_id]
    is_value = isinstance(step.type, ValueType) and not spec.image_inputs(step)
    return is_value and all(i in values for i in step.inputs)
