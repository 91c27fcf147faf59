"""The order of stages: how many barriers must be passed before a step can run.

A step that only reads images can run with them in one task. Three things are barriers: a value
is known when its reduction has seen every block; the result of a sweep is known when it is
stored; and a label image, whose numbering belongs to the blocks it was joined over, can be read
beyond a block only when it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_pipe.plan.regions import is_local
from lepton_pipe.spec import ImageType, Spec, Step


@dataclass(frozen=True)
class Levels:
    """Level of each step, steps that must be stored, and steps bound to the blocks of a join.

    Attributes
    ----------
    of
        Level of the stage that computes a step; for an image input 0.
    stored
        Steps whose result must be stored, because a later stage cannot compute it again.
    pinned
        Steps that can be computed only over the same blocks as the reduction they name.
    """

    of: Mapping[str, int]
    stored: frozenset[str]
    pinned: Mapping[str, str]


def assign_levels(spec: Spec) -> Levels:
    """Return the earliest level of each step."""
    level: dict[str, int] = {}
    stored: set[str] = set()
    pinned: dict[str, str] = {}
    for step in spec.steps:
        if step.kernel is None:
            level[step.id] = 0
            continue
        level[step.id] = max(
            [_after_value(spec, i, level) for i in spec.value_inputs(step)]
            + [_after_image(spec, step, i, level, pinned) for i in spec.image_inputs(step)]
        )
        for i in spec.image_inputs(step):
            if level[step.id] > level[i] and (i in pinned or _is_sweep(spec[i])):
                stored.add(i)
        pin = _pin(spec, step, level, pinned)
        if pin is not None and isinstance(step.type, ImageType):
            pinned[step.id] = pin
    return Levels(level, frozenset(stored), pinned)


def _is_sweep(step: Step) -> bool:
    return step.kernel is not None and step.kernel.role == "sweep"


def _after_value(spec: Spec, value: str, level: Mapping[str, int]) -> int:
    step = spec[value]
    reduced = step.kernel is not None and step.kernel.role == "reduce"
    return level[value] + (1 if reduced else 0)


def _after_image(
    spec: Spec, step: Step, image: str, level: Mapping[str, int], pinned: Mapping[str, str]
) -> int:
    same_grid = spec.image_type(image).grid.shape == spec.leading_grid(step).shape
    barrier = _is_sweep(spec[image]) or (image in pinned and not (is_local(step) and same_grid))
    return level[image] + (1 if barrier else 0)


def _pin(spec: Spec, step: Step, level: Mapping[str, int], pinned: Mapping[str, str]) -> str | None:
    """Return the reduction whose blocks this step must share, if any."""
    for i in step.inputs:
        if spec.is_per_block(i):
            return i
        if i in pinned and level[i] == level[step.id]:
            return pinned[i]
    return None
