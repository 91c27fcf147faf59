"""Extremes in pieces equal those of whole arrays, and the windows' own account of themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled import ranks
from lepton_pipe.kernels import boxes
from lepton_pipe.kernels.boxes import box_extreme
from lepton_pipe.kernels.windows import Window, extreme, extreme_by_steps, is_shared
from tests.kernels.blockwise import noise

DTYPES = ["uint8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64", "bool"]


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 5))
    longest = {1: 400, 2: 40, 3: 14, 4: 7, 5: 5}[axes]
    shape = draw(st.tuples(*[st.integers(1, longest)] * axes))
    image = noise(shape, draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16)), nan=True)
    if draw(st.booleans()):
        image = image.transpose(draw(st.permutations(range(axes))))
    if draw(st.booleans()):
        image = image[::-1]
    size = draw(st.tuples(*[st.integers(1, 9)] * axes))
    return image, Window(size)


@given(cases(), st.booleans(), st.booleans(), st.sampled_from([64, 1000, 1 << 20]))
@settings(max_examples=200, deadline=None)
def test_pieces_equal_whole_arrays(case, largest, mirrored, piece):
    image, over = case
    ufunc = np.maximum if largest else np.minimum
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "_PIECE", piece)
        patch.setattr(boxes, "_LEAST", piece)
        got = extreme(image, over, ufunc, mirrored=mirrored)
    assert got.dtype == image.dtype
    assert got.flags.c_contiguous
    assert not np.shares_memory(got, image)
    np.testing.assert_array_equal(got, extreme_by_steps(image, over, ufunc, mirrored=mirrored))


@pytest.mark.parametrize("shape", [(700, 900), (30, 200, 300), (3, 1500, 400), (100_000, 9)])
@pytest.mark.parametrize("size", [3, 10, 65])
def test_large_images_equal_scipy(shape, size):
    image = noise(shape, "uint16", 5)
    depth = ((size // 2, (size - 1) // 2),) * image.ndim
    got = box_extreme(image, depth, np.maximum, 0)
    np.testing.assert_array_equal(got, scipy.ndimage.maximum_filter(image, size))


def test_nothing_is_nothing():
    assert box_extreme(np.zeros((3, 0)), ((1, 1), (1, 1)), np.minimum, np.inf).shape == (3, 0)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_plans_know_which_windows_have_programs(shape):
    image = np.zeros((1,) * len(shape), np.uint8)
    assert is_shared(Window(tuple(shape))) == ranks.fits(image, shape)
