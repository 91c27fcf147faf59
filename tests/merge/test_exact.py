from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.merge import exact

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


@st.composite
def integers(draw):
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    info = np.iinfo(dtype)
    ends = st.sampled_from([int(info.min), int(info.max), 0, 1])
    values = st.lists(st.integers(int(info.min), int(info.max)) | ends, min_size=1, max_size=9)
    return np.array(draw(values), dtype)


def summed(limbs, count):
    return exact.carry([np.array([limb.sum()]) for limb in limbs], count)


@given(integers(), st.integers(0, 2**20))
@settings(max_examples=200, deadline=None)
def test_sums_are_those_of_python_integers(values, times):
    count = exact.limb_count(values.dtype)
    sums = summed(exact.value_limbs(values), count)
    squares = summed(exact.square_limbs(values), count)
    # The same again, `times` times over: what many blocks would add up to.
    sums = exact.carry([limb * times for limb in sums], count)
    squares = exact.carry([limb * times for limb in squares], count)
    total = sum(map(int, values)) * times
    square = sum(int(v) ** 2 for v in values) * times
    assert exact.to_ints(sums)[0] == total
    assert exact.to_ints(squares)[0] == square
    assert exact.to_float(sums)[0] == pytest.approx(total, rel=1e-15)
    assert exact.to_float(squares)[0] == pytest.approx(square, rel=1e-15)
    if abs(total) < 2**63:
        assert exact.to_int64(sums)[0] == total
    else:
        with pytest.raises(OverflowError):
            exact.to_int64(sums)


@given(integers())
@settings(max_examples=200, deadline=None)
def test_variance_is_rounded_once(values):
    count = exact.limb_count(values.dtype)
    got = exact.variance(
        np.array([values.size]),
        summed(exact.value_limbs(values), count),
        summed(exact.square_limbs(values), count),
    )
    expected = statistics.pvariance([int(v) for v in values])
    assert got[0] == pytest.approx(float(expected), rel=1e-15)


def test_variance_takes_each_row_by_the_way_it_needs():
    values = [np.array([0, 1, 0], np.uint32), np.array([0, 2**32 - 1, 2**32 - 1], np.uint32)]
    sums = [summed(exact.value_limbs(v), 3) for v in values]
    squares = [summed(exact.square_limbs(v), 3) for v in values]
    stacked = [
        [np.concatenate(pair) for pair in zip(*limbs, strict=True)] for limbs in (sums, squares)
    ]
    got = exact.variance(np.array([3, 3]), *stacked)
    np.testing.assert_allclose(got, [np.var(v) for v in values], rtol=1e-15)
