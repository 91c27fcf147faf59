"""Extremes and sums by compiled loops: exact, for floats too."""

from __future__ import annotations

from fractions import Fraction
from math import fsum, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.kernels import reductions
from lepton_pipe.kernels.reductions import moments
from tests.compiled.test_counts import laid_out

INTEGERS = ["int32", "uint32", "int64", "uint64", ">i8"]
FLOATS = ["float32", "float64", "float16", ">f4"]


@settings(max_examples=80, deadline=None)
@given(laid_out(INTEGERS), st.booleans())
def test_integers_are_exact(array, ends):
    if ends:
        array = array.copy()
        info = np.iinfo(array.dtype)
        array[(0,) * array.ndim], array[(-1,) * array.ndim] = info.min, info.max
    numbers = [int(v) for v in array.reshape(-1)]
    found = moments(array)
    assert (found.size, found.low, found.high) == (len(numbers), min(numbers), max(numbers))
    assert found.total == sum(numbers)
    assert found.squares == sum(n * n for n in numbers)
    native = array.astype(array.dtype.newbyteorder("="))
    assert found == reductions._of_integers(native)


@settings(max_examples=80, deadline=None)
@given(laid_out(FLOATS), st.sampled_from([0.0, 1e3, -1e7]))
def test_floats_are_exact_too(array, offset):
    if array.dtype.itemsize > 2:
        array = array + array.dtype.type(offset)
    if not np.isfinite(array).all():
        return
    found, numbers = moments(array), [Fraction(float(v)) for v in array.reshape(-1)]
    assert (found.size, found.low, found.high) == (array.size, array.min(), array.max())
    mean = sum(numbers) / len(numbers)
    assert found.sum == float(sum(numbers))
    assert found.mean == float(mean)
    variance = sum((n - mean) ** 2 for n in numbers) / len(numbers)
    assert found.std == pytest.approx(float(variance) ** 0.5, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 4095, 4096, 4097, 300_000])
def test_every_length_of_tile_and_lane(dtype, size):
    array = np.random.default_rng(size).normal(5, 2, size).astype(dtype)
    found, exact = moments(array), array.astype(np.float64)
    assert (found.low, found.high) == (array.min(), array.max())
    assert found.sum == fsum(exact)
    assert found.std == pytest.approx(exact.std(), rel=1e-12)
    reference = reductions._of_floats(array)
    assert found.sum == pytest.approx(reference.sum, rel=1e-14)
    assert found.std == pytest.approx(reference.std, rel=1e-12)


@pytest.mark.parametrize("at", [0, 5000, 69_999])
def test_one_nan_anywhere_makes_nan(at):
    array = np.ones(70_000, np.float32)
    array[at] = np.nan
    for found in (moments(array), reductions._of_floats(array)):
        assert all(map(isnan, (found.low, found.high, found.sum, found.mean, found.std)))


def test_infinite_values_have_extremes_but_no_spread():
    array = np.ones(5000, np.float32)
    array[7] = np.inf
    assert (moments(array).sum, moments(array).low) == (np.inf, 1.0)
    array[4999] = -np.inf
    for found in (moments(array), reductions._of_floats(array)):
        assert (found.low, found.high) == (-np.inf, np.inf)
        assert isnan(found.sum)
        assert isnan(found.std)


def test_what_floats_can_hardly_hold_keeps_its_spread():
    array = np.array([1e300, -1e300, 3e-320])
    assert moments(array).std == pytest.approx(1e300 * (2 / 3) ** 0.5)
    assert moments(np.full(3, 1.7e308)).sum == np.inf
    assert moments(np.full(3, 1.7e308)).mean == 1.7e308
    assert moments(np.array([5e-324, 0.0])).std == pytest.approx(2.5e-324)


@given(st.integers(1, 2000), st.integers(1, 30))
def test_parts_put_together_are_the_whole(size, parts):
    array = np.random.default_rng(size).normal(3, 50, size).astype(np.float32)
    cut = [moments(p) for p in np.array_split(array, parts) if p.size]
    assert sum(cut[1:], start=cut[0]) == moments(array)


def test_sums_do_not_depend_on_the_layout_in_memory():
    array = np.random.default_rng(0).normal(size=(5, 300, 400)).astype(np.float32)
    cut = np.pad(array, 3)[3:-3, 3:-3, 3:-3]
    assert moments(cut) == moments(array) == moments(np.asfortranarray(array))
