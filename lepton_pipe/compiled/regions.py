"""Measurements of labelled objects in one pass, by runs along rows.

`Objects` is fed a block part by part. In each part it finds the runs of equal labels, looks up
which object each of them belongs to, and adds up where they lie and the values in them. What is
added up are integers, exactly, and floats in pairs that lose nothing. The form to compare with is
`lepton_pipe.kernels.regions.measure_by_part`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.compiled import jit
from lepton_pipe.compiled.pairs import two_sum

PART = 1 << 18
"""Voxels of a part at most: the table of its runs takes up to 12 bytes for each."""
LEAST = 1 << 14
"""Voxels of a part that are worth the call."""
MOST_VOXELS = 2**31 - 1

_CHUNK = 16
_AXES = 5
_COUNT, _SUM, _LOW, _HIGH = 0, 1, 1 + _AXES, 1 + 2 * _AXES
_FEW = 1 << 10
_HALF = 2.0**27 + 1  # splits a float64 into two of 26 bits
_MOST = np.iinfo(np.int64).max
_LABELS = ("uint8", "uint16", "int32", "uint32", "int64")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, 1973): spreads labels evenly


def fits(labels: Any, values: Any) -> bool:
    """Tell whether sums over so many voxels, of these values, fit 64 bits."""
    small = values is None or values.dtype.kind in "bf" or values.dtype.itemsize <= 4
    return bool(labels.size <= MOST_VOXELS and small)


class Objects:
    """What is known of the objects of a block.

    Parameters
    ----------
    dtype
        Of the values to measure; None where only the objects' places count.

    Attributes
    ----------
    count
        Number of objects.
    """

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        self.count = 0
        self._add_values, blank = _values_of(dtype)
        self._blank_place = np.zeros(1 + 3 * _AXES, np.int64)
        self._blank_place[_LOW:_HIGH], self._blank_place[_HIGH:] = _MOST, -1
        self._blank_value = blank
        self._labels = np.empty(0, np.int64)
        self._places = np.empty((0, self._blank_place.size), np.int64)
        self._values = np.empty((0, blank.size), blank.dtype)
        self._runs = np.empty((0, 3), np.int32)
        self._grow()

    def _grow(self) -> None:
        """Make room for twice as many objects."""
        size = max(_FEW, 2 * self._labels.size)
        self._labels = np.concatenate([self._labels, np.empty(size, np.int64)])[:size]
        self._places = _extended(self._places, self._blank_place, size)
        self._values = _extended(self._values, self._blank_value, size)
        self._table = np.full(2 * size, -1, np.int32)
        _fill(self._labels[: self.count], self._table)

    def add(self, labels: NDArray[Any], values: NDArray[Any] | None, start: Sequence[int]) -> None:
        """Count the voxels of a part that begins at the voxel `start`.

        Parameters
        ----------
        labels, values
            Of the same shape, at most `PART` voxels, of at most 5 axes. Labels above 0 are objects.
        """
        if labels.size > len(self._runs):
            self._runs = np.empty((labels.size, 3), np.int32)
        shape = (*(1,) * (_AXES - labels.ndim), *labels.shape)
        flat = _flat(labels if labels.dtype.name in _LABELS else labels.astype(np.int64))
        rows = np.zeros(flat.size // shape[-1] + 1, np.int32)
        while True:
            args = (flat, shape[-1], rows, self._runs, self._labels, self._table)
            found, self.count = _find(*args, self.count)
            if found >= 0:
                break
            self._grow()
        if not found:
            return
        corner = (*(0,) * (_AXES - labels.ndim), *start)
        _add_places(shape, corner, rows, self._runs, self._places)
        if values is not None and self._add_values is not None:
            self._add_values(_flat(_plain(values)), shape[-1], rows, self._runs, self._values)

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of the objects, in order; so are all other columns."""
        return self._labels[self._order()]

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of voxels of each object."""
        return self._place(_COUNT)

    def positions(self, axis: int) -> NDArray[np.int64]:
        """Return the sum of the positions of an object's voxels along an axis, -1 for the last."""
        return self._place(_LOW + axis)

    def extents(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and the last position along an axis, -1 for the last."""
        return self._place(_HIGH + axis), self._place(_HIGH + _AXES + axis)

    def integers(
        self,
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], NDArray[Any], NDArray[Any]]:
        """Return sums of integers and of their squares in limbs, the smallest and the largest.

        Limbs stand for multiples of 1, 2**32 ..., see `lepton_pipe.merge.exact`.
        """
        total, *squares, low, high = np.ascontiguousarray(self._values[self._order()].T)
        return [total], squares, low, high

    def floats(self) -> NDArray[np.float64]:
        """Return what was added up of floats, ``(6, objects)``.

        Sum and its rest, sum of squares and its rest (what rounding took, as in
        `lepton_pipe.merge.pairs`), smallest and largest.
        """
        return np.ascontiguousarray(self._values[self._order()].T)

    def _place(self, column: int) -> NDArray[np.int64]:
        values: NDArray[np.int64] = self._places[self._order(), column]
        return values

    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self._labels[: self.count])


def _extended(array: NDArray[Any], blank: NDArray[Any], size: int) -> NDArray[Any]:
    result = np.empty((size, blank.size), blank.dtype)
    result[: len(array)] = array
    result[len(array) :] = blank
    return result


def _values_of(dtype: np.dtype[Any] | None) -> tuple[Any, NDArray[Any]]:
    """Return what adds values up, and the sums of no values."""
    if dtype is None:
        return None, np.empty(0, np.int64)
    if dtype.kind == "f":
        return _add_floats, np.array([0, 0, 0, 0, np.inf, -np.inf])
    blank = np.array([0, 0, 0, _MOST, -_MOST])
    return (_add_small if dtype.itemsize <= 2 else _add_large), blank


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    flat.flags.writeable = False  # one compiled form for views that are and are not
    return flat


@jit
def _slot(label: Any, labels: Any, table: Any) -> Any:
    """Return where a label is in a table of indices into `labels`, or where it should go."""
    size = np.uint64(table.size)
    at = ((np.uint64(label) * _MIX) >> np.uint64(32)) & (size - np.uint64(1))
    while table[at] >= 0 and labels[table[at]] != label:
        at = (at + np.uint64(1)) & (size - np.uint64(1))
    return at


@jit
def _fill(labels: Any, table: Any) -> None:
    for i in range(labels.size):
        table[_slot(labels[i], labels, table)] = i


@jit
def _find(
    flat: Any, length: int, rows: Any, runs: Any, labels: Any, table: Any, count: int
) -> tuple[int, int]:
    """Find runs and their objects; new labels are put into `labels` and `table`.

    Returns
    -------
    found, count
        Number of runs, -1 where there was no room for all labels; number of objects.
    """
    found = 0
    for r in range(rows.size - 1):
        row = flat[r * length : (r + 1) * length]
        any_label = row[0] ^ row[0]
        for i in range(length):  # most rows of most images are background
            any_label |= row[i]
        x = 0 if any_label else length
        while x < length:
            label = row[x]
            start = x
            x += 1
            while x < length and x & (_CHUNK - 1) and row[x] == label:
                x += 1
            if x & (_CHUNK - 1) == 0:
                while x + _CHUNK <= length:
                    other = label ^ label
                    for i in range(_CHUNK):
                        other |= row[x + i] ^ label
                    if other:
                        break
                    x += _CHUNK
                while x < length and row[x] == label:
                    x += 1
            if label > 0:
                at = _slot(label, labels, table)
                k = table[at]
                if k < 0:
                    if count == labels.size:
                        return -1, count
                    labels[count] = label
                    table[at] = k = count
                    count += 1
                runs[found, 0], runs[found, 1], runs[found, 2] = start, x, k
                found += 1
        rows[r + 1] = found
    return found, count


@jit
def _add_places(shape: Any, corner: Any, rows: Any, runs: Any, places: Any) -> None:
    r = 0
    for t in range(corner[0], corner[0] + shape[0]):
        for c in range(corner[1], corner[1] + shape[1]):
            for z in range(corner[2], corner[2] + shape[2]):
                for y in range(corner[3], corner[3] + shape[3]):
                    at = (t, c, z, y)
                    for i in range(rows[r], rows[r + 1]):
                        place = places[runs[i, 2]]
                        first, last = runs[i, 0] + corner[4], runs[i, 1] - 1 + corner[4]
                        n = last - first + 1
                        place[_COUNT] += n
                        for a in range(4):
                            place[_SUM + a] += at[a] * n
                            place[_LOW + a] = min(place[_LOW + a], at[a])
                            place[_HIGH + a] = max(place[_HIGH + a], at[a])
                        place[_SUM + 4] += (first + last) * n // 2
                        place[_LOW + 4] = min(place[_LOW + 4], first)
                        place[_HIGH + 4] = max(place[_HIGH + 4], last)
                    r += 1


@jit
def _add_small(flat: Any, length: int, rows: Any, runs: Any, sums: Any) -> None:
    """Add up integers of up to 16 bits: the squares of 2**31 of them fit 64 bits."""
    for r in range(rows.size - 1):
        row = flat[r * length : (r + 1) * length]
        for i in range(rows[r], rows[r + 1]):
            total, square = np.int64(0), np.int64(0)
            low = high = np.int64(row[runs[i, 0]])
            for x in range(runs[i, 0], runs[i, 1]):
                value = np.int64(row[x])
                total += value
                square += value * value
                low, high = min(low, value), max(high, value)
            into = sums[runs[i, 2]]
            into[0] += total
            into[1] += square
            into[3], into[4] = min(into[3], low), max(into[4], high)


@jit
def _add_large(flat: Any, length: int, rows: Any, runs: Any, sums: Any) -> None:
    """Add up integers of 32 bits; their squares in halves of 32 bits."""
    for r in range(rows.size - 1):
        row = flat[r * length : (r + 1) * length]
        for i in range(rows[r], rows[r + 1]):
            into = sums[runs[i, 2]]
            for x in range(runs[i, 0], runs[i, 1]):
                value = np.int64(row[x])
                square = np.uint64(abs(value)) * np.uint64(abs(value))
                into[0] += value
                into[1] += np.int64(square & np.uint64(0xFFFFFFFF))
                into[2] += np.int64(square >> np.uint64(32))
                into[3], into[4] = min(into[3], value), max(into[4], value)


@jit
def _add_floats(flat: Any, length: int, rows: Any, runs: Any, sums: Any) -> None:
    """Add up floats and their squares in pairs."""
    wide = flat.itemsize > 4
    for r in range(rows.size - 1):
        row = flat[r * length : (r + 1) * length]
        for i in range(rows[r], rows[r + 1]):
            into = sums[runs[i, 2]]
            total, rest, squares, more, low, high = into
            for x in range(runs[i, 0], runs[i, 1]):
                value = np.float64(row[x])
                total, lost = two_sum(total, value)
                rest += lost
                square = value * value
                squares, lost = two_sum(squares, square)
                more += lost
                if wide:
                    more += _square_rest(value, square)
                low = value if value < low else low
                high = value if value > high else high
            if total != total:  # a NaN, or infinities of both signs
                low, high = _extremes(row[runs[i, 0] : runs[i, 1]], into[4], into[5])
            into[0], into[1], into[2], into[3] = total, rest, squares, more
            into[4], into[5] = low, high


@jit
def _square_rest(value: Any, square: Any) -> Any:
    """Return what rounding took from the square of a float64."""
    shifted = _HALF * value
    high = shifted - (shifted - value)
    low = value - high
    return ((high * high - square) + 2 * high * low) + low * low


@jit
def _extremes(values: Any, low: Any, high: Any) -> Any:
    for value in values:  # whatever is compared with NaN, NaN stays
        low = value if value < low or np.isnan(value) else low
        high = value if value > high or np.isnan(value) else high
    return low, high
