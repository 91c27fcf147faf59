from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled.wide import correlate_axis
from tests.kernels.blockwise import noise

DTYPES = (np.uint8, np.float32, np.float64, np.int32, np.bool_)
SHAPES = [(1,), (500,), (3, 140), (140, 3), (300, 290), (4, 9, 6), (2, 30, 1, 31)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), taps=st.sampled_from([1, 2, 7, 128, 129, 300, 777]))
def test_equal_scipy_and_the_same_wherever_it_begins(data, taps):
    shape = data.draw(st.sampled_from(SHAPES))
    axis = data.draw(st.integers(0, len(shape) - 1))
    image = noise(shape, data.draw(st.sampled_from(DTYPES)), 1)
    weights = np.random.default_rng(taps).random(taps) - 0.3
    weights /= np.abs(weights).sum()
    got = correlate_axis(image, axis, weights, slice(None))
    theirs = scipy.ndimage.correlate1d(image.astype(np.float64), weights, axis)
    largest = np.abs(image.astype(np.float64)).max()
    rounding = largest * (2e-15 if got.dtype == np.float64 else 4e-7)
    np.testing.assert_allclose(got, theirs, rtol=0, atol=rounding)

    # A block that reaches as far as the weights do, or to both edges.
    n, along = shape[axis], (slice(None),) * axis
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    low, high = max(0, start - taps // 2), min(n, stop + (taps - 1) // 2)
    if 2 * taps > n:
        low, high = 0, n
    read = image[(*along, slice(low, high))]
    part = correlate_axis(read, axis, weights, slice(start - low, stop - low))
    np.testing.assert_array_equal(part, got[(*along, slice(start, stop))])


def test_columns_do_not_know_of_each_other():
    image = noise((150, 300), np.float32, 1)
    weights = np.hanning(202)[1:]
    whole = correlate_axis(image, 0, weights, slice(10, 90))
    for first, last in ((0, 1), (3, 260), (255, 300)):
        part = correlate_axis(image[:, first:last], 0, weights, slice(10, 90))
        np.testing.assert_array_equal(part, whole[:, first:last])


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_no_number_stays_within_reach(axis):
    image = np.zeros((700, 700), np.float32)
    image[300, 300] = np.nan
    image[10, 10] = np.inf
    weights = np.full(401, 1e-60)  # too small for float32, and not zero
    got = correlate_axis(image, axis, weights, slice(None))
    theirs = scipy.ndimage.correlate1d(image, weights, axis)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(theirs))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(theirs))
