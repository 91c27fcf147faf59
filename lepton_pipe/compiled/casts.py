"""Conversion to dtypes that hold less, counting what is lost; and from one range to another."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.compiled import jit


@jit
def float_to_integer(values: Any, low: Any, high: Any, out: Any) -> int:
    """Round floats, halves to even, and clip them; NaN becomes 0. Return how many are lost.

    Parameters
    ----------
    low, high
        Limits of the result's dtype, as floats that hold them exactly.
    """
    lost = 0
    zero = low - low
    for i in range(values.size):
        whole = np.rint(values[i])
        lost += not ((whole >= low) & (whole <= high))
        near = whole if whole == whole else zero
        near = near if near > low else low
        near = near if near < high else high
        out[i] = near
    return lost


@jit
def lost_floats(values: Any, low: Any, high: Any) -> tuple[int, int, int]:
    """Count what is NaN, infinite, or finite and beyond the limits once rounded."""
    nan, infinite, out = 0, 0, 0
    for i in range(values.size):
        value = values[i]
        whole = np.rint(value)
        finite = value - value == 0
        is_nan = value != value
        nan += is_nan
        infinite += not (finite | is_nan)
        out += finite & ((whole < low) | (whole > high))
    return nan, infinite, out


@jit
def integer_to_integer(values: Any, low: Any, high: Any, out: Any) -> int:
    """Clip integers, and return how many are lost.

    Parameters
    ----------
    low, high
        Of the values' dtype.
    """
    lost = 0
    for i in range(values.size):
        value = values[i]
        lost += (value < low) | (value > high)
        near = value if value > low else low
        near = near if near < high else high
        out[i] = near
    return lost


@jit
def double_to_single(values: Any, top: Any, out: Any) -> int:
    """Round to float32, and take its largest number for what is larger, but for infinity.

    Returns
    -------
    int
        How many are lost so.
    """
    lost = 0
    for i in range(values.size):
        value = values[i]
        near = np.float32(value)
        over = (abs(near) > top) & (value - value == 0)
        lost += over
        near = (top if value > 0 else -top) if over else near
        out[i] = near
    return lost


@jit
def _rescaled(value: Any, low: Any, span: Any, first: Any, width: Any, one: Any) -> Any:
    zero = low - low
    part = np.divide(value - low, span) if span > 0 else (value - low) * zero
    part = zero if part < 0 else part
    part = one if part > one else part
    return part * width + first


@jit
def rescale_to_float(values: Any, numbers: Any, out: Any) -> None:
    """Map values linearly from one range to another, and clip what lies outside; NaN stays NaN.

    Parameters
    ----------
    numbers
        Where the range begins, its width (if 0, all values become the first of the other), and
        the same of the other range. In their dtype it is all computed.
    """
    low, span, first, width = numbers[0], numbers[1], numbers[2], numbers[3]
    one = numbers.dtype.type(1)  # a Python number would make float64 of all
    for i in range(values.size):
        out[i] = _rescaled(numbers.dtype.type(values[i]), low, span, first, width, one)


@jit
def rescale_to_integer(values: Any, numbers: Any, out: Any) -> None:
    """Do as `rescale_to_float`, then round, halves to even; NaN becomes the first number."""
    low, span, first, width = numbers[0], numbers[1], numbers[2], numbers[3]
    one = numbers.dtype.type(1)  # a Python number would make float64 of all
    for i in range(values.size):
        made = _rescaled(numbers.dtype.type(values[i]), low, span, first, width, one)
        out[i] = np.rint(made if made == made else first)
