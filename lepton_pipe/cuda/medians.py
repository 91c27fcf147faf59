"""The middle value in a small window, found by comparisons that are written out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from lepton_pipe.cuda import tiles
from lepton_pipe.networks import Cells


def fits(shape: Sequence[int], dtype: np.dtype[Any], cells: Cells) -> bool:
    """Tell whether `median` can compute an image of a shape and dtype with a window."""
    return tiles.cost(shape, dtype, cells, "median") < inf


def median(image: Any, cells: Cells) -> Any:
    """Return the value of rank ``n // 2`` of the `n` voxels of a window.

    The image is mirrored at its edges, the first and the last voxel repeated. Where a window
    holds NaN the value is undefined.

    Parameters
    ----------
    image
        CuPy array for which `fits` holds.
    cells
        Which voxels count, with an axis for each of the image's; that at ``shape // 2`` lies on
        the voxel computed.
    """
    return tiles.filtered(image, cells, [n // 2 for n in cells.shape], "median")
