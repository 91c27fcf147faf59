"""The compiled median and extremes equal SciPy's and NumPy's, value for value."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_pipe.compiled import ranks
from lepton_pipe.kernels.ranks import median_by_sorting
from lepton_pipe.kernels.windows import Window, extreme_by_steps
from tests.kernels.blockwise import noise

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "bool"]
RARE = ["uint64", "float16", "float64"]


@st.composite
def layouts(draw, image):
    """The same image elsewhere in memory: turned, strided, read-only."""
    how = draw(st.sampled_from(["plain", "transposed", "backwards", "apart"]))
    if how == "transposed":
        image = np.asfortranarray(image)
    elif how == "backwards":
        image = image[::-1].copy()[::-1]
    elif how == "apart":
        image = np.repeat(image, 2, -1)[..., ::2]
    if draw(st.booleans()):
        image = image.view()
        image.setflags(write=False)
    return image


@st.composite
def cases(draw, special=False):
    axes = draw(st.integers(1, 4))
    longest = {1: 600, 2: 40, 3: 14, 4: 6}[axes]
    shape = draw(st.tuples(*[st.integers(1, longest)] * axes))
    image = noise(shape, draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16)))
    if image.dtype == np.int64:
        image >>= 11  # SciPy's median compares as float64, ours exactly
    if image.dtype.kind == "f" and special:
        where = np.random.default_rng(0).random(shape)
        for i, value in enumerate((np.nan, np.inf, -np.inf, 0.0, -0.0)):
            image[(where > i / 50) & (where < i / 50 + 0.01)] = value
    extents = [draw(st.integers(1, 5)) for _ in range(axes)]
    for axis in range(max(0, axes - 3)):  # at most two axes besides the last
        extents[axis] = 1
    extents = [*draw(st.permutations(extents[:-1])), extents[-1]]
    if draw(st.booleans()):
        cells = np.ones(extents, bool)
    else:
        cells = draw(hnp.arrays(bool, extents).filter(lambda c: c.any()))
    return draw(layouts(image)), cells


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


@given(cases())
@settings(max_examples=100, deadline=None)
def test_median_equals_scipy(case):
    image, cells = case
    assert ranks.fits(image, cells.shape)
    got = ranks.median(image, cells)
    expected = median_by_sorting(image, cells)
    assert got.dtype == image.dtype
    np.testing.assert_array_equal(got, expected)


@given(cases(special=True), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_extremes_equal_numpy(case, largest, mirrored):
    image, cells = case
    over = Window(cells.shape, cells)
    ufunc = np.maximum if largest else np.minimum
    expected = extreme_by_steps(image, over, ufunc, mirrored=mirrored)
    turned = cells[(slice(None, None, -1),) * cells.ndim] if mirrored else cells
    low = [a for a, _ in (over.mirrored_depth if mirrored else over.depth)]
    got = ranks.extreme(image, turned, low, largest=largest)
    assert got.dtype == image.dtype
    np.testing.assert_array_equal(got, expected)


@given(cases(special=True), st.data())
@settings(max_examples=80, deadline=None)
def test_a_part_has_the_bits_of_the_whole(case, data):
    image, cells = case
    if image.dtype.kind == "f":  # all NaN have one key but in medians, where they are undefined
        image = np.nan_to_num(image, nan=-0.0)
    start = [data.draw(st.integers(0, n - 1)) for n in image.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, image.shape, strict=True)]
    reach = [(n // 2, (n - 1) // 2) for n in cells.shape]
    read = [
        slice(max(0, a - lo), min(n, b + hi))
        for a, b, n, (lo, hi) in zip(start, stop, image.shape, reach, strict=True)
    ]
    own = [slice(a - r.start, b - r.start) for a, b, r in zip(start, stop, read, strict=True)]
    write = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    low = [a for a, _ in reach]
    for fn in (ranks.median, lambda i, c: ranks.extreme(i, c, low, largest=True)):
        part, whole = fn(image[tuple(read)], cells), fn(image, cells)
        np.testing.assert_array_equal(bits(part[tuple(own)]), bits(whole[write]))


@pytest.mark.parametrize("dtype", RARE)
def test_rare_dtypes(dtype):
    image, cells = noise((9, 30), dtype, 1), np.ones((3, 5), bool)
    if dtype == "uint64":
        image >>= np.uint64(11)
    np.testing.assert_array_equal(ranks.median(image, cells), median_by_sorting(image, cells))
    got = ranks.extreme(image, cells, (1, 2), largest=False)
    if dtype != "float16":
        np.testing.assert_array_equal(got, scipy.ndimage.minimum_filter(image, (3, 5)))
    np.testing.assert_array_equal(got, extreme_by_steps(image, Window((3, 5)), np.minimum))


@pytest.mark.parametrize(
    "shape", [(3, 5, 700), (1, 300, 64), (40, 1, 65), (200, 3, 3), (70, 70, 70)]
)
def test_images_of_several_slabs_and_pieces(shape):
    image, cells = noise(shape, "uint16", 3), np.ones((3, 2, 3), bool)
    cells[0, 0, 0] = False
    np.testing.assert_array_equal(ranks.median(image, cells), median_by_sorting(image, cells))


@pytest.mark.parametrize("shape", [(1, 15, 15), (5, 5, 5), (1, 21, 21)])
def test_large_windows(shape):
    image, cells = noise((6, 30, 40), "uint8", 3), np.ones(shape, bool)
    np.testing.assert_array_equal(ranks.median(image, cells), median_by_sorting(image, cells))


def test_what_does_not_fit_is_told():
    image = noise((4, 4, 4, 4), "uint16", 0)
    assert ranks.fits(image, (1, 3, 3, 3))
    assert ranks.fits(image, (3, 3, 1, 3))
    assert not ranks.fits(image, (3, 3, 3, 1)), "three axes besides the last"
    assert not ranks.fits(image.astype(">u2"), (1, 3, 3, 3))
    assert not ranks.fits(image.astype(complex), (1, 3, 3, 3))
    assert not ranks.fits(image.astype(np.longdouble), (1, 3, 3, 3))
    assert not ranks.fits(image, (1, 11, 11, 11))


def test_nothing_is_nothing():
    image = np.zeros((0, 5), np.uint16)
    assert ranks.median(image, np.ones((3, 3), bool)).shape == (0, 5)
