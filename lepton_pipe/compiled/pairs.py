"""Floats nearest to exact sums, and what they miss: pairs as in `lepton_pipe.merge.pairs`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_pipe.compiled import jit

_MASK = 2**32 - 1


@jit
def nearest_pairs(limbs: Any, power: int) -> Any:
    """Return totals and rests, a column for each number.

    Parameters
    ----------
    limbs
        int64 ``(limb, number)``; limbs are of 32 bits and not carried, as in
        `lepton_pipe.merge.exact`.
    power
        Numbers are in units of two to this power.

    Returns
    -------
    array
        float64 ``(2, number)``: exact where two floats hold the number, and else to some 2**-150 of
        it. Infinite, and the rest NaN, where a number is beyond float64.
    """
    count, numbers = limbs.shape[0] + 1, limbs.shape[1]
    made = np.empty((2, numbers))
    whole = np.empty(count, np.int64)
    for n in range(numbers):
        for i in range(count - 1):
            whole[i] = limbs[i, n]
        whole[count - 1] = 0
        _carry(whole)
        negative = whole[count - 1] < 0
        if negative:
            for i in range(count):
                whole[i] = -whole[i]
            _carry(whole)
        made[0, n], made[1, n] = _nearest(whole, power)
        if negative:
            made[0, n], made[1, n] = -made[0, n], -made[1, n]
    return made


@jit
def _carry(whole: Any) -> None:
    for i in range(whole.size - 1):
        whole[i + 1] += whole[i] >> 32
        whole[i] &= _MASK


@jit
def _nearest(whole: Any, power: int) -> Any:
    total = rest = least = plain = 0.0
    for i in range(whole.size - 1, -1, -1):
        part = math.ldexp(float(whole[i]), 32 * i + power)
        plain += part
        total, lost = two_sum(total, part)
        rest, lost = two_sum(rest, lost)
        least += lost
    rest, least = two_sum(rest, least)
    total, lost = two_sum(total, rest)
    total, rest = two_sum(total, lost + least)
    return (np.inf, np.nan) if math.isinf(plain) else (total, rest)


@jit
def two_sum(a: float, b: float) -> Any:
    """Return the rounded sum of floats, and what rounding took from it."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)
