"""Large arrays in small parts, so that temporaries stay small whatever the block's size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB = 1 << 16
"""Voxels in a slab: its temporaries of 8 bytes per voxel stay in a core's own cache."""


def slabs(shape: Sequence[int], most: int = SLAB) -> Iterator[tuple[slice, ...]]:
    """Cut an array of `shape` into parts of at most `most` voxels, in C order.

    Yields
    ------
    tuple of slice
        An index into the array. All voxels of a part come before all voxels of the next one.
    """
    if prod(shape) == 0:
        return
    axis = next(i for i in range(len(shape)) if prod(shape[i + 1 :]) <= most)
    rows = max(1, most // prod(shape[axis + 1 :]))
    full = tuple(slice(0, n) for n in shape[axis + 1 :])
    for outer in itertools.product(*(range(n) for n in shape[:axis])):
        fixed = tuple(slice(i, i + 1) for i in outer)
        for a in range(0, shape[axis], rows):
            yield (*fixed, slice(a, min(a + rows, shape[axis])), *full)


def runs(array: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[np.intp]]:
    """Find runs of equal values along the last axis.

    Returns
    -------
    starts, values, lengths
        Index of each run's first voxel in the flattened array, its value, and its voxels. A run
        never goes on from one row into the next.
    """
    flat = array.reshape(-1)
    change = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=change[1:])
    change.reshape(-1, array.shape[-1])[:, 0] = True
    starts = np.flatnonzero(change)
    return starts, flat[starts], np.diff(starts, append=flat.size)


def row_index(
    start: Sequence[int], shape: Sequence[int], whole: Sequence[int]
) -> NDArray[np.int64]:
    """Return where rows lie in a whole image.

    Parameters
    ----------
    start, shape
        A box of voxels.
    whole
        Shape of the image.

    Returns
    -------
    array of int64
        For each row (along the last axis) of the box, the index of its first voxel in the
        flattened image.
    """
    index = np.zeros((), np.int64)
    stride = 1
    strides = []
    for n in reversed(whole):
        strides.append(stride)
        stride *= n
    for a, n, step in zip(start[:-1], shape[:-1], strides[:0:-1], strict=True):
        index = index[..., None] + (a + np.arange(n, dtype=np.int64)) * step
    return index.reshape(-1) + start[-1]
