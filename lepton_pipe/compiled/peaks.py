"""Which of equal voxels is a peak: the loop behind `lepton_pipe.kernels.peaks`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_pipe.compiled import jit

_CHUNK = 1 << 18  # voxels whose candidates are listed at a time


def keep_first(peak: Any, values: Any, distance: Sequence[int]) -> None:
    """Unmark voxels that have an equal one before them, in C order, in their box.

    Parameters
    ----------
    peak
        Marked are voxels that none of their box is above; changed in place. C-contiguous.
    values
        Image of the same shape, C-contiguous.
    distance
        How far the box reaches to each side.
    """
    box = itertools.product(*(range(-d, d + 1) for d in distance))
    before = sorted((o for o in box if o < (0,) * len(distance)), key=lambda o: max(map(abs, o)))
    offsets = np.array(before, np.int64).reshape(-1, values.ndim)
    flat, marked = values.reshape(-1), peak.reshape(-1)
    shape = np.array(values.shape, np.int64)
    for start in range(0, flat.size, _CHUNK):
        found = np.flatnonzero(marked[start : start + _CHUNK]) + start
        if found.size:
            _unmark(marked, flat, found, offsets, offsets @ _apart(values), shape)


def _apart(values: Any) -> Any:
    """Return how far neighbours along each axis are apart in memory, in voxels."""
    return np.array(values.strides, np.int64) // values.itemsize


@jit
def _unmark(peak: Any, values: Any, found: Any, offsets: Any, apart: Any, shape: Any) -> None:
    at = np.empty(shape.shape[0], np.int64)
    for voxel in found:
        rest = voxel
        for axis in range(shape.shape[0] - 1, -1, -1):
            at[axis] = rest % shape[axis]
            rest //= shape[axis]
        for k in range(offsets.shape[0]):
            inside = True
            for axis in range(shape.shape[0]):
                inside &= 0 <= at[axis] + offsets[k, axis] < shape[axis]
            if inside and values[voxel + apart[k]] == values[voxel]:
                peak[voxel] = False
                break
