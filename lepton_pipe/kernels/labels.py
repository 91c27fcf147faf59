"""Labels of connected objects, joined across blocks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from lepton_pipe.device import array_module, ndimage, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge.labels import Fragments, describe, gather, join
from lepton_pipe.merge.slabs import slabs
from lepton_pipe.spec import Place, ValueType, kernel

_CC3D = {(1, 1): 4, (2, 1): 4, (2, 2): 8, (3, 1): 6, (3, 2): 18, (3, 3): 26}
"""What cc3d calls a connectivity, by number of spatial axes and connectivity."""


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

    Parameters
    ----------
    mask
        Foreground where not zero. The last `spatial` axes are spatial; objects are never joined
        along the others.

    Returns
    -------
    labels, count
        uint32, 0 where `mask` is 0, else 1 to `count`.
    """
    xp = array_module(mask)
    # A copy in C order: cc3d's numbers depend on how the array lies in memory.
    mask = xp.ascontiguousarray(mask != 0)
    parts = mask.reshape(prod(mask.shape[: mask.ndim - spatial]), *mask.shape[-spatial:])
    if len(parts) == 1:
        labels, count = _label_one(parts[0], connectivity)
        return labels.reshape(mask.shape), count
    labels, count = xp.zeros(parts.shape, np.uint32), 0
    for part, out in zip(parts, labels, strict=True):
        found, more = _label_one(part, connectivity)
        xp.multiply(part, np.uint32(count), out=out)  # CuPy's ufuncs have no where=
        out += found
        count += more
    return labels.reshape(mask.shape), count


def _label_one(mask: Any, connectivity: int) -> tuple[Any, int]:
    if mask.size == 0:
        return array_module(mask).zeros(mask.shape, np.uint32), 0
    if array_module(mask) is not np:
        nd = ndimage(mask)
        structure = nd.generate_binary_structure(mask.ndim, connectivity)
        labels, count = nd.label(mask, structure)
        return labels.astype(np.uint32), int(count)
    cc3d = importlib.import_module("cc3d")
    # As bytes of many values, not as booleans: for these cc3d 4.1.1 has another algorithm, which
    # is wrong at the borders of planes with 8 neighbours and fails on volumes of one row.
    labels, count = cc3d.connected_components(
        (mask.reshape(1, -1) if mask.ndim == 1 else mask).view(np.uint8),
        connectivity=_CC3D[mask.ndim, connectivity],
        out_dtype=np.uint32,
        binary_image=False,
        return_N=True,
    )
    return labels.reshape(mask.shape), int(count)


@kernel(
    depth=_shell,
    scratch=9.0,
    cost=6.0,
    check=_check_label,
    combine=gather,
    finalize=join,
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
    the block is labelled there; its labels are then copied to the host and described there.

    Returns
    -------
    JoinedLabels
        For every block, a table from its own labels to the final ones; ``count`` objects.
    """
    labels, count = local_labels(mask, len(place.grid.spatial), connectivity)
    return describe(to_host(labels), count, place)


@kernel(depth=_shell, dtype="int64", kind="labels", scratch=9.0, cost=6.0)
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
    labels, count = local_labels(mask, len(place.grid.spatial), connectivity)
    if count + 1 != len(table):
        raise ValueError(
            f"{count} objects in the block at {place.write}, but {len(table) - 1} when they were "
            "joined: its labels would be wrong; the mask must be the same both times (is a "
            "kernel before label random, or are blocks cut differently?)"
        )
    return _look_up(labels, table)


def _look_up(labels: Any, table: Any) -> Any:
    if array_module(labels) is not np:
        return array_module(labels).take(array_module(labels).asarray(table), labels)
    result = np.empty(labels.shape, np.int64)
    for part in slabs(labels.shape):
        # Every label is in the table: mode="clip" only spares a check and a buffer.
        np.take(table, labels[part], out=result[part], mode="clip")
    return result


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
        int64: 0 where there is no object, else 1, 2, ... in the order of the objects' first
        voxels in C order. The numbers do not depend on how the image is cut into blocks.
    """
    table = label_join(mask, connectivity, min_size)
    return label_apply(mask, connectivity, table=table)
