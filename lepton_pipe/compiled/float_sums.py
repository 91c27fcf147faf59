"""Exact sums of floats and of their squares, in integers, whatever their number and order.

A float is an integer mantissa times a power of two. Mantissas of one exponent are added up as
integers, so nothing is ever rounded; rounding comes once, at the very end. As in Neal, 2015, Fast
exact summation using small and large superaccumulators (there: the small one).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.compiled import jit

_LANES = 64
_TILE = 4096
"""Floats that are looked at together; where their exponents lie close, so are they added."""
_SPREAD = 13
"""Exponents that lie close: 2 * 13 bits of shift, 24 of half a square and 12 of a tile make 62."""
_DOUBLE_SPREAD = 11
_DOUBLE_EXPONENTS = 2048 + 16
_HIDDEN = 1 << 23
"""The first bit of a mantissa, which floats leave out unless they are the smallest."""
_PART = 1 << 25
"""Floats after which tables are read out: no entry of 64 bits overflows before."""
_EXPONENTS = 256 + 16


@jit
def ends(values: Any, low: Any, high: Any) -> Any:
    """Find the smallest and largest of some floats; return how many are not finite.

    Parameters
    ----------
    low, high
        At least 64 of the values' dtype, each +inf or -inf at first. Afterwards their smallest and
        largest are those of the values; a NaN is passed over.
    """
    odd = 0
    whole = values.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        for k in range(_LANES):
            value = values[start + k]
            low[k] = value if value < low[k] else low[k]
            high[k] = value if value > high[k] else high[k]
            odd += value - value != 0
    for i in range(whole, values.size):
        value = values[i]
        low[0] = value if value < low[0] else low[0]
        high[0] = value if value > high[0] else high[0]
        odd += value - value != 0
    return odd


@jit
def _exponents(bits: Any) -> Any:
    """Return the smallest exponent of a tile, zeros apart, and the largest."""
    low, high = np.int32(255), np.int32(1)
    for i in range(bits.size):
        size = np.int32(bits[i] & np.uint32(0x7FFFFFFF))
        exponent = size >> 23
        high = max(high, exponent)
        low = min(low, exponent if size != 0 else np.int32(255))
    return min(max(low, np.int32(1)), high), high


@jit
def _add_close(bits: Any, base: Any, sums: Any, high: Any, low: Any) -> None:
    s, h, l = np.int64(0), np.int64(0), np.int64(0)  # noqa: E741
    for i in range(bits.size):
        u = np.int64(bits[i])
        e = (u >> 23) & 255
        m = (u & 0x7FFFFF) | ((u & 0x7F800000 != 0) * _HIDDEN)
        shift = max(max(e, 1) - base, 0)
        negative = -(u >> 31)
        square = m * m
        s += ((m ^ negative) - negative) << shift
        h += (square >> 24) << (2 * shift)
        l += (square & 0xFFFFFF) << (2 * shift)  # noqa: E741
    sums[base] += s
    # For squares 2**32 is sixteen exponents.
    high[base] += h & 0xFFFFFFFF
    high[base + 16] += h >> 32
    low[base] += l & 0xFFFFFFFF
    low[base + 16] += l >> 32


@jit
def _add_far(bits: Any, sums: Any, high: Any, low: Any) -> None:
    for i in range(bits.size):
        u = np.int64(bits[i])
        e = max((u >> 23) & 255, 1)
        m = (u & 0x7FFFFF) | ((u & 0x7F800000 != 0) * _HIDDEN)
        square = m * m
        sums[e] += -m if u >> 31 else m
        high[e] += square >> 24
        low[e] += square & 0xFFFFFF


@jit
def _add_singles(bits: Any, sums: Any, high: Any, low: Any) -> None:
    for start in range(0, bits.size, _TILE):
        tile = bits[start : start + _TILE]
        smallest, largest = _exponents(tile)
        if largest - smallest <= _SPREAD:
            _add_close(tile, smallest, sums, high, low)
        else:
            _add_far(tile, sums, high, low)


@jit
def _double_exponents(bits: Any) -> Any:
    """Return the smallest exponent of a tile, zeros apart, and the largest."""
    low, high = np.int64(2047), np.int64(1)
    for i in range(bits.size):
        size = bits[i] & np.int64(0x7FFFFFFFFFFFFFFF)
        exponent = size >> 52
        high = max(high, exponent)
        low = min(low, exponent if size != 0 else np.int64(2047))
    return min(max(low, np.int64(1)), high), high


@jit
def _add_double_tile(bits: Any, base: Any, tables: Any) -> None:
    upper = lower = high = middle = low = lowest = np.int64(0)
    for i in range(bits.size):
        u = bits[i]
        e = (u >> 52) & 2047
        m = (u & 0xFFFFFFFFFFFFF) | ((e != 0) * (np.int64(1) << 52))
        shift = max(max(e, 1) - base, 0)
        a, b = m >> 27, m & 0x7FFFFFF
        negative = u >> 63
        upper += ((a ^ negative) - negative) << shift
        lower += ((b ^ negative) - negative) << shift
        # (a 2**27 + b)**2 = a**2 2**54 + a b 2**28 + b**2, each cut to pieces of 27 bits.
        s, t, v = a * a, a * b, b * b
        high += (s >> 27) << (2 * shift)
        middle += ((s & 0x7FFFFFF) + (t >> 26)) << (2 * shift)
        low += (((t & 0x3FFFFFF) << 1) + (v >> 27)) << (2 * shift)
        lowest += (v & 0x7FFFFFF) << (2 * shift)
    tables[0, base] += upper
    tables[1, base] += lower
    for k, part in enumerate((high, middle, low, lowest)):
        # For squares 2**32 is sixteen exponents.
        tables[2 + k, base] += part & 0xFFFFFFFF
        tables[2 + k, base + 16] += part >> 32


@jit
def _add_doubles(bits: Any, tables: Any) -> None:
    for start in range(0, bits.size, _TILE):
        tile = bits[start : start + _TILE]
        smallest, largest = _double_exponents(tile)
        if largest - smallest <= _DOUBLE_SPREAD:
            _add_double_tile(tile, smallest, tables)
            continue
        for i in range(tile.size):
            one = tile[i : i + 1]
            _add_double_tile(one, max((one[0] >> 52) & 2047, 1), tables)


def float_sums(values: Any) -> tuple[int, int]:
    """Return the sum of finite floats, and of their squares, exactly.

    Parameters
    ----------
    values
        float32 or float64, finite, flat and contiguous.

    Returns
    -------
    total, squares
        Integers; in units of the smallest float of the dtype, and of its square.
    """
    total = squares = 0
    for start in range(0, values.size, _PART):
        more = _part_sums(values[start : start + _PART])
        total, squares = total + more[0], squares + more[1]
    return total, squares


def _part_sums(values: Any) -> tuple[int, int]:
    if values.dtype == np.float32:
        sums, high, low = np.zeros((3, _EXPONENTS), np.int64)
        _add_singles(values.view(np.uint32), sums, high, low)
        return _shifted(sums, 1), (_shifted(high, 2) << 24) + _shifted(low, 2)
    tables = np.zeros((6, _DOUBLE_EXPONENTS), np.int64)
    _add_doubles(values.view(np.int64), tables)
    upper, lower, high, middle, low, lowest = tables
    total = (_shifted(upper, 1) << 27) + _shifted(lower, 1)
    squares = (_shifted(high, 2) << 81) + (_shifted(middle, 2) << 54)
    squares += (_shifted(low, 2) << 27) + _shifted(lowest, 2)
    return total, squares


def _shifted(table: Any, power: int) -> int:
    """Return the sum of a table, each exponent's entry at its place."""
    return sum(int(table[e]) << (power * (int(e) - 1)) for e in np.flatnonzero(table))
