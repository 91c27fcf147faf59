"""Extremes, sums and sums of squares of integers, in one pass over a flat contiguous array."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.compiled import jit


@jit
def integer_moments(values: Any) -> Any:
    """Return smallest, largest, and the sums of integers and of their squares in parts.

    Parts are exact for up to 2**31 values: halves of 32 bits are added up apart.

    Returns
    -------
    low, high
        Of the values' dtype.
    sums
        Of the lower halves, of the upper halves (each counts 2**32), and how many are negative:
        each of them was taken for 2**64 too much.
    squares
        Sums that count 1, 2**32, 2**33, 2**65, 2**64 and 2**96 each.
    """
    low, high = values[0], values[0]
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    lower = upper = negative = np.uint64(0)
    a0 = a1 = b0 = b1 = c0 = c1 = np.uint64(0)
    for i in range(values.size):
        value = values[i]
        low, high = min(low, value), max(high, value)
        bits = np.uint64(value)
        negative += np.uint64(value < 0)
        lower, upper = lower + (bits & mask), upper + (bits >> half)
        size = np.uint64(0) - bits if value < 0 else bits
        near, far = size & mask, size >> half
        a, b, c = near * near, near * far, far * far
        a0, a1 = a0 + (a & mask), a1 + (a >> half)
        b0, b1 = b0 + (b & mask), b1 + (b >> half)
        c0, c1 = c0 + (c & mask), c1 + (c >> half)
    return low, high, (lower, upper, negative), (a0, a1, b0, b1, c0, c1)
