"""What the loops of the separable filter do to a row of voxels before and after weighing.

Row `r` of a buffer is the `n` floats from element `r` on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

ADD, SUBTRACT, MULTIPLY, MAXIMUM, MINIMUM = range(5)


@register_jitable
def operate(code: int, row: Any, r: int, with_: Any, w: int, n: int) -> None:
    """Do to a row what NumPy's ufunc of that name does; NaN stays NaN."""
    if code == ADD:
        for x in range(n):
            row[np.uintp(r + x)] += with_[np.uintp(w + x)]
    elif code == SUBTRACT:
        for x in range(n):
            row[np.uintp(r + x)] -= with_[np.uintp(w + x)]
    elif code == MULTIPLY:
        for x in range(n):
            row[np.uintp(r + x)] *= with_[np.uintp(w + x)]
    elif code == MAXIMUM:
        for x in range(n):
            v, b = row[np.uintp(r + x)], with_[np.uintp(w + x)]
            row[np.uintp(r + x)] = v if v > b or v != v else b
    else:
        for x in range(n):
            v, b = row[np.uintp(r + x)], with_[np.uintp(w + x)]
            row[np.uintp(r + x)] = v if v < b or v != v else b


@register_jitable
def round_row(row: Any, r: int, low: float, high: float, n: int) -> None:
    """Round to whole numbers from `low` to `high`, halves to even; NaN becomes 0."""
    for x in range(n):
        v = np.rint(row[np.uintp(r + x)])
        v = v if v == v else row.dtype.type(0)
        v = v if v > low else low
        row[np.uintp(r + x)] = v if v < high else high


@register_jitable
def tally(row: Any, r: int, low: float, high: float, n: int, lost: Any) -> None:
    """Count what rounding loses of a row; most lose nothing, which is found out first."""
    some = False
    for x in range(n):
        v = np.rint(row[np.uintp(r + x)])
        some |= not ((v >= low) & (v <= high))
    if some:
        nan, infinite, out = 0, 0, 0
        for x in range(n):
            v = row[np.uintp(r + x)]
            whole = np.rint(v)
            finite = v - v == 0
            nan += v != v
            infinite += (v == v) & (not finite)
            out += finite & ((whole < low) | (whole > high))
        lost[0] += nan
        lost[1] += infinite
        lost[2] += out
