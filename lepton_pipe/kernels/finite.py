"""NaN and infinities of images of floats, counted for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import loops
from lepton_pipe.kernels.counts import flat_parts, parts
from lepton_pipe.spec import NotFinite


def count_not_finite(image: NDArray[Any]) -> NotFinite:
    """Count the NaN and the infinities in an image of floats, on the CPU."""
    fast = loops("finite", image) if image.dtype.itemsize <= 8 else None
    if fast is None:
        return _simply_counted(image)
    unsigned = np.dtype(f"u{image.dtype.itemsize}")
    infinity = unsigned.type(np.array(np.inf, image.dtype.newbyteorder("=")).view(unsigned))
    magnitude = unsigned.type(np.iinfo(unsigned).max >> 1)
    nan, beyond = 0, 0
    for bits in flat_parts(image, unsigned):
        found = fast.not_finite(bits, magnitude, infinity)
        nan, beyond = nan + found[0], beyond + found[1]
    return NotFinite(nan, beyond - nan)


def _simply_counted(image: NDArray[Any]) -> NotFinite:
    """Count with NumPy."""
    nan = sum(int(np.isnan(part).sum()) for part in parts(image))
    return NotFinite(nan, sum(int(np.isinf(part).sum()) for part in parts(image)))
