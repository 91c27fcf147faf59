"""Pointwise steps of a block, and a filter among them, as one kernel of the device."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_pipe.device.traced import Traced, UntraceableError, as_input, computed
from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import results_of
from lepton_pipe.plan.regions import input_regions, place_of
from lepton_pipe.spec import Step, check_result
from lepton_pipe.worker.block import Task


def run_chain(task: Task, steps: Sequence[str], regions: Mapping[str, Region]) -> dict[str, Any]:
    """Compute steps in one kernel, and return the results that something else needs.

    Parameters
    ----------
    regions
        The region of each step's result.

    Raises
    ------
    UntraceableError
        When a step does something that cannot be noted down; whatever else its kernel raises then.
    """
    made: dict[str, tuple[Region, Any]] = {}
    inputs: dict[tuple[str, Region], Traced] = {}
    for step in (task.spec[s] for s in steps):
        region = regions[step.id]
        result = _noted(task, step, region, made, inputs)
        place = place_of(task.spec, step, region)
        check_result(step, result, place.read.shape, region.shape)
        if not isinstance(result, Traced) or result.shape != region.shape:
            raise UntraceableError(f"{step.id} gives more than its region")
        made[step.id] = region, result
    kept = results_of(task.stage, steps, task.last)
    results = {s: made[s][1] for s in steps if s in kept}
    shape = regions[steps[-1]].shape
    return computed(results, shape, importlib.import_module("cupy").empty)


def _noted(
    task: Task,
    step: Step,
    region: Region,
    made: Mapping[str, tuple[Region, Any]],
    inputs: dict[tuple[str, Region], Traced],
) -> Any:
    """Return what a step's kernel makes of arrays that note what is done to them."""
    assert step.kernel is not None
    needed = input_regions(task.spec, step, region)
    held = dict(made)
    for image, part in needed.items():
        if image in made:
            continue
        if (image, part) not in inputs:
            covers, array = task.held[image]
            inputs[image, part] = as_input(array[part.inside(covers)])
        held[image] = part, inputs[image, part]
    return step.kernel.run(task.arguments(step, needed, held), place_of(task.spec, step, region))
