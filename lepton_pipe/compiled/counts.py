"""How often values occur, in one pass over a flat contiguous array.

Words have two tables, used in turn: where neighbours are alike, an increment then need not wait
for the one before it. Four tables fall out of the second-level cache and are slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.compiled import jit

_MOST = (1 << 32) - 1
"""Voxels counted before tables of 32 bits are emptied."""
_TILE = 1024
_SLACK = 1e-6
"""Added to margins: more than the rounding of a fraction to float32."""
WIDEST_MARGIN = 0.25

Table = NDArray[np.int64]


# -- words ----------------------------------------------------------------------------------


@jit
def _two_tables(bits: Any, shift: Any, even: Any, odd: Any) -> None:
    pairs = bits.size // 2
    for i in range(pairs):
        even[bits[2 * i] >> shift] += np.uint32(1)
        odd[bits[2 * i + 1] >> shift] += np.uint32(1)
    if bits.size > 2 * pairs:
        even[bits[2 * pairs] >> shift] += np.uint32(1)


def count_words(parts: Iterable[Any]) -> Table:
    """Return how often each of 65536 numbers occurs: the upper 16 bits of unsigned integers.

    Parameters
    ----------
    parts
        Flat arrays of one dtype, each of at most 2**30.
    """
    counts = np.zeros(1 << 16, np.int64)
    tables = np.zeros((2, 1 << 16), np.uint32)
    room = _MOST
    for bits in parts:
        if bits.size > room:
            _empty(tables, counts)
            room = _MOST
        _two_tables(bits, bits.dtype.type(8 * bits.itemsize - 16), tables[0], tables[1])
        room -= bits.size
    _empty(tables, counts)
    return counts


def _empty(tables: NDArray[np.uint32], counts: Table) -> None:
    for table in tables:
        counts += table
    tables[...] = 0


def count_bytes(parts: Iterable[NDArray[np.uint8]]) -> Table:
    """Return how often each of 256 numbers occurs; two neighbours are counted as one word."""
    last = np.zeros(256, np.int64)
    pairs = count_words(_words(parts, last)).reshape(256, 256)
    counts: Table = pairs.sum(axis=0) + pairs.sum(axis=1) + last
    return counts


def _words(parts: Iterable[NDArray[np.uint8]], last: Table) -> Iterator[NDArray[np.uint16]]:
    """Yield bytes as words; count those that are left over in `last`."""
    for bits in parts:
        even = bits.size // 2 * 2
        last[bits[even:]] += 1
        words = bits[:even] if bits.ctypes.data % 2 == 0 else bits[:even].copy()
        words.flags.writeable = False
        yield words.view(np.uint16)


@jit
def count_next(bits: Any, shift: Any, known: Any, rows: Any, counts: Any) -> None:
    """Count 16 bits of those unsigned integers whose bits above begin as one of `known`.

    Parameters
    ----------
    shift
        How many bits lie below the 16, of the dtype of `bits`.
    known
        Different, in ascending order; fewer than 255.
    rows
        For each number of 16 bits, the first of `known` with these upper bits; 255 where there
        is none.
    counts
        A row of 65536 for each of `known`.
    """
    top = bits.dtype.type(8 * bits.itemsize - 16)
    above = bits.dtype.type(shift + 16)
    for i in range(bits.size):
        row = rows[bits[i] >> top]
        if row < 255:
            begin = bits[i] >> above
            while row < known.size and known[row] < begin:
                row += 1
            if row < known.size and known[row] == begin:
                counts[row, (bits[i] >> shift) & 0xFFFF] += 1


# -- bins of several integers ---------------------------------------------------------------


@jit
def count_bins(bits: Any, first: Any, width: Any, counts: Any) -> None:
    """Count unsigned integers in bins of `width`, of which the first begins at `first`.

    Differences wrap around, so the bits of signed integers may be given. What lies beyond the last
    bin is not counted.

    Parameters
    ----------
    first, width
        Of dtype uint64.
    """
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * bits.itemsize)
    for i in range(bits.size):
        at = (np.uint64(bits[i]) - first) & mask
        if width != 1:
            at //= width
        if at < np.uint64(counts.size):
            counts[at] += 1


# -- bins between edges ---------------------------------------------------------------------


def margin_of(edges: NDArray[Any], scale: Any, denominator: Any) -> float:
    """Return how far from a whole number a place among bins may be on the wrong side of an edge.

    The place of a value, ``(value - first) * scale``, never falls as the value grows, whatever is
    rounded. So if it lies beyond the places of all values below an edge, computed in the very same
    way, the value is not below that edge.

    Returns
    -------
    float
        Bins. Also at least as much as NumPy's own places are off; below 1 it finds the right bin.
    """
    whole = np.arange(edges.size, dtype=np.float64)
    from_first = edges - edges[0]
    ours = from_first * scale
    numpys = from_first / denominator * (edges.size - 1)
    off = max(float(abs(ours - whole).max()), float(abs(numpys - whole).max()))
    return 1.01 * off + _SLACK


@jit
def _places(part: Any, edges: Any, scale: Any, margin: Any, at: Any) -> None:
    """Find the bins of values; -1 where one is outside or close to an edge."""
    first, last = edges[0], edges[-1]
    zero = scale - scale
    top = edges.dtype.type(edges.size - 1)
    low, high = np.float32(margin), np.float32(1) - np.float32(margin)
    for k in range(part.size):
        value = part[k]
        place = (value - first) * scale
        inside = (value >= first) & (value <= last)
        place = place if inside else zero  # what is no number becomes no integer
        place = place if place < top else top
        bin_ = np.int32(place)
        share = np.float32(place - edges.dtype.type(bin_))
        at[k] = bin_ if inside & (share > low) & (share < high) else np.int32(-1)


@jit
def count_between(values: Any, edges: Any, scale: Any, margin: Any, counts: Any) -> None:
    """Count floats between edges at equal distances, exactly as `numpy.histogram` does.

    Parameters
    ----------
    edges
        One more than `counts`; all bins but the last do not hold their upper edge.
    scale
        Bins for each unit.
    margin
        What `margin_of` gives; at most `WIDEST_MARGIN`.
    """
    at = np.empty(_TILE, np.int32)
    last = edges.size - 2
    for start in range(0, values.size, _TILE):
        part = values[start : start + _TILE]
        _places(part, edges, scale, margin, at)
        for k in range(part.size):
            if at[k] >= 0:
                counts[np.uint32(at[k])] += 1
                continue
            value = part[k]
            if not (value >= edges[0] and value <= edges[-1]):
                continue
            bin_ = min(max(np.int64((value - edges[0]) * scale), 0), last)
            while value < edges[bin_]:
                bin_ -= 1
            while bin_ < last and value >= edges[bin_ + 1]:
                bin_ += 1
            counts[bin_] += 1
