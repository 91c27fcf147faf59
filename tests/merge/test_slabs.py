from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.merge.slabs import row_index, runs, slabs

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_slabs_are_small_and_follow_each_other_in_c_order(shape, most):
    index = np.arange(prod(shape)).reshape(shape)
    found = [index[part].ravel() for part in slabs(shape, most)]
    assert all(0 < f.size <= most for f in found)
    np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *found]), index.ravel())


def test_slabs_are_not_smaller_than_they_must_be():
    assert len(list(slabs((10, 20, 30), 6000))) == 1
    assert len(list(slabs((10, 20, 30), 1200))) == 5
    assert len(list(slabs((10, 20, 30), 29))) == 400


@given(shapes, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_runs_lead_back_to_the_array(shape, seed):
    array = np.random.default_rng(seed).integers(0, 2, shape)
    starts, values, lengths = runs(array)
    np.testing.assert_array_equal(np.repeat(values, lengths), array.ravel())
    rows = starts // shape[-1]
    np.testing.assert_array_equal(rows, (starts + lengths - 1) // shape[-1])
    same_row = rows[1:] == rows[:-1]
    assert (values[1:] != values[:-1])[same_row].all()


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_row_index_is_where_rows_lie(data):
    whole = data.draw(shapes)
    start = [data.draw(st.integers(0, n - 1)) for n in whole]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, whole, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    expected = np.arange(prod(whole)).reshape(whole)[box][..., 0].ravel()
    shape = [b - a for a, b in zip(start, stop, strict=True)]
    np.testing.assert_array_equal(row_index(start, shape, whole), expected)
