from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled.resample import mean
from lepton_pipe.merge.pyramid import array_mean, downsample_array, has_loop

INTEGERS = ["?", "u1", "i1", "u2", "i2", "u4", "i4"]
FLOATS = ["f4", "f8"]


@st.composite
def cases(draw):
    """Return an array of up to four axes, laid out in some way, and factors."""
    shape = draw(st.lists(st.integers(1, 13), min_size=1, max_size=4))
    factors = [draw(st.integers(1, 5)) for _ in shape]
    factors[:-3] = [1] * len(factors[:-3])
    array = values(shape, np.dtype(draw(st.sampled_from(INTEGERS + FLOATS))), draw(seeds))
    return laid_out(array, draw(st.sampled_from(["C", "F", "view", "reversed", "spread"]))), factors


seeds = st.integers(0, 2**32)


def values(shape, dtype, seed):
    random = np.random.default_rng(seed)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    if dtype.kind == "f":
        # Of very different sizes: every other order of adding would show.
        array = random.standard_normal(shape) * 10.0 ** random.integers(-9, 9, shape)
        special = random.choice([np.nan, np.inf, -np.inf, -0.0], shape)
        return np.where(random.random(shape) < 0.03, special, array).astype(dtype)
    info = np.iinfo(dtype)
    ends = random.choice([info.min, info.max, info.max - 1], shape)
    small = random.integers(max(info.min, -3), 4, shape)
    anything = random.integers(info.min, info.max, shape, endpoint=True)
    return np.choose(random.integers(0, 3, shape), [ends, small, anything]).astype(dtype)


def laid_out(array, how):
    """Return an equal read-only array that lies differently in memory."""
    if how == "F":
        array = np.asfortranarray(array)
    elif how == "view":
        array = np.pad(array, 2)[(slice(2, -2),) * array.ndim]
    elif how == "reversed":
        array = np.ascontiguousarray(array[::-1, ...])[::-1, ...]
    elif how == "spread":
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    array = array.view()
    array.flags.writeable = False
    return array


def bits(array):
    """Return the bytes of an array, every NaN as the same one, whose bits the compiler chooses."""
    return (
        np.where(np.isnan(array), np.nan, array) if array.dtype.kind == "f" else array
    ).tobytes()


@settings(max_examples=300, deadline=None)
@given(cases())
def test_means_are_those_of_whole_arrays_to_the_bit(case):
    array, factors = case
    got = mean(array, factors)
    with np.errstate(all="ignore"):
        expected = array_mean(array, factors) if prod(factors) > 1 else array
    assert got.dtype == expected.dtype
    assert bits(got) == bits(expected)


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_means_do_not_depend_on_blocks(case, data):
    array, factors = case
    cells = [-(-n // f) for n, f in zip(array.shape, factors, strict=True)]
    first = [data.draw(st.integers(0, n - 1)) for n in cells]
    last = [data.draw(st.integers(a + 1, n)) for a, n in zip(first, cells, strict=True)]
    block = tuple(slice(a * f, b * f) for a, b, f in zip(first, last, factors, strict=True))
    whole = mean(array, factors)[tuple(map(slice, first, last))]
    assert bits(mean(array[block], factors)) == bits(whole)


@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("width", [2047, 2048, 2049, 4095, 4096, 4099, 6000])
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_rows_wider_than_the_sums_are_added_in_parts(dtype, width, factor):
    array = values((3, 2, width), np.dtype(dtype), 1)
    with np.errstate(all="ignore"):
        expected = array_mean(array, (2, 2, factor))
    np.testing.assert_array_equal(mean(array, (2, 2, factor)), expected)


def test_a_cell_may_be_wider_than_the_sums():
    array = values((2, 5000), np.dtype("u2"), 1)
    np.testing.assert_array_equal(mean(array, (1, 3000)), array_mean(array, (1, 3000)))
    ones = np.full((32, 32, 64), 65535, "u2")
    assert mean(ones, (32, 32, 32)).tolist() == [[[65535, 65535]]]


@pytest.mark.parametrize(
    ("dtype", "factors"),
    [("u8", (2, 2)), ("i8", (2,)), ("f2", (2, 2)), (">u2", (2, 2)), ("u1", (2, 1, 2, 2))],
)
def test_what_has_no_loop_is_done_by_whole_arrays(dtype, factors):
    array = np.arange(4 ** len(factors)).reshape((4,) * len(factors)).astype(dtype)
    assert not has_loop(array.dtype, factors)
    np.testing.assert_array_equal(downsample_array(array, factors), array_mean(array, factors))
    assert not has_loop(np.dtype("u2"), (64, 64, 64))
    assert has_loop(np.dtype("u2"), (1, 1, 32, 32, 32))


def test_an_empty_array_has_no_cells():
    assert mean(np.empty((0, 4), "u1"), (2, 2)).shape == (0, 2)
