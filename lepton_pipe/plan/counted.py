"""What stages count for the report: losses of conversions, and floats that are not finite.

A voxel is counted by the block that owns it, once, whatever else computes it. So a stage counts
what is lost by conversions that clip or wrap on request, for images on the grid of its blocks, or
that fit it by broadcasting. Where another grid lies between (`crop`, `downsample`), a voxel may
belong to no block or to several, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lepton_pipe.geometry import Region
from lepton_pipe.plan.model import SCRATCH, Stage, Write
from lepton_pipe.plan.regions import broadcast
from lepton_pipe.spec import ImageType, Ref, Spec, Step
from lepton_pipe.spec.rules import call_rule


def is_counted(spec: Spec, step: Step) -> bool:
    """Tell whether a step is a conversion whose losses are to be counted."""
    if step.kernel is None or step.kernel.counting is None:
        return False
    types = {n: spec[a.id].type if isinstance(a, Ref) else a for n, a in step.args.items()}
    return bool(call_rule(step.kernel.counting.applies, types))


def with_counts(spec: Spec, stages: Iterable[Stage]) -> list[Stage]:
    """Have the losses of each conversion counted by the first stage that can."""
    counted: set[str] = set()
    found = []
    for stage in stages:
        able = set(_on_the_grid_of_blocks(spec, stage)) - counted
        counts = tuple(s for s in stage.steps if s in able and is_counted(spec, spec[s]))
        counted |= set(counts)
        found.append(replace(stage, counts=counts))
    return found


def _on_the_grid_of_blocks(spec: Spec, stage: Stage) -> Iterator[str]:
    """Yield the steps that lead to what a stage is run for, with no other grid between."""
    seen: set[str] = set()
    todo = [w.step for w in stage.writes if w.level == 0]
    todo += [*stage.reduces, *([stage.sweep.step] if stage.sweep else [])]
    while todo:
        step = spec[todo.pop()]
        if step.id in seen or step.id not in stage.steps:
            continue
        seen.add(step.id)
        yield step.id
        if step.kernel is not None and step.kernel.role != "resample":
            todo += spec.image_inputs(step)


def is_watched(spec: Spec, write: Write) -> bool:
    """Tell whether a write is the full resolution of an output of floats: NaN are counted there."""
    published = write.level == 0 and not write.array.startswith(SCRATCH)
    return published and spec.image_type(write.step).dtype.kind == "f"


def owned_regions(spec: Spec, stage: Stage, area: Region) -> dict[str, Region]:
    """Return where a block counts, by the conversions that its stage counts for.

    Parameters
    ----------
    area
        The block; in a stage that sweeps, the part of the swept image that a slab is.
    """
    return {s: _owned(spec.image_type(s), area) for s in stage.counts}


def _owned(type_: ImageType, area: Region) -> Region:
    """Return the voxels of an image that belong to a block: to the first where several use them."""
    region, lead = broadcast(area, type_.grid), area.ndim - type_.grid.ndim
    shared = [True] * lead + [n == 1 for n in type_.grid.shape]
    if any(start for start, s in zip(area.start, shared, strict=True) if s):
        return Region(region.start, region.start)
    return region
