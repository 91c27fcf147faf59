"""Sums of floats that do not depend on their order: pairs of a float64 and its rest.

A pair stands for ``total + rest``. Adding to the total is rounded, and what rounding took away is
exactly a float again, which goes to the rest (Knuth, 1969, The Art of Computer Programming, volume
2, 4.2.2; Dekker, 1971, A floating-point technique for extending the available precision). So a sum
is exact while 53 bits hold the rest. That is so, however the signs fall, for 2**31 float32 whose
exponents differ by 20 at most; for their squares it is so for 100,000 of them, where exponents
differ by 12. Beyond, the error is some 2**-100 of the sum: it would take a freak to see it in the
float64 which the sum is rounded to in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_HALF = 2.0**27 + 1
"""Splits a float64 into two of 26 bits, whose products are exact."""


def add(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the rounded sum of floats, and what rounding took from it; NaN if not finite."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def product(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the rounded product of floats, and what rounding took from it."""
    total = a * b
    (a, a_low), (b, b_low) = _split(a), _split(b)
    return total, ((a * b - total) + (a * b_low + a_low * b)) + a_low * b_low


def _split(a: Any) -> tuple[Any, Any]:
    shifted = _HALF * a
    high = shifted - (shifted - a)
    return high, a - high


def reduceat(totals: Floats, rests: Floats, at: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Add up the pairs of each segment, as `numpy.ufunc.reduceat` does; neighbours first.

    Parameters
    ----------
    at
        Where segments start: ascending, each once, 0 among them unless there are no pairs.
    """
    totals, rests = totals.copy(), rests.copy()
    length = np.diff(at, append=totals.size)
    row = np.arange(totals.size) - np.repeat(at, length)
    beyond = np.repeat(length, length) - row
    step, into = 1, np.arange(totals.size)
    while True:
        into = into[(row[into] % (2 * step) == 0) & (beyond[into] > step)]
        if not into.size:
            return totals[at], rests[at]
        with np.errstate(invalid="ignore", over="ignore"):
            totals[into], lost = add(totals[into], totals[into + step])
            rests[into] += rests[into + step] + lost
        step *= 2


def rounded(total: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """Return the pair whose total is the float nearest to both; inf and NaN stay."""
    return add(total, np.where(np.isfinite(rest), rest, 0.0))


def variance(
    count: NDArray[np.int64], sums: tuple[Floats, Floats], squares: tuple[Floats, Floats]
) -> Floats:
    """Return variances from pairs: sums of numbers, and of their squares.

    The standard deviation is good to float64 where it is above 2**-25 of the mean (float32 hardly
    holds less), and never off by more than some steps of float64 at the mean. NaN where a number
    is not finite, or its square beyond float64.
    """
    total, rest = rounded(*sums)
    square, more = rounded(*squares)
    mean_part, mean_low = product(total, total)
    part, low = product(count.astype(np.float64), square)
    low += count * more - (mean_low + 2 * total * rest)
    result: Floats = np.maximum((part - mean_part) + low, 0) / count / count
    return result
