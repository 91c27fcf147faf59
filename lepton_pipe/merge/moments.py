"""Extremes, sum and spread of many numbers, exactly, put together from those of their parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, ldexp, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """What is known of some numbers. Nothing is rounded, so neither order nor cut matters.

    Attributes
    ----------
    size
        How many numbers.
    low, high
        Smallest and largest; NaN where there is a NaN.
    total, squares
        Sum of the finite ones, in units of ``2**power``, and of their squares, in units of its
        square. A float is a multiple of the smallest float there is.
    odd
        Sum of those that are not finite; 0 where all are.
    """

    size: int
    low: int | float
    high: int | float
    total: int
    squares: int
    power: int = 0
    odd: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both."""
        return Moments(
            self.size + other.size,
            _lower(self.low, other.low),
            _higher(self.high, other.high),
            self.total + other.total,
            self.squares + other.squares,
            self.power,
            self.odd + other.odd,
        )

    @property
    def sum(self) -> int | float:
        """The sum: of integers an int, of floats the nearest float to it."""
        if self.odd != 0:
            return self.odd
        return self.total if self.power == 0 else _quotient(self.total, 1 << -self.power)

    @property
    def mean(self) -> float:
        """The nearest float to the mean."""
        if self.odd != 0:
            return self.odd
        return _quotient(self.total, self.size << -self.power)

    @property
    def std(self) -> float:
        """The standard deviation of the population; NaN where a number is not finite."""
        if self.odd != 0:
            return nan
        spread = self.size * self.squares - self.total * self.total
        return _root(spread, self.size * self.size, self.power)


def _quotient(a: int, b: int) -> float:
    """Return the nearest float to ``a / b``; infinite where floats end."""
    try:
        return a / b
    except OverflowError:
        return inf if a > 0 else -inf


def _root(a: int, b: int, power: int) -> float:
    """Return ``sqrt(a / b) * 2**power``; the root alone may be beyond what floats hold."""
    half = (a.bit_length() - b.bit_length()) // 2
    scaled = (a, b << 2 * half) if half >= 0 else (a << -2 * half, b)
    return ldexp(sqrt(scaled[0] / scaled[1]), half + power)


def float_power(dtype: np.dtype[Any]) -> int:
    """Return the power of two that the smallest float of a dtype is: what sums are counted in."""
    return -149 if dtype.itemsize <= np.dtype(np.float32).itemsize else -1074


def of_floats(
    size: int, low: float, high: float, total: float, spread: float, power: int
) -> Moments:
    """Return the moments of floats whose sums were taken in floats, on a device.

    Parameters
    ----------
    total, spread
        Their sum, and the sum of their squared deviations from the mean.
    """
    if not (isfinite(total) and isfinite(spread)):
        return Moments(size, low, high, 0, 0, power, nan if isfinite(total) else total)
    whole = _units(total, -power)
    squares = _units(spread, -2 * power) + whole * whole // size
    return Moments(size, low, high, whole, squares, power)


def _units(value: float, power: int) -> int:
    numerator, denominator = value.as_integer_ratio()
    return (numerator << power) // denominator


def _lower(a: float, b: float) -> float:
    return nan if a != a or b != b else min(a, b)


def _higher(a: float, b: float) -> float:
    return nan if a != a or b != b else max(a, b)


def of_counts(counts: NDArray[np.int64], first: int) -> Moments:
    """Return the moments of integers of at most 16 bits.

    Parameters
    ----------
    counts
        How often each integer occurs; at most 10**14 in all, and not all 0.
    first
        The integer that `counts` begins with.
    """
    found = np.flatnonzero(counts)
    values, often = found + first, counts[found]
    squares = values * values
    # In halves of 16 bits, so that no sum is beyond 63.
    total = int((often * (squares & 0xFFFF)).sum()) + (int((often * (squares >> 16)).sum()) << 16)
    return Moments(
        int(often.sum()),
        int(values[0]),
        int(values[-1]),
        int((often * values).sum()),
        total,
    )
