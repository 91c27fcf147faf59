"""Pairs of floats against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import fsum, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled.pairs import nearest_pairs
from lepton_pipe.merge import pairs

FLOATS = st.floats(-1e15, 1e15, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-15)


def exactly(total, rest):
    return Fraction(float(total)) + Fraction(float(rest))


@given(FLOATS, FLOATS)
@settings(max_examples=200, deadline=None)
def test_one_sum_and_one_product_are_exact(a, b):
    assert exactly(*pairs.add(a, b)) == Fraction(a) + Fraction(b)
    assert exactly(*pairs.product(a, b)) == Fraction(a) * Fraction(b)


@st.composite
def segments(draw):
    """Float32 of similar size and where segments of them start."""
    n = draw(st.integers(0, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=n) * 2.0 ** rng.integers(-3, 3, n)
    at = sorted({0, *draw(st.lists(st.integers(0, n - 1), max_size=9))}) if n else []
    return values.astype(np.float32).astype(float), np.array(at, np.intp)


@given(segments())
@settings(max_examples=100, deadline=None)
def test_sums_of_segments_are_exact(case):
    values, at = case
    before = values.copy()
    for numbers, rests in ((values, np.zeros_like(values)), pairs.product(values, values)):
        total, rest = pairs.reduceat(numbers, rests, at)
        nearest, _ = pairs.rounded(total, rest)
        ends = [*at[1:], values.size][: at.size]
        for i, (a, b) in enumerate(zip(at, ends, strict=True)):
            whole = [
                Fraction(x) + Fraction(y) for x, y in zip(numbers[a:b], rests[a:b], strict=True)
            ]
            assert exactly(total[i], rest[i]) == sum(whole)
            assert nearest[i] == fsum([*numbers[a:b], *rests[a:b]])
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, -1e6])
def test_variance_is_that_of_exact_sums(offset):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(5, 1000)) + offset).astype(np.float32).astype(float)
    start, count = np.arange(5) * 1000, np.full(5, 1000)
    flat = values.ravel()
    sums = pairs.reduceat(flat, np.zeros(flat.size), start)
    squares = pairs.reduceat(*pairs.product(flat, flat), start)
    result = pairs.variance(count, sums, squares)
    for got, row in zip(result, values, strict=True):
        whole = [Fraction(v) for v in row]
        exact = sum(v * v for v in whole) / 1000 - (sum(whole) / 1000) ** 2
        assert sqrt(got) == pytest.approx(sqrt(exact), rel=1e-15)


def test_equal_numbers_have_no_variance():
    values, start = np.full(3, 0.1), np.zeros(1, int)
    sums = pairs.reduceat(values, np.zeros(3), start)
    squares = pairs.reduceat(*pairs.product(values, values), start)
    assert pairs.variance(np.array([3]), sums, squares) == pytest.approx(0, abs=1e-32)


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_stays_so():
    values = np.array([1, np.inf, 2, -np.inf, np.nan, 3, np.inf, -np.inf, 4])
    sums = pairs.reduceat(values, np.zeros(9), np.array([0, 3, 4, 6, 8]))
    with np.errstate(invalid="ignore"):
        nearest, _ = pairs.rounded(*sums)
    np.testing.assert_array_equal(nearest, [np.inf, -np.inf, np.nan, np.nan, 4])


@given(st.lists(st.integers(-(2**159), 2**159), max_size=9), st.integers(-300, 200))
@settings(max_examples=100, deadline=None)
def test_integers_become_the_nearest_pairs(numbers, power):
    limbs = [
        np.array([(n if i == 4 else n & (2 ** (32 * i + 32) - 1)) >> (32 * i) for n in numbers])
        for i in range(5)
    ]
    limbs = [limb.astype(np.int64) for limb in limbs]
    total, rest = nearest_pairs(np.array(limbs), power)
    for n, mine, more in zip(numbers, total, rest, strict=True):
        whole = Fraction(n) * Fraction(2) ** power
        assert float(mine) == float(whole)
        assert float(more) == float(whole - Fraction(float(mine)))


@pytest.mark.filterwarnings("error")
def test_integers_beyond_float64_are_infinite():
    total, rest = nearest_pairs(np.array([[3, -3, 1]]), 1023)
    np.testing.assert_array_equal(total, [np.inf, -np.inf, 2.0**1023])
    np.testing.assert_array_equal(np.isnan(rest), [True, True, False])
