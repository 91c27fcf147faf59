"""Which region of every step a block needs: walk from what is written back to what is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lepton_pipe.geometry import Depth, Grid, Region
from lepton_pipe.plan.model import Stage, Write, is_scale_level
from lepton_pipe.spec import ImageType, Place, Ref, Spec, Step
from lepton_pipe.spec.rules import call_rule


def is_local(step: Step) -> bool:
    """Tell whether a step needs, for a region of its result, just that region of its images."""
    return step.kernel is not None and (
        step.kernel.role in ("map", "reduce") and all(pair == (0, 0) for pair in step.depth)
    )


def place_of(spec: Spec, step: Step, region: Region) -> Place:
    """Return where the array handed to a kernel lies when `region` of its result is wanted."""
    grid = spec.leading_grid(step)
    if step.kernel is not None and step.kernel.role == "resample":
        return Place(_resample_source(spec, step, region, grid), region, grid)
    return Place(region.grow(step.depth, grid.shape), region, grid)


def input_regions(spec: Spec, step: Step, region: Region) -> dict[str, Region]:
    """Return the region of each image that a step needs for `region` of its result.

    For a reduction `region` is the block it counts. A step that sweeps is not asked: its source
    regions are slabs, see `slabs`.
    """
    read = place_of(spec, step, region).read
    return {i: broadcast(read, spec.image_type(i).grid) for i in spec.image_inputs(step)}


def broadcast(read: Region, grid: Grid) -> Region:
    """Cut a region down to the trailing axes of an image of lower rank or with axes of length 1."""
    lead = read.ndim - grid.ndim
    ranges = zip(read.start[lead:], read.stop[lead:], grid.shape, strict=True)
    cut = [(0, 1) if length == 1 else (start, stop) for start, stop, length in ranges]
    return Region(tuple(c[0] for c in cut), tuple(c[1] for c in cut))


def _resample_source(spec: Spec, step: Step, region: Region, grid: Grid) -> Region:
    assert step.kernel is not None and step.kernel.needs is not None
    context = {n: spec.by_id[a.id].type if isinstance(a, Ref) else a for n, a in step.args.items()}
    source: Region = call_rule(step.kernel.needs, {**context, "region": region, "grid": grid})
    return source


def written_region(write: Write, block: Region) -> Region:
    """Return the part of a scale level that a block owns.

    The planner lets a stage write a coarser level only where no cell straddles two blocks.
    """
    return Region(
        tuple(a // f for a, f in zip(block.start, write.factors, strict=True)),
        tuple(-(-b // f) for b, f in zip(block.stop, write.factors, strict=True)),
    )


def block_regions(spec: Spec, stage: Stage, block: Region) -> dict[str, Region]:
    """Return the region of every image step that the task of `block` computes or reads.

    Where several steps need different regions of one image, their hull is computed once.
    """
    wanted: dict[str, list[Region]] = {}
    for write in stage.writes:
        wanted.setdefault(write.step, []).append(written_region(write, block))
    for step_id in stage.reduces:
        _want_inputs(spec, spec[step_id], block, wanted)
    return _propagate(spec, stage.steps, wanted)


def for_image(spec: Spec, stage: Stage, image: str) -> Stage:
    """Return a stage with those of its steps alone that need an image, one way or another.

    They decide which region of it a block reads. In a sweep they are a few of many.
    """
    if stage.sweep is not None:
        return stage
    users = {image}
    for step in stage.steps:
        if not users.isdisjoint(spec.image_inputs(spec[step])):
            users.add(step)
    return replace(
        stage,
        steps=tuple(s for s in stage.steps if s in users),
        reduces=tuple(s for s in stage.reduces if s in users),
        writes=tuple(w for w in stage.writes if w.step in users),
    )


def slab_regions(
    spec: Spec, stage: Stage, block: Region, slab: tuple[int, int]
) -> dict[str, Region]:
    """Return the regions for one slab of a stage that sweeps; `block` lies in the result's grid."""
    assert stage.sweep is not None
    step = spec[stage.sweep.step]
    source = sweep_source(spec, stage, block, slab)
    (image,) = spec.image_inputs(step)
    others = [s for s in stage.steps if s != step.id]
    return _propagate(spec, others, {image: [source]})


def sweep_source(spec: Spec, stage: Stage, block: Region, slab: tuple[int, int]) -> Region:
    """Return the region of the swept image that one slab of a block is made of."""
    assert stage.sweep is not None
    axis = stage.sweep.axis
    rank = spec.leading_grid(spec[stage.sweep.step]).ndim
    keep = axis + 1 if block.ndim == rank else axis
    return Region(
        (*block.start[:axis], slab[0], *block.start[keep:]),
        (*block.stop[:axis], slab[1], *block.stop[keep:]),
    )


def _propagate(
    spec: Spec, steps: Iterable[str], wanted: dict[str, list[Region]]
) -> dict[str, Region]:
    needed: dict[str, Region] = {}
    for step_id in reversed(list(steps)):
        if step_id not in wanted:
            continue
        needed[step_id] = Region.hull(wanted[step_id])
        _want_inputs(spec, spec[step_id], needed[step_id], wanted)
    return {s: Region.hull(r) for s, r in wanted.items()}


def _want_inputs(spec: Spec, step: Step, region: Region, wanted: dict[str, list[Region]]) -> None:
    for image, source in input_regions(spec, step, region).items():
        wanted.setdefault(image, []).append(source)


def accumulated_depth(spec: Spec, stage: Stage) -> Depth:
    """Return how far the steps of a stage reach beyond a block, per axis and side, in voxels."""
    total = [(0, 0)] * stage.grid.ndim
    reach: dict[str, list[tuple[int, int]]] = {}
    for step_id in reversed(stage.steps):
        step = spec[step_id]
        if is_scale_level(step_id) or len(step.depth) != stage.grid.ndim:
            continue
        after = reach.get(step_id, [(0, 0)] * stage.grid.ndim)
        mine = [(a + c, b + d) for (a, b), (c, d) in zip(after, step.depth, strict=True)]
        total = _widest(total, mine)
        for image in spec.image_inputs(step):
            reach[image] = _widest(reach.get(image, mine), mine)
    return tuple(total)


def _widest(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(max(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True)]


def region_bytes(type_: ImageType, region: Region) -> int:
    """Return the bytes of a region of an image."""
    return region.size * type_.dtype.itemsize
