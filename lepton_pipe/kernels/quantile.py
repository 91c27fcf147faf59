"""Exact quantiles of an image of any size, by radix selection.

Every value is mapped to an unsigned integer, its key, in the same order. A pass over the image
counts the next 16 bits of the keys that agree with what is known so far of a quantile's key, and
so finds 16 bits more::

    float32   sign, exponent, high mantissa | low mantissa        2 passes
    int64     16 bits | 16 bits | 16 bits | 16 bits               4 passes

Of integers of up to 16 bits every value is counted, in the one pass that all such reductions share.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, nan, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import array_module, loops, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.counts import (
    check_image,
    dtype_of,
    flat_parts,
    integer_counts,
    is_counted,
    parts,
    smallest_counted,
)
from lepton_pipe.merge.tally import Tally
from lepton_pipe.spec import ImageType, ValueType, kernel

_DIGIT = 16
_MOST = 16
_NO_ROW = 255


def _bits(dtype: np.dtype[Any]) -> int:
    return 8 * dtype.itemsize


def _keys(values: Any) -> Any:
    """Map values to unsigned integers of the same order; NaN to the ends, by its sign."""
    dtype = values.dtype
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = array_module(values).ascontiguousarray(values).view(unsigned).reshape(-1)
    if dtype.kind in "bu":
        return bits
    sign = unsigned.type(1 << (_bits(dtype) - 1))
    if dtype.kind == "i":
        return bits ^ sign
    # A negative float has more magnitude the lower it is: all its bits are turned around.
    negative = (bits >> unsigned.type(_bits(dtype) - 1)).astype(bool)
    return bits ^ (negative * unsigned.type(sign - 1) | sign)


def _value(key: int, dtype: np.dtype[Any]) -> int | float:
    """Return the value that a key was made from."""
    sign = 1 << (_bits(dtype) - 1)
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key ^= sign if key & sign else 2 * sign - 1
    value: int | float = np.array(key, f"u{dtype.itemsize}").view(dtype).item()
    return value


def _probabilities(q: Any) -> list[float]:
    return [float(p) for p in (q if isinstance(q, (Sequence, np.ndarray)) else (q,))]


def _ranks(q: Any, size: int) -> list[int]:
    """Return the ranks (from 0) next to each quantile: all lower ones, then all upper ones."""
    lower = [floor(p * (size - 1)) for p in _probabilities(q)]
    return lower + [min(r + 1, size - 1) for r in lower]


def _check_shares(q: Any) -> None:
    probabilities = _probabilities(q)
    if any(not 0 <= p <= 1 for p in probabilities):
        raise ValueError(f"q={q!r} must be from 0 to 1: it is a share of the voxels")
    if not 1 <= len(probabilities) <= _MOST:
        raise ValueError(
            f"q has {len(probabilities)} values: 1 to {_MOST} can be found at once, each takes "
            "memory in every block; call quantile again for more"
        )


def _check_quantile(image: ImageType, grid: Grid, q: Any) -> None:
    check_image(image, grid)
    if image.dtype.itemsize > 8:
        raise ValueError(f"the image has dtype {image.dtype}; use astype to make it float64")
    _check_shares(q)


# -- from the image, digit by digit ---------------------------------------------------------

Counts = tuple[list[Tally], int]
"""A row of counts for every prefix, and the number of NaN."""


def _add_counts(a: Counts, b: Counts) -> Counts:
    return [x + y for x, y in zip(a[0], b[0], strict=True)], a[1] + b[1]


def _select(
    counts: Counts, q: Any, level: int, state: NDArray[np.uint64] | None, grid: Grid
) -> NDArray[np.uint64]:
    """Find the next digit of every key that is looked for.

    Returns
    -------
    array of uint64
        What is known of the keys of all ranks, then what is left of each rank among the values
        that agree with it. Empty when there are NaN.
    """
    if counts[1] or (state is not None and state.size == 0):
        return np.empty(0, np.uint64)
    ranks = _ranks(q, grid.size) if level == 0 or state is None else _ints(state)[1]
    known = [0] * len(ranks) if level == 0 or state is None else _ints(state)[0]
    row = {prefix: i for i, prefix in enumerate(sorted(set(known)))}
    sums = [np.cumsum(tally.whole()) for tally in counts[0]]
    digits = [
        int(np.searchsorted(sums[row[k]], rank, "right"))
        for k, rank in zip(known, ranks, strict=True)
    ]
    left = [
        rank - (int(sums[row[k]][d - 1]) if d else 0)
        for k, rank, d in zip(known, ranks, digits, strict=True)
    ]
    keys = [k << _DIGIT | d for k, d in zip(known, digits, strict=True)]
    return np.array(keys + left, np.uint64)


def _ints(state: NDArray[np.uint64]) -> tuple[list[int], list[int]]:
    numbers = [int(n) for n in state]
    return numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]


@kernel(
    combine=_add_counts,
    finalize=_select,
    value=ValueType("uint64", (0,)),
    check=_check_quantile,
    scratch=2.0,
    cost=1.0,
)
def quantile_digits(
    image: Any,
    q: Any,  # noqa: ARG001  _select's
    level: int = 0,
    *,
    state: Any = None,
) -> Counts:
    """Count the next 16 bits of the keys that begin as those looked for. Part of `quantile`.

    Parameters
    ----------
    level
        How many times 16 bits are known.
    state
        What the pass before gave.
    """
    known = sorted(set(_ints(state)[0])) if level else [0]
    fast = loops("counts", image) if image.dtype.itemsize > 1 else None
    if fast is None:
        counts = _digits_by_numpy(image, known, level)
    elif level == 0:
        counts = _first_digits(fast, image)
    else:
        counts = _next_digits(fast, image, known, level)
    nans = _nans(image, counts[0]) if level == 0 and image.dtype.kind == "f" else 0
    return [Tally.of(row) for row in counts], nans


def _nans(image: Any, counts: NDArray[np.int64]) -> int:
    """Count NaN; `counts` are those of the upper digit, and tell where there cannot be any."""
    xp = array_module(image)
    ends = np.array([-np.inf, np.inf], image.dtype.newbyteorder("="))
    low, high = (int(k) >> (_bits(image.dtype) - _DIGIT) for k in _keys(ends))
    if not counts[: low + 1].any() and not counts[high:].any():
        return 0
    return sum(int(xp.isnan(part).sum()) for part in parts(image))


def _digits_by_numpy(image: Any, known: list[int], level: int) -> Any:
    digit = min(_DIGIT, _bits(image.dtype))
    counts = array_module(image).zeros((len(known), 1 << digit), np.int64)
    for part in parts(image) if known else ():
        keys = _keys(part)
        keys = keys >> keys.dtype.type(_bits(image.dtype) - digit * (level + 1))
        for row, prefix in zip(counts, known, strict=True):
            _count(row, keys, prefix, level)
    return to_host(counts)


def _count(row: Any, keys: Any, prefix: int, level: int) -> None:
    """Count the last digits of those keys that begin with `prefix`."""
    xp = array_module(keys)
    if level == 0:
        row += xp.bincount(keys.astype(np.intp), minlength=row.size)
        return
    first = keys.dtype.type(prefix << _DIGIT)
    # Differences wrap around: only keys of this prefix are less than a digit above its first.
    digits = keys - first
    # Counts as unsigned integers: CuPy before version 15 adds no signed ones of 64 bits.
    at = digits[digits < row.size].astype(np.intp)
    xp.add.at(row.view(np.uint64), at, np.uint64(1))


def _first_digits(fast: Any, image: NDArray[Any]) -> NDArray[np.int64]:
    """Count the upper bits as they are in memory, then put the counts in the order of keys."""
    words = fast.count_words(flat_parts(image, np.dtype(f"u{image.dtype.itemsize}")))
    counts = np.empty((1, 1 << _DIGIT), np.int64)
    short = np.arange(1 << _DIGIT, dtype=np.uint16).view(f"{image.dtype.kind}2")
    counts[0, _keys(short)] = words
    return counts


def _next_digits(fast: Any, image: NDArray[Any], known: list[int], level: int) -> NDArray[np.int64]:
    """Count the bits after those that begin as `known`; both are turned into bits in memory."""
    dtype, done = np.dtype(f"u{image.dtype.itemsize}"), _DIGIT * level
    raw = [_raw(prefix, image.dtype, done) for prefix in known]
    order = sorted(range(len(raw)), key=raw.__getitem__)
    ascending = np.array([raw[i] for i in order], dtype)
    rows = np.full(1 << _DIGIT, _NO_ROW, np.uint8)
    for i in reversed(range(len(order))):
        rows[int(ascending[i]) >> (done - _DIGIT)] = i
    counts = np.zeros((len(known), 1 << _DIGIT), np.int64)
    shift = dtype.type(_bits(dtype) - done - _DIGIT)
    for flat in flat_parts(image, dtype) if known else ():
        fast.count_next(flat, shift, ascending, rows, counts)
    result = np.empty_like(counts)
    result[order] = counts
    for i, prefix in enumerate(known):
        if _turned(prefix, image.dtype, done):
            result[i] = result[i, ::-1].copy()
    return result


def _turned(prefix: int, dtype: np.dtype[Any], bits: int) -> bool:
    """Tell whether keys that begin with `bits` bits of this prefix are of negative floats."""
    return dtype.kind == "f" and not prefix >> (bits - 1)


def _raw(prefix: int, dtype: np.dtype[Any], bits: int) -> int:
    """Return the upper bits in memory of values whose keys begin with `prefix`."""
    if _turned(prefix, dtype, bits):
        return prefix ^ ((1 << bits) - 1)
    return prefix if dtype.kind == "u" else prefix ^ (1 << (bits - 1))


def _as_q(q: Any) -> ValueType:
    return ValueType("float64", (len(q),) if isinstance(q, Sequence) else ())


@kernel(value=_as_q)
def quantile_of(*, state: Any, q: Any, size: int, dtype: str) -> Any:
    """Return quantiles from the keys of the values next to them. Part of `quantile`."""
    keys = _ints(state)[0] if state.size else []
    return _quantiles([_value(key, np.dtype(dtype)) for key in keys], q, size)


@kernel(value=_as_q, check=_check_shares)
def quantile_of_counts(*, counts: NDArray[np.int64], q: Any, dtype: str) -> Any:
    """Return quantiles of the integers that were counted. Part of `quantile`."""
    _check_shares(q)
    sums = np.cumsum(counts)
    size = int(sums[-1])
    found = np.searchsorted(sums, _ranks(q, size), "right") + smallest_counted(dtype)
    return _quantiles(found.tolist(), q, size)


def _quantiles(values: list[Any], q: Any, size: int) -> Any:
    """Return quantiles from the values below each, then those above; NaN where there are none."""
    probabilities = _probabilities(q)
    results = [nan] * len(probabilities)
    if values:
        results = [
            _between(low, high, p * (size - 1) % 1)
            for p, low, high in zip(
                probabilities, values, values[len(probabilities) :], strict=False
            )
        ]
    return np.array(results) if isinstance(q, Sequence) else results[0]


def _between(low: float, high: float, share: float) -> float:
    """Interpolate as NumPy does, from the nearer end; infinite ends stay what they are."""
    if share == 0 or low == high:
        return float(low)
    if share < 0.5:
        return float(low + (high - low) * share)
    return float(high - (high - low) * (1 - share))


def quantile(image: Any, q: float | Sequence[float]) -> Any:
    """Return exact quantiles of all values.

    Equal to ``numpy.quantile(image, q)`` (linear interpolation) of the image as float64: NumPy
    itself computes ranks of float32 images in float32, which is too coarse beyond 2**24 voxels.

    Reads the image once for dtypes of up to 16 bits, twice for 32 and four times for 64 bits.
    Several quantiles are found in the same passes, those of integers of up to 16 bits also in that
    of `histogram`, `mean` and the like.

    Parameters
    ----------
    q
        A number from 0 to 1, or up to 16 of them.

    Returns
    -------
    float or array of float64
        One for each `q`. NaN when the image holds a NaN.
    """
    shares = tuple(_probabilities(q)) if isinstance(q, (Sequence, np.ndarray)) else float(q)
    dtype = dtype_of(image)
    if is_counted(image):
        return quantile_of_counts(counts=integer_counts(image), q=shares, dtype=str(dtype))
    state = None
    for level in range(max(1, _bits(dtype) // _DIGIT)):
        state = quantile_digits(image, shares, level, state=state)
    return quantile_of(state=state, q=shares, size=prod(image.shape), dtype=str(dtype))
