"""Sums of floats are exact: against fractions, for any order and any cut."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lepton_pipe.compiled import float_sums as module
from lepton_pipe.compiled.float_sums import float_sums
from lepton_pipe.merge.moments import float_power


def exact(values):
    one = Fraction(2) ** float_power(values.dtype)
    total, squares = float_sums(values)
    assert total * one == sum(Fraction(float(v)) for v in values)
    assert squares * one * one == sum(Fraction(float(v)) ** 2 for v in values)


def floats(width):
    finite = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return st.one_of(finite, st.floats(0, 4096, width=width), st.just(0.0), st.just(-0.0))


@given(arrays(np.float32, st.integers(0, 60), elements=floats(32)))
def test_float32(values):
    exact(values)


@given(arrays(np.float64, st.integers(0, 60), elements=floats(64)))
def test_float64(values):
    exact(values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_tiles_of_like_and_unlike_exponents(dtype):
    random = np.random.default_rng(1)
    like = random.normal(300, 40, 9000)
    unlike = random.normal(0, 1, 9000) * 2.0 ** random.integers(-30, 30, 9000)
    tiny = np.full(5, np.finfo(dtype).smallest_subnormal)
    exact(np.concatenate([like, unlike, -like, tiny]).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_there_are_do_not_overflow(dtype, monkeypatch):
    top = np.finfo(dtype).max
    exact(np.full(module._TILE + 7, top, dtype))
    exact(np.tile(np.array([top, -top], dtype), 5000))
    # Values that fill a tile's bits: the largest mantissas at both ends of the spread.
    bits = np.finfo(dtype).nmant + 1
    for spread in (module._SPREAD, module._DOUBLE_SPREAD):
        large, small = 2.0**spread * (2 - 2.0 ** (1 - bits)), 2 - 2.0 ** (1 - bits)
        exact(np.where(np.arange(20_000) % 2, large, small).astype(dtype))
        exact(np.full(9000, -large, dtype))
    monkeypatch.setattr(module, "_PART", 1000)
    exact(np.full(2500, top, dtype))


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_neither_order_nor_cut_matters(random, parts):
    values = np.random.default_rng(random.randrange(2**32)).normal(5, 3, 500).astype(np.float32)
    whole = float_sums(values)
    shuffled = np.random.default_rng(3).permutation(values)
    cut = [float_sums(np.ascontiguousarray(p)) for p in np.array_split(shuffled, parts)]
    assert (sum(t for t, _ in cut), sum(s for _, s in cut)) == whole
