"""Steps that a task runs together: neighbouring pointwise steps tile by tile, and in a filter.

A chain of operators over a whole block is memory traffic: each reads and writes the block once.
Over a tile that fits the cache the chain costs little more than its first read and last write, and
what lies between the steps never exists as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from lepton_pipe.geometry import Region
from lepton_pipe.plan.absorb import Group, absorbing_groups
from lepton_pipe.plan.model import Stage
from lepton_pipe.spec import ImageType, Spec, Step

TILE_VOXELS = 2**16
"""Voxels of a tile: a few float32 arrays of it fit a core's second-level cache."""


def is_pointwise(spec: Spec, step: Step) -> bool:
    """Tell whether a voxel of a step's result depends on that voxel alone.

    A kernel that needs a part for each block of a value sees the block as a whole.
    """
    return (
        step.kernel is not None
        and step.kernel.role == "map"
        and isinstance(step.type, ImageType)
        and all(pair == (0, 0) for pair in step.depth)
        and not any(spec.is_per_block(v) for v in spec.value_inputs(step))
    )


def fused_groups(
    spec: Spec,
    stage: Stage,
    steps: Sequence[str],
    regions: Mapping[str, Region],
    *,
    absorbing: bool = True,
) -> list[Group]:
    """Cut the steps of a task into groups; those of a group run together.

    A group of several is a filter with what it does besides, or consecutive pointwise steps over
    one region of one grid.

    Parameters
    ----------
    absorbing
        Whether filters do steps next to them; those of a device do not.
    """
    groups: list[Group] = []
    singles = (Group((s,)) for s in steps)
    for group in absorbing_groups(spec, stage, steps) if absorbing else singles:
        before = groups[-1] if groups else group
        if groups and not before.filter and _joins(spec, before, group, regions):
            groups[-1] = Group((*before.steps, *group.steps))
        else:
            groups.append(group)
    return groups


def _joins(spec: Spec, group: Group, next_: Group, regions: Mapping[str, Region]) -> bool:
    before, after = group.steps[-1], next_.steps[0]
    a, b = spec[before], spec[after]
    return (
        not next_.filter
        and is_pointwise(spec, a)
        and is_pointwise(spec, b)
        and regions[before] == regions[after]
        and spec.image_type(before).grid.axes == spec.image_type(after).grid.axes
    )


def dead_after(group: Sequence[str], stage: Stage, last: Mapping[str, int]) -> list[list[str]]:
    """Return, for each step of a group, those of the group that nothing in it needs any more."""
    start = stage.steps.index(group[0])
    dead: list[list[str]] = [[] for _ in group]
    for i, step in enumerate(group):
        dead[min(max(i, last.get(step, -1) - start), len(group) - 1)].append(step)
    return dead


def tiles(region: Region, voxels: int | None = None) -> Iterator[Region]:
    """Cut a region into tiles of at most `voxels`, in C order; each contiguous rows if possible."""
    shape = list(region.shape)
    tile, left = [1] * len(shape), voxels or TILE_VOXELS
    for axis in reversed(range(len(shape))):
        tile[axis] = max(1, min(shape[axis], left))
        left //= tile[axis]
    yield from _tiles(region, tile)


def _tiles(region: Region, tile: Sequence[int]) -> Iterator[Region]:
    ranges = [range(a, b, t) for a, b, t in zip(region.start, region.stop, tile, strict=True)]
    for start in product(*ranges):
        stop = (min(s + t, b) for s, t, b in zip(start, tile, region.stop, strict=True))
        yield Region(start, tuple(stop))
