"""The smallest and largest value in a window, in as few passes over memory as it needs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import Any

import numpy as np

from lepton_pipe.cuda import lines, tiles
from lepton_pipe.cuda.words import What, are_words
from lepton_pipe.networks import Cells

# Voxels of the largest box for which programs are tried.
_MOST_TILED = 512
# What a pass along one axis costs, as instructions for each word of a program's results.
_PASS_COST = 90


def fits(shape: Sequence[int], dtype: np.dtype[Any], cells: Cells | None) -> bool:
    """Tell whether `extreme` can compute an image of a shape and dtype with a window.

    Any box will do.
    """
    if cells is None:
        return are_words(shape, dtype)
    return tiles.cost(shape, dtype, cells, "smallest") < inf


def extreme(
    image: Any, cells: Cells | None, depth: Sequence[tuple[int, int]], *, largest: bool
) -> Any:
    """Return the smallest or largest value in a window; voxels beyond the edges are left out.

    Parameters
    ----------
    image
        CuPy array for which `fits` holds.
    cells
        Which voxels of the window count, with an axis for each of the image's; None for all.
    depth
        How far the window reaches along each axis.

    Returns
    -------
    array
        Contiguous, of the image's dtype. NaN in the window gives NaN, and a window that lies
        beyond the edges the value that never wins.
    """
    what: What = "largest" if largest else "smallest"
    if cells is None:
        box = [low + high + 1 for low, high in depth]
        cells = np.ones(box, bool) if prod(box) <= _MOST_TILED else None
        passes = _PASS_COST * sum(n > 1 for n in box)
        if cells is None or tiles.cost(image.shape, image.dtype, cells, what) > passes:
            return lines.box_extreme(image, depth, what)
    return tiles.filtered(image, cells, [low for low, _ in depth], what)
