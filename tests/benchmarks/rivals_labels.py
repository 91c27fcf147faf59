"""What rivals do with labels: measure them with NumPy, and join them across blocks with SciPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

AXES = "zyx"


def measure_block(labels: Any, image: Any, corner: Sequence[int]) -> dict[str, Any]:
    """Return sums and boxes of the objects of a block that starts at `corner`."""
    at = np.flatnonzero(labels)
    found, index = np.unique(labels.ravel()[at], return_inverse=True)
    count = len(found)
    sums = {"label": found.astype(np.int64), "area": np.bincount(index, minlength=count)}
    sums["light"] = np.bincount(index, image.ravel()[at], count)
    for axis, where in zip(AXES, np.unravel_index(at, labels.shape), strict=True):
        place = where + corner[AXES.index(axis)]
        sums[f"sum-{axis}"] = np.bincount(index, place, count)
        low, high = np.full(count, 1 << 40), np.full(count, -1)
        np.minimum.at(low, index, place)
        np.maximum.at(high, index, place)
        sums[f"low-{axis}"], sums[f"high-{axis}"] = low, high
    return sums


def fold(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of all objects, from what `measure_block` gave."""
    rows = {n: np.concatenate([b[n] for b in blocks]) for n in blocks[0]}
    label, index = np.unique(rows["label"], return_inverse=True)
    count = len(label)
    area = np.bincount(index, rows["area"], count)
    light = np.bincount(index, rows["light"], count)
    table: dict[str, Any] = {"label": label, "area": area.astype(np.int64)}
    table["intensity_mean"] = light / area
    for axis in AXES:
        table[f"centroid-{axis}"] = np.bincount(index, rows[f"sum-{axis}"], count) / area
        low, high = np.full(count, 1 << 40), np.full(count, -1)
        np.minimum.at(low, index, rows[f"low-{axis}"])
        np.maximum.at(high, index, rows[f"high-{axis}"])
        table[f"bbox_min-{axis}"], table[f"bbox_max-{axis}"] = low, high + 1
    return table


def faces(labels: Any) -> list[tuple[Any, Any]]:
    """Return copies of a block's first and last plane along each axis."""
    pairs = []
    for axis in range(labels.ndim):
        rows = np.moveaxis(labels, axis, 0)
        pairs.append((rows[0].copy(), rows[-1].copy()))
    return pairs


def join(counts: dict[Any, int], edges: dict[Any, list[tuple[Any, Any]]]) -> dict[Any, Any]:
    """Join labels of neighbouring blocks.

    Parameters
    ----------
    counts
        Number of labels in each block, by its place in the lattice of blocks.
    edges
        What `faces` gave for each block.

    Returns
    -------
    dict
        For each block, a table from its own labels to final ones.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    order = sorted(counts)
    starts = np.cumsum([0, *(counts[b] for b in order)])
    offset = dict(zip(order, starts, strict=False))
    pairs = [np.empty((2, 0), np.int64)]
    for block, axis in product(order, range(3)):
        after = tuple(n + (i == axis) for i, n in enumerate(block))
        if after in counts:
            a, b = edges[block][axis][1], edges[after][axis][0]
            both = (a > 0) & (b > 0)
            one = np.stack([a[both] - 1 + offset[block], b[both] - 1 + offset[after]])
            pairs.append(np.unique(one, axis=1))
    i, j = np.concatenate(pairs, axis=1)
    total = int(starts[-1])
    graph = coo_matrix((np.ones(len(i), bool), (i, j)), (total, total))
    final = connected_components(graph, directed=False)[1] + 1
    return {
        b: np.concatenate([[0], final[offset[b] : offset[b] + counts[b]]]).astype(np.int32)
        for b in order
    }
