"""Steps that a filter does in its own pass over memory: operations before it, a cast after it.

What the kernels are, they declare (see `lepton_pipe.spec.absorb`). Here it is found out where they
meet, and that nothing else wants the images between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, TypeVar

from lepton_pipe.plan.model import Stage
from lepton_pipe.spec import Absorbing, ImageType, Ref, Rounding, Spec, Step, Voxelwise
from lepton_pipe.spec.rules import call_rule, float_dtype


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that a task runs together.

    Attributes
    ----------
    steps
        Their ids, in the order in which they would run one by one.
    filter
        The one among several that does the others in its own pass; empty where they run tile by
        tile.
    """

    steps: tuple[str, ...]
    filter: str = ""

    @property
    def before(self) -> tuple[str, ...]:
        """The steps that the filter does before itself, each to the result of the last."""
        return self.steps[: self.steps.index(self.filter)] if self.filter else ()

    @property
    def rounding(self) -> str:
        """The step that the filter does after itself; empty where there is none."""
        return self.steps[-1] if self.filter and self.steps[-1] != self.filter else ""


def last_use(spec: Spec, stage: Stage) -> dict[str, int]:
    """Return, for each image of a stage, the position of the last step that reads it.

    Positions count `Stage.steps`. A result is written as soon as it is computed. The worker frees
    an array after its last use, and the estimate assumes just that.
    """
    return {
        image: position
        for position, step in enumerate(stage.steps)
        for image in spec.image_inputs(spec[step])
    }


def reads_before(
    spec: Spec, stage: Stage, groups: Sequence[Group], regions: Iterable[str]
) -> list[list[str]]:
    """Return the images to read before each group: those that it is the first to need.

    An image that no step needs is written as it is; those come before the first group. In a last
    entry are those of a task without any group.
    """
    waiting = [r.step for r in stage.reads if r.step in set(regions)]
    needed = [{i for s in group.steps for i in spec.image_inputs(spec[s])} for group in groups]
    idle = [i for i in waiting if not any(i in some for some in needed)]
    found, read = [], set(idle)
    for some in needed:
        found.append([i for i in waiting if i in some - read])
        read |= some
    found.append([])
    found[0] = [*idle, *found[0]]
    return found


def results_of(stage: Stage, group: Sequence[str], last: Mapping[str, int]) -> set[str]:
    """Return the steps of a group whose result is needed beyond it: written, or read later."""
    written = {w.step for w in stage.writes}
    end = stage.steps.index(group[-1])
    return {s for s in group if s in written or last.get(s, -1) > end}


def absorbing_groups(spec: Spec, stage: Stage, steps: Sequence[str]) -> Iterator[Group]:
    """Cut steps into groups of a filter and what it does besides, and into single steps."""
    last, i = last_use(spec, stage), 0
    while i < len(steps):
        group = _longest(spec, stage, steps[i:], last)
        yield group
        i += len(group.steps)


def _longest(spec: Spec, stage: Stage, steps: Sequence[str], last: Mapping[str, int]) -> Group:
    """Return the longest group that begins with the first of some steps."""
    at = next((i for i, s in enumerate(steps) if not _is_voxelwise(spec, spec[s])), len(steps))
    for count in range(min(at + 2, len(steps)), max(at, 1), -1):
        group = Group(tuple(steps[:count]), steps[at])
        if _holds(spec, group) and results_of(stage, group.steps, last) <= {group.steps[-1]}:
            return group
    return Group((steps[0],))


T = TypeVar("T")


def _absorb(step: Step, kind: type[T]) -> T | None:
    return None if step.kernel is None else step.kernel.absorbs(kind)


def _holds(spec: Spec, group: Group) -> bool:
    """Tell whether the filter of a group can do the others."""
    filter_, absorb = spec[group.filter], _absorb(spec[group.filter], Absorbing)
    images = spec.image_inputs(filter_)
    if absorb is None or len(images) != 1:
        return False
    if all(pair == (0, 0) for pair in filter_.depth):
        return False  # it runs tile by tile with its neighbours
    if any(spec.is_per_block(v) for s in group.steps for v in spec.value_inputs(spec[s])):
        return False
    if not _are_chain(spec, group) or not _is_rounded(spec, group):
        return False
    (source,) = images
    first = spec[group.before[0]].args if group.before else {}
    read = next((a.id for a in first.values() if isinstance(a, Ref)), source)
    image = spec.image_type(read)
    return bool(call_rule(absorb.applies, _context(spec, filter_, source, image)))


def _are_chain(spec: Spec, group: Group) -> bool:
    """Tell whether each step before a filter takes the last one's result alone, and the filter."""
    made: set[str] = set()
    for step_id, next_id in pairwise((*group.before, group.filter)):
        made.add(step_id)
        first, *others = spec[next_id].args.values()
        ids = [a.id for a in others if isinstance(a, Ref)]
        if not isinstance(first, Ref) or first.id != step_id or made & set(ids):
            return False
    return True


def _is_voxelwise(spec: Spec, step: Step) -> bool:
    """Tell whether a step does to each plane of its image alike what a filter can do."""
    absorb = _absorb(step, Voxelwise)
    first, *others = step.args.values()
    if absorb is None or not isinstance(first, Ref):
        return False
    made, source = step.type, spec[first.id].type
    return (
        isinstance(made, ImageType)
        and isinstance(source, ImageType)
        and source.grid.shape == made.grid.shape
        and made.dtype == float_dtype(source.dtype)
        and all(_is_plane(spec[a.id].type) for a in others if isinstance(a, Ref))
        and bool(call_rule(absorb.applies, _context(spec, step, first.id, source)))
    )


def _is_plane(type_: Any) -> bool:
    return not isinstance(type_, ImageType) or prod(type_.grid.shape[:-2]) == 1


def _is_rounded(spec: Spec, group: Group) -> bool:
    """Tell whether what follows the filter of a group, if anything, rounds its result."""
    if not group.rounding:
        return True
    step = spec[group.rounding]
    absorb = _absorb(step, Rounding)
    if absorb is None or spec.image_inputs(step) != (group.filter,):
        return False
    context = _context(spec, step, group.filter, spec.image_type(group.filter))
    return bool(call_rule(absorb.applies, context))


def _context(spec: Spec, step: Step, source: str, image: ImageType) -> dict[str, Any]:
    """Return what a step's rules are called with, were its image `source` of another type."""
    context: dict[str, Any] = {"grid": spec.leading_grid(step)}
    for name, argument in step.args.items():
        is_source = isinstance(argument, Ref) and argument.id == source
        type_ = spec[argument.id].type if isinstance(argument, Ref) else argument
        context[name] = image if is_source else type_
    return context
