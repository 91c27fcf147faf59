"""Counting by compiled loops equals NumPy's, value by value."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled import counts as loops
from lepton_pipe.kernels import counts as kernels
from lepton_pipe.kernels.counts import integer_counts, range_counts
from lepton_pipe.kernels.histograms import histogram, histogram_counts
from lepton_pipe.merge.tally import Tally
from tests.kernels.reduced import image

quantile = importlib.import_module("lepton_pipe.kernels.quantile")  # not the function

SMALL = ["uint8", "int8", "uint16", "int16", "bool", ">u2", ">i2"]
WIDE = ["int32", "uint32", "int64", "uint64", ">i4"]


@st.composite
def laid_out(draw, dtypes):
    """An image of 1 to 4 axes: contiguous, turned, cut out of another, or at an odd address."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    shape[-1] = draw(st.integers(1, 300))
    dtype, seed = np.dtype(draw(st.sampled_from(dtypes))), draw(st.integers(0, 2**32))
    array = image(shape, dtype.newbyteorder("=").name, seed).astype(dtype)
    if draw(st.booleans()):  # long runs of equal values
        array = np.sort(array, axis=None).reshape(shape)
    match draw(st.sampled_from(["as it is", "turned", "cut out", "odd address"])):
        case "turned":
            array = array.T
        case "cut out":
            array = np.pad(array, 1)[(slice(1, -1),) * array.ndim]
        case "odd address":
            room = np.empty(array.nbytes + 1, np.uint8)
            room[1:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            array = np.ndarray(array.shape, dtype, room, offset=1)
    array.flags.writeable = False
    return array


@settings(max_examples=80, deadline=None)
@given(laid_out(SMALL))
def test_every_integer_is_counted(array):
    whole = integer_counts(array)
    first = kernels.smallest_counted(array.dtype)
    numbers = array.reshape(-1).astype(np.int64) - first
    np.testing.assert_array_equal(
        whole, np.bincount(numbers, minlength=1 << 8 * array.dtype.itemsize)
    )


def test_tables_are_emptied_before_they_overflow(monkeypatch):
    monkeypatch.setattr(loops, "_MOST", 50)
    parts = [np.full(n, 7, np.uint16) for n in (30, 30, 50, 1, 49)]
    assert loops.count_words(parts)[7] == 160


@settings(max_examples=60, deadline=None)
@given(laid_out(WIDE), st.sampled_from([1, 40, 1000]), st.data())
def test_bins_of_integers(array, most, data):
    spread = array if data.draw(st.booleans()) else array - array % 999
    low, high = int(spread.min()), int(spread.max())
    width = kernels.bin_width(low, high, most)
    got = range_counts(spread, low, high, most)
    expected = np.bincount([(int(v) - low) // width for v in spread.reshape(-1)])
    np.testing.assert_array_equal(got, expected)


def test_what_lies_beyond_the_bins_is_not_written_anywhere():
    array = np.array([-(2**31), 4, 5, 6, 7, 2**31 - 1], np.int32)
    assert range_counts(array, 5, 6).tolist() == [1, 1]


# -- floats between edges -------------------------------------------------------------------


@st.composite
def near_edges(draw):
    """Floats on the edges of bins, next to them, anywhere, and beyond the range."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    bins = draw(st.sampled_from([1, 2, 7, 100, 256, 1000, 65536]))
    start = draw(st.floats(-1e6, 1e6, width=32))
    span = draw(st.sampled_from([0.0, 1e-3, 0.7, 1.0, 256.0, 65536.0, 1e8]))
    ends = float(dtype(start)), float(dtype(start + span))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.uniform(ends[0] - span / 9, ends[1] + span / 9, 300).astype(dtype)
    try:
        edges = np.histogram_bin_edges(np.empty(0, dtype), bins, ends)
    except ValueError:  # too narrow for so many bins
        return values, bins, ends
    edges = rng.choice(edges, 200).astype(dtype)
    beside = [np.nextafter(edges, dtype(way), dtype=dtype) for way in (-np.inf, np.inf)]
    values = np.concatenate([values, edges, *beside, np.array(ends, dtype)])
    if draw(st.booleans()):
        values[:3] = np.nan, np.inf, -np.inf
    return values, bins, ends


@settings(max_examples=200, deadline=None)
@given(near_edges(), st.booleans())
def test_bins_of_floats_are_those_of_numpy(case, of_image):
    values, bins, ends = case
    low, high = (values.dtype.type(e) for e in ends) if of_image else ends
    try:
        expected = np.histogram(values, bins, (low, high))[0]
    except ValueError:
        with pytest.raises(ValueError, match=r"Too many bins|cannot be cut into"):
            histogram(values, bins, ends)
        return
    if of_image:
        got = histogram_counts(values, bins, *ends, of_image=True)
    else:
        got = histogram(values, bins, ends)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ends", [(0, 255), (0, 256), (-3.5, 7), (0.0, 5e-324), (-1e308, 1e308)])
def test_whole_numbers_and_extreme_ranges(dtype, ends):
    values = np.arange(-300, 600).astype(dtype) / (1 if ends[1] > 10 else 10)
    with np.errstate(all="ignore"):
        try:
            expected = np.histogram(values, 256, ends)[0]
        except ValueError:
            with pytest.raises(ValueError, match=r"Too many bins|finite|cannot be cut into"):
                histogram(values, 256, ends)
            return
        np.testing.assert_array_equal(histogram(values, 256, ends), expected)


def test_usual_ranges_take_the_compiled_loop():
    for dtype in (np.float32, np.float64):
        edges = np.histogram_bin_edges(np.empty(0, dtype), 65536, (dtype(0.1), dtype(4000.3)))
        width = edges[-1] - edges[0]
        margin = loops.margin_of(edges, dtype(65536 / width), width)
        assert margin < loops.WIDEST_MARGIN / 4


# -- digits of keys -------------------------------------------------------------------------

KEYED = ["int16", "float16", "float32", "float64", "int32", "uint32", "int64", "uint64", ">f4"]


@settings(max_examples=80, deadline=None)
@given(laid_out(KEYED), st.integers(0, 2**32))
def test_digits_of_keys_are_those_of_numpy(array, seed):
    if array.dtype.kind == "f" and array.size > 9:
        array = array.copy()
        array[(0,) * array.ndim], array[(-1,) * array.ndim] = np.inf, -0.0
    known = [0]
    for level in range(array.dtype.itemsize // 2):
        if level == 0:
            got = quantile._first_digits(loops, array)
        else:
            got = quantile._next_digits(loops, array, known, level)
        native = array.astype(array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(got, quantile._digits_by_numpy(native, known, level))
        found = [
            (k << 16) | int(d)
            for k, row in zip(known, got, strict=True)
            for d in np.flatnonzero(row)
        ]
        chosen = np.random.default_rng(seed).permutation(len(found))[:20]
        known = sorted(found[i] for i in chosen)


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF])
def test_any_nan_is_found(bits):
    array = np.array([1, 2, np.inf, -np.inf, 0], np.float32)
    array[4:].view(np.uint32)[:] = bits
    assert np.isnan(array[4])
    assert np.isnan(quantile.quantile(array, 0.5))


# -- what travels ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2**40)), max_size=6), st.data())
def test_tallies_add_up(entries, data):
    rows = [np.zeros(31, np.int64) for _ in range(data.draw(st.integers(1, 4)))]
    for at, count in entries:
        rows[data.draw(st.integers(0, len(rows) - 1))][at] += count
    total = Tally.of(rows[0])
    for row in rows[1:]:
        total += Tally.of(row)
    np.testing.assert_array_equal(total.whole(), sum(rows))
    assert total.whole().dtype == np.int64


def test_a_tally_of_close_values_is_small():
    counts = np.zeros(1 << 16, np.int64)
    counts[1000:1200] = 40_000
    tally = Tally.of(counts)
    assert (tally.first, tally.counts.size, tally.counts.dtype) == (1000, 200, np.uint16)
