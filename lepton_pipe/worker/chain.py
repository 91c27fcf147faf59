"""Pointwise steps of a block, and a filter among them, as one kernel of the device."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_pipe.device.traced import Traced, UntraceableError, as_input, computed, where
from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import results_of
from lepton_pipe.plan.regions import input_regions, place_of
from lepton_pipe.spec import Lost, Place, Step, check_result
from lepton_pipe.worker.block import Task

_LOST = "lost in "
_NOTHING = np.uint8(0)


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
    codes: dict[str, Traced] = {}
    inputs: dict[tuple[str, Region], Any] = {}
    for step in (task.spec[s] for s in steps):
        region = regions[step.id]
        place = place_of(task.spec, step, region)
        args = _arguments(task, step, region, made, inputs)
        assert step.kernel is not None
        result = step.kernel.run(args, place)
        check_result(step, result, place.read.shape, region.shape)
        if not isinstance(result, Traced) or result.shape != region.shape:
            raise UntraceableError(f"{step.id} gives more than its region")
        made[step.id] = region, result
        if step.id in task.owned:
            codes[_LOST + step.id] = _code_of(step, args, place)
    kept = results_of(task.stage, steps, task.last)
    results = {s: made[s][1] for s in steps if s in kept}
    shape = regions[steps[-1]].shape
    found = computed({**results, **codes}, shape, importlib.import_module("cupy").empty)
    for name in codes:
        step = task.spec[name.removeprefix(_LOST)]
        _count(task, step, found.pop(name), place_of(task.spec, step, regions[step.id]))
    return found


def _code_of(step: Step, args: Mapping[str, Any], place: Place) -> Traced:
    """Return an image that tells of each voxel what a conversion loses: its place in `Lost`."""
    counting = step.kernel.counting if step.kernel is not None else None
    if counting is None or counting.masks is None:
        raise UntraceableError(f"{step.id} counts what it loses in a way of its own")
    code: Any = _NOTHING
    for number, mask in enumerate(counting.masks(**args, place=place), start=1):
        code = where(mask, np.uint8(number), code)
    return code  # type: ignore[no-any-return]


def _count(task: Task, step: Step, code: Any, place: Place) -> None:
    for box in task.counted_boxes(step, place):
        counts = (int((code[box] == number).sum()) for number in range(1, len(Lost._fields) + 1))
        task.result.count(task.position[step.id], Lost(*counts))


def _arguments(
    task: Task,
    step: Step,
    region: Region,
    made: Mapping[str, tuple[Region, Any]],
    inputs: dict[tuple[str, Region], Any],
) -> dict[str, Any]:
    """Return what a step's kernel is called with: arrays that note what is done to them."""
    needed = input_regions(task.spec, step, region)
    held = dict(made)
    for image, part in needed.items():
        if image in made:
            continue
        if (image, part) not in inputs:
            covers, array = task.held[image]
            array = array[part.inside(covers)]
            # What is the same for many voxels is computed as it is, once for all of them.
            is_shared = part.size < place_of(task.spec, step, region).read.size
            inputs[image, part] = array if is_shared else as_input(array)
        held[image] = part, inputs[image, part]
    return task.arguments(step, needed, held)
