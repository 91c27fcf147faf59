"""Measurements of labelled objects on the device; of them, a table alone comes to the host.

All that is added up are integers, exactly, so that the order in which threads come does not count;
how is described in ``regions.cu``. The form to compare with is
`lepton_pipe.kernels.regions.measure_by_part`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.cuda import THREADS, compiled
from lepton_pipe.cuda.pieces import blocks_for, pieces_in, source, stored_type

BYTES = 8
"""Bytes of tables for each voxel at most: where objects are smaller, measure them elsewhere."""
_FREE_BYTES = 2**20

_AXES = 5
_TILE = 64
_LEAST_BITS, _MOST_BITS = 10, 20
_SHARED_BYTES = 24 * 2**10
_SLOTS = 256
_IN_SLOT = 7
_IN_ROW_OF_VALUES = 3
_NONE = np.iinfo(np.int64).max
# A voxel adds less than 2**32 to a limb, the square of a float64 less than 6 * 2**32.
_MOST_VOXELS, _MOST_DOUBLES = 2**31 - 2**20, 2**28


def fits(labels: Any, values: Any) -> bool:
    """Tell whether sums over so many voxels, of these values, fit what they are kept in."""
    wide = values is not None and values.dtype.kind == "f" and values.dtype.itemsize == 8
    most = _MOST_DOUBLES if wide else _MOST_VOXELS
    return bool(0 < labels.size <= most and labels.ndim <= _AXES)


@dataclass(frozen=True)
class Digits:
    """How sums of values and of their squares are kept: numbers of digits of 16 bits.

    Attributes
    ----------
    kind
        0 for no values, 1 for integers, 2 for floats.
    base
        Of floats the exponent of the smallest, to which the others are shifted.
    """

    kind: int
    value: int = 2
    square: int = 2
    base: int = 0

    @staticmethod
    def of(dtype: np.dtype[Any] | None, least: int = 1, most: int = 1) -> Digits:
        """Return what is needed for values of a dtype.

        Parameters
        ----------
        least, most
            Of floats the exponents that there are. A few more are taken in: each number of digits
            is compiled.
        """
        if dtype is None:
            return Digits(0)
        if dtype.kind != "f":
            return Digits(1, max(2, dtype.itemsize // 2), max(2, dtype.itemsize))
        mantissa = 53 if dtype.itemsize == 8 else 24
        digits = 4 * -(-(max(0, most - least) + mantissa) // 64)
        return Digits(2, digits, 2 * digits, min(least, most))

    @property
    def slots(self) -> int:
        """How many objects of a tile have room in shared memory."""
        each = 4 * (_IN_SLOT + self.value + self.square + 1) + 24
        return min(_SLOTS, 1 << (_SHARED_BYTES // each).bit_length() - 1)

    @property
    def in_row(self) -> int:
        """How many numbers a row has for them, the extremes among these."""
        return _IN_ROW_OF_VALUES + (self.value + self.square) // 2 if self.kind else 0


class Rows(NamedTuple):
    """What was added up of objects, in the order of their labels.

    Attributes
    ----------
    labels
        int64.
    sums
        int64, a column for each object, as ``regions.cu`` lays out its row: voxels, sums of
        positions along each axis, their least, their most; where there are values which of them are
        not finite (1 NaN, 2 infinity, 4 minus infinity), the keys of the least and the most, and
        limbs of the sum and of the sum of squares. Keys are unsigned, ordered as the values.
    value_limbs
        How many limbs the sum of values has.
    base
        The exponent that floats are in units of.
    """

    labels: NDArray[np.int64]
    sums: NDArray[np.int64]
    value_limbs: int
    base: int


def measured(labels: Any, values: Any) -> Rows | None:
    """Measure the objects of a block.

    Parameters
    ----------
    labels, values
        Of the same shape, on the device, and they `fits`; values may be None. Labels above 0 are
        objects.

    Returns
    -------
    Rows
        On the host; positions count from the first voxel of the block.
        None where there are so many that their tables take more than `BYTES` for each voxel.
    """
    xp = importlib.import_module("cupy")
    labels = xp.ascontiguousarray(labels)
    if values is not None:
        values = xp.ascontiguousarray(values)
        values = values.astype(np.float32) if values.dtype == np.float16 else values
    found = _survey(xp, labels, values)
    if found is None:
        return None
    table, digits = found
    held = table != 0
    names = table[held].view(np.int64)
    count, row = names.size, 1 + 3 * labels.ndim + digits.in_row
    if 8 * row * count + table.size * 12 > _room(labels):
        return None
    rows = xp.empty((count, row), np.int64)
    rows[...] = xp.asarray(_blank(labels.ndim, row))
    order = xp.argsort(names)
    if count:
        numbers, ranks = xp.zeros(table.size, np.int32), xp.empty(count, np.int32)
        ranks[order] = xp.arange(count, dtype=np.int32)
        numbers[held] = ranks
        _measure(labels, values, table, numbers, rows, digits)
    sums = np.empty((row, count), np.int64)
    for number, column in enumerate(sums):
        column[:] = xp.asnumpy(rows[:, number])
    return Rows(xp.asnumpy(names[order]), sums, digits.value // 2, digits.base)


def _room(labels: Any) -> int:
    return int(BYTES * labels.size + _FREE_BYTES)


def _blank(ndim: int, row: int) -> NDArray[np.int64]:
    """Return the row of an object of which nothing is known."""
    blank = np.zeros(row, np.int64)
    blank[1 + ndim : 1 + 2 * ndim] = _NONE
    blank[1 + 2 * ndim : 1 + 3 * ndim] = -1
    if row > 1 + 3 * ndim:
        blank[1 + 3 * ndim + 1] = -1  # unsigned: more than any key
    return blank


def _survey(xp: Any, labels: Any, values: Any) -> tuple[Any, Digits] | None:
    """Return a table of the labels that there are, 0 where it has room, and how to keep sums."""
    dtype = None if values is None else values.dtype
    code_ = code(labels.dtype, dtype, labels.ndim, Digits.of(dtype))
    shape = (1, 1, 1, *labels.shape)[-3:]
    shape = (labels.size // max(1, prod(shape)), *shape)
    pieces = pieces_in(shape)
    bits = min(max(_LEAST_BITS, (labels.size // 16).bit_length()), _MOST_BITS)
    while 12 << bits <= max(_room(labels) // 2, 12 << _LEAST_BITS):
        table = xp.zeros(1 << bits, np.uint64)
        state = xp.asarray(np.array([0, 1 << 30, 0], np.int32))
        extents = [np.int32(n) for n in (*shape[1:], *shape[1:])]
        given = (labels, _or(values, labels), table, np.int32(bits), state, np.uint32(pieces))
        run = compiled(code_, "survey")
        run((blocks_for(pieces),), (THREADS,), (*given, *extents))
        count, least, most = xp.asnumpy(state).tolist()
        if count <= 1 << (bits - 1):
            return table, Digits.of(dtype, least, most)
        bits += 2
    return None


def _measure(labels: Any, values: Any, table: Any, numbers: Any, rows: Any, digits: Digits) -> None:
    shape = (*(1,) * (_AXES - labels.ndim), *labels.shape)
    *outer, height, width = shape
    blocks = prod(outer) * -(-height // _TILE) * -(-width // _TILE)
    given = (labels, _or(values, labels), table, numbers, np.int32(table.size.bit_length() - 1))
    extents = [np.int32(n) for n in (*shape[1:], digits.base)]
    dtype = None if values is None else values.dtype
    run = compiled(code(labels.dtype, dtype, labels.ndim, digits), "measure")
    run((blocks,), (THREADS,), (*given, rows, *extents))


def _or(values: Any, labels: Any) -> Any:
    """Return something to hand over in place of values that are not there."""
    return labels if values is None else values


def code(labels: np.dtype[Any], values: np.dtype[Any] | None, axes: int, digits: Digits) -> str:
    """Return the source for labels and values of some dtypes, in images of so many axes."""
    held = labels if values is None else values
    return source(
        *("sums", "regions"),
        label=stored_type(labels),
        value=stored_type(held),
        values=digits.kind,
        wide_floats=int(held == np.float64),
        axes=axes,
        value_digits=digits.value,
        square_digits=digits.square,
        slots=digits.slots,
    )
