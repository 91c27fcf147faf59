"""Compiled measurements equal those made by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled import regions as fast
from lepton_pipe.kernels.regions import _measure_compiled, measure_by_part, regionprops
from lepton_pipe.merge.pairs import rounded
from tests.kernels.reduced import image, shapes

NEEDS = ("position", "bbox", "sum", "range", "spread")
LABELS = ("int64", "uint16", "int8", "uint64")
VALUES = ("uint8", "int16", "uint32", "int32", "bool", "float32", "float64", "float16")


@st.composite
def measured(draw):
    """Labels and values as they may lie in memory; NaN and infinities among floats."""
    shape = draw(shapes(min_dims=1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(-2, draw(st.sampled_from([2, 7, 100])), shape)
    labels *= rng.random(shape) < draw(st.floats(0, 1))
    if draw(st.booleans()):
        labels = np.repeat(labels, draw(st.integers(2, 40)), -1)[..., : shape[-1]]
    dtype = draw(st.sampled_from(LABELS))
    labels = labels.clip(0 if dtype[0] == "u" else None).astype(dtype)
    values = image(shape, draw(st.sampled_from(VALUES)), draw(st.integers(0, 99)))
    if values.dtype.kind == "f":
        odd = rng.random(shape) < draw(st.sampled_from([0, 0, 0.01]))
        values[odd] = rng.choice([np.nan, np.inf, -np.inf], odd.sum())
    if draw(st.booleans()):
        labels, values = np.asfortranarray(labels), values[..., ::-1]
    for array in (labels, values):
        array.flags.writeable = False
    return labels, values, frozenset(draw(st.sets(st.sampled_from(NEEDS))))


def same(got, expected):
    assert set(got) == set(expected)
    for name, column in expected.items():
        assert got[name].dtype == column.dtype, name
        rule, _, of = name.partition(":")
        if rule == "total":
            mine, theirs = (rounded(t[name], t[f"rest:{of}"])[0] for t in (got, expected))
            np.testing.assert_array_equal(mine, theirs, name)
        elif rule != "rest":
            np.testing.assert_array_equal(got[name], column, name)


@given(measured())
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_tables_equal_those_by_part(case):
    labels, values, needs = case
    corner = [7 * i for i in range(labels.ndim)]
    same(
        _measure_compiled(fast, labels, values, corner, needs),
        measure_by_part(labels, values, corner, needs),
    )
    places = needs & {"position", "bbox"}
    same(
        _measure_compiled(fast, labels, None, corner, places),
        measure_by_part(labels, None, corner, places),
    )


@pytest.mark.parametrize("step", [1, 2**20, 2**32, 2**40 + 1])
def test_any_number_of_objects_has_room(step):
    labels = np.random.default_rng(0).permutation(30_000).reshape(100, 300) * step
    got = _measure_compiled(fast, labels, None, (0, 0), frozenset(["bbox"]))
    assert got["label"].tolist() == [i * step for i in range(1, 30_000)]
    assert (got["count"] == 1).all()
    where = np.argsort(labels.ravel())[1:]
    np.testing.assert_array_equal(got["min:0"], where // 300)
    np.testing.assert_array_equal(got["max:1"], where % 300)


def test_an_outlier_that_comes_first_does_not_hurt_the_deviation():
    values = np.random.default_rng(0).normal(0, 1, (50, 60))
    values[0, 0] = 1e6
    labels = np.ones(values.shape, np.int32)
    result = regionprops(labels, values, ("intensity_std",))
    np.testing.assert_allclose(result["intensity_std"], values.std(), rtol=1e-11)


def test_what_64_bits_do_not_hold_is_left_to_the_plain_form():
    labels = np.ones((2, 2), np.int64)
    assert fast.fits(labels, labels.astype(np.uint32))
    assert fast.fits(labels, labels.astype(np.float64))
    assert not fast.fits(labels, labels)
    assert not fast.fits(np.broadcast_to(labels[0, 0], (2**16, 2**15)), None)
