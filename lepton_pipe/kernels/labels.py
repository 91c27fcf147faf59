"""Labels of connected objects, joined across blocks."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, loops, ndimage, own_kernels, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge.labels import Fragment, Fragments, absent, describe, faces, gather, join
from lepton_pipe.merge.slabs import slabs
from lepton_pipe.spec import ImageType, Place, ValueType, kernel

_SLAB = 1 << 20
"""Voxels whose labels are compared at once: enough to keep a GPU busy."""


def _shell(grid: Grid) -> Mapping[str, tuple[int, int]]:
    return {grid.axes[i]: (0, 1) for i in grid.spatial}


def _check_label(grid: Grid, connectivity: int, min_size: int) -> None:
    most = len(grid.spatial)
    if most == 0:
        raise ValueError(
            f"the image has axes {''.join(grid.axes)} and no spatial axis; objects are joined "
            "along z, y and x only"
        )
    if connectivity not in range(1, most + 1):
        raise ValueError(
            f"connectivity={connectivity!r} has no meaning with {most} spatial axes: give 1 "
            f"(faces) to {most} (corners too)"
        )
    if min_size < 0:
        raise ValueError(f"min_size={min_size!r} must not be negative: it is a number of voxels")


def local_labels(mask: Any, spatial: int, connectivity: int) -> tuple[Any, int]:
    """Label one array by itself.

    The same array always gets the same numbers; which number goes to which object is left open.
    Faster forms are in `lepton_pipe.compiled.labels` and, for a GPU, in `lepton_pipe.cuda.labels`.

    Parameters
    ----------
    mask
        Foreground where not zero. The last `spatial` axes are spatial; objects are never joined
        along the others.

    Returns
    -------
    labels, count
        Integers, 0 where `mask` is 0, else 1 to `count`.
    """
    steps = np.abs(np.indices((3,) * spatial) - 1).sum(axis=0)
    structure = np.zeros((3,) * mask.ndim, bool)
    structure[(1,) * (mask.ndim - spatial)] = steps <= connectivity
    labels, count = ndimage(mask).label(mask != 0, array_module(mask).asarray(structure))
    return labels, int(count)


def _bytes(mask: ImageType) -> float:
    """Return the bytes per voxel of a copy of the mask, which is spared where it is boolean."""
    return float(mask.dtype != np.bool_)


def _device_bytes(mask: ImageType) -> float:
    """Return bytes per voxel: the labels, as much again for many small objects, and a copy."""
    return 8.0 + mask.dtype.itemsize


@kernel(
    depth=_shell,
    scratch=lambda mask: 12.5 + _bytes(mask),
    device_scratch=_device_bytes,
    cost=1.5,
    check=_check_label,
    combine=gather,
    finalize=join,
    absent=absent,
    value=ValueType("int64", (0,), per_block=True),
)
def label_join(
    mask: Any,
    connectivity: int = 1,
    min_size: int = 0,  # noqa: ARG001  join's
    *,
    place: Place,
) -> Fragments:
    """Label every block by itself and find out which labels are one object.

    How blocks are joined is described in `lepton_pipe.merge.labels`. Part of `label`. On a GPU
    the block is labelled and described there; the planes at its faces alone are copied to the host.

    Returns
    -------
    JoinedLabels
        For every block, a table from its own labels to the final ones; ``count`` objects.
    """
    spatial = len(place.grid.spatial)
    fast = loops("labels", mask)
    if fast is not None and fast.fits(mask):
        return _describe_runs(fast, mask, connectivity, place)
    there = own_kernels("labels", mask)
    if there is not None and there.fits(mask):
        return _describe_there(there, mask, connectivity, place)
    labels, _ = local_labels(mask, spatial, connectivity)
    own, count = local_labels(mask[place.inner], spatial, connectivity)
    refined = _refine(labels[place.inner], own, count)
    return describe(to_host(labels), to_host(refined), place)


def _refine(labels: Any, own: Any, count: int) -> Any:
    """Return for each of a block's own labels the label of the grown block that holds it."""
    table = array_module(own).zeros(count + 1, labels.dtype)
    for part in slabs(own.shape, _SLAB):
        table[own[part].reshape(-1)] = labels[part].reshape(-1)
    return table


def _describe_there(there: ModuleType, mask: Any, connectivity: int, place: Place) -> Fragments:
    """Describe a block on a device; of its labels, its faces alone leave it."""
    xp, spatial = array_module(mask), len(place.grid.spatial)
    stop = place.write.shape[mask.ndim - spatial :]
    found = there.split_components(mask, spatial, connectivity, stop)
    above, below = faces(place, lambda axis, index: to_host(xp.take(found.labels, index, axis)))
    block = Fragment(place.write.start, place.write.shape, found.size, found.first, found.own)
    return Fragments([block], [], above, below)


def _describe_runs(fast: ModuleType, mask: Any, connectivity: int, place: Place) -> Fragments:
    """Describe a block by its runs; no image of its labels is ever made."""
    spatial = len(place.grid.spatial)
    runs = fast.runs_of(mask, spatial)
    stop = fast.padded(place.write.shape, spatial)[1:]
    labels, count, own = fast.split_components(runs, spatial, connectivity, stop)

    def plane(axis: int, index: int) -> Any:
        image = fast.plane(runs, labels, count, axis - mask.ndim + 4, index)
        return image.reshape(mask.shape[:axis] + mask.shape[axis + 1 :])

    above, below = faces(place, plane)
    size, first = fast.measure(runs, labels, count, stop)
    block = Fragment(place.write.start, place.write.shape, size, first, own)
    return Fragments([block], [], above, below)


def _dtype(grid: Grid) -> type[np.signedinteger[Any]]:
    """Return the smaller of int32 and int64 that can number every voxel of the image."""
    return np.int32 if grid.size <= np.iinfo(np.int32).max else np.int64


@kernel(
    dtype=_dtype,
    kind="labels",
    scratch=lambda mask: 6.5 + _bytes(mask),
    device_scratch=_device_bytes,
    cost=1.5,
)
def label_apply(mask: Any, connectivity: int = 1, *, table: Any, place: Place) -> Any:
    """Label every block again, and put the final labels in place of its own. Part of `label`.

    Parameters
    ----------
    table
        The block's part of what `label_join` gave.

    Raises
    ------
    ValueError
        When the block's objects are not those that were joined.
    """
    spatial, dtype = len(place.grid.spatial), _dtype(place.grid)
    fast = loops("labels", mask)
    if fast is not None and fast.fits(mask):
        runs = fast.runs_of(mask, spatial)
        labels, count = fast.components(runs, spatial, connectivity)
        _check_count(count, table, place)
        return fast.paint(runs, labels, table, dtype).reshape(mask.shape)
    there = own_kernels("labels", mask)
    if there is not None and there.fits(mask):
        components = there.Components(mask, spatial, connectivity)
        firsts = components.unite()
        _check_count(firsts.size, table, place)
        return there.painted(components, firsts, table, dtype)
    labels, count = local_labels(mask, spatial, connectivity)
    _check_count(count, table, place)
    return array_module(mask).take(array_module(mask).asarray(table, dtype), labels)


def _check_count(count: int, table: Any, place: Place) -> None:
    if count + 1 != len(table):
        raise ValueError(
            f"{count} objects in the block at {place.write}, but {len(table) - 1} when they were "
            "joined: its labels would be wrong; the mask must be the same both times (is a "
            "kernel before label random, or are blocks cut differently?)"
        )


def label(mask: Any, connectivity: int = 1, min_size: int = 0) -> Any:
    """Label connected objects, across all blocks.

    Parameters
    ----------
    mask
        Image; an object is where it is not zero.
    connectivity
        Steps along how many spatial axes at once join two voxels: 1 for faces alone, 2 for edges
        too, 3 for corners too. As in scikit-image. Objects are never joined along t and c.
    min_size
        Objects of fewer voxels are dropped.

    Returns
    -------
    array
        0 where there is no object, else 1, 2, ... in the order of the objects' first voxels in C
        order. The numbers do not depend on how the image is cut into blocks. int32 for an image
        of fewer than 2**31 voxels, which cannot hold more objects than that, else int64.
    """
    table = label_join(mask, connectivity, min_size)
    return label_apply(mask, connectivity, table=table)
