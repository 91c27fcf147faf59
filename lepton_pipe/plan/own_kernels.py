"""Kernels that are not of this package: what may be told of them before they run."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral

from lepton_pipe.plan.model import Plan, Stage
from lepton_pipe.spec import Kernel, Ref, Spec, Step
from lepton_pipe.spec.rules import call_rule

_PACKAGE = __name__.partition(".")[0]


def has_own_kernels(spec: Spec) -> bool:
    """Tell whether a pipeline has kernels that are not of this package: they may do anything."""
    return any(_is_own(s.kernel) for s in spec.steps)


def cut_notes(plan: Plan) -> list[str]:
    """Return a note for each such kernel that looks around, where c or t is cut into blocks.

    A depth that is one number is for z, y and x, but one number for the size of a filter of SciPy
    is for all axes. Of a kernel of that kind the result depends on the blocks.
    """
    return list(dict.fromkeys(n for stage in plan.stages for n in _notes(plan.spec, stage)))


def _notes(spec: Spec, stage: Stage) -> Iterator[str]:
    for step in (spec[s] for s in stage.steps):
        kernel, cut = step.kernel, ", ".join(_cut(stage, step))
        if cut and kernel is not None and _is_own(kernel) and _has_one_depth(spec, step, kernel):
            yield (
                f"{kernel.name} looks at voxels around the one it computes, by its depth not along "
                f"{cut}, where blocks are cut. If it does (one number as the size of a filter is "
                "for all axes), the result depends on the blocks: give the size of each axis, or "
                "a depth that names them; lepton-pipe check tells"
            )


def _has_one_depth(spec: Spec, step: Step, kernel: Kernel) -> bool:
    """Tell whether a kernel says how far it looks by one number, and that is not 0."""
    types = {n: spec[a.id].type if isinstance(a, Ref) else a for n, a in step.args.items()}
    context = {**types, "grid": spec.leading_grid(step)}
    depth = call_rule(kernel.depth, context) if callable(kernel.depth) else kernel.depth
    return isinstance(depth, Integral) and depth != 0


def _cut(stage: Stage, step: Step) -> Iterator[str]:
    """Yield the axes along which blocks of a stage are cut and a step looks no further."""
    if len(step.depth) == stage.grid.ndim:
        axes = zip(stage.grid.axes, stage.blocks.counts, step.depth, strict=True)
        yield from (a for a, count, pair in axes if count > 1 and pair == (0, 0) and a in "ct")


def _is_own(kernel: Kernel | None) -> bool:
    return kernel is not None and kernel.fn.__module__.partition(".")[0] != _PACKAGE
