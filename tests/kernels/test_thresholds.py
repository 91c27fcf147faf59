from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data, filters

from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.thresholds import li, otsu, otsu_of, triangle
from lepton_pipe.spec import Definition, Image, ImageType, Node, evaluate
from tests.kernels.blockwise import blockwise, describe
from tests.kernels.reduced import blocks_of, image, shapes

METHODS = [otsu, li, triangle]


def skimage(method, array, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images that look like colour
        return getattr(filters, f"threshold_{method.__name__}")(array, **more)


@st.composite
def two_classes(draw, dtypes, **limits):
    """Background and foreground, as images have."""
    shape = draw(shapes(**limits))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    fore = rng.random(shape) < draw(st.floats(0.05, 0.6))
    values = rng.gamma(3.0, 4.0, shape) + fore * rng.normal(draw(st.integers(20, 90)), 9, shape)
    dtype = draw(st.sampled_from(dtypes))
    if np.dtype(dtype).kind == "f":
        return (values * 0.37).astype(dtype), draw(blocks_of(shape))
    return np.clip(values * (1 if dtype == "uint8" else 50), 0, 250 * 50).astype(dtype), draw(
        blocks_of(shape)
    )


@given(two_classes(["uint8", "uint16", "int32", "float32"]))
@settings(max_examples=60, deadline=None)
def test_blocks_equal_the_whole_bit_for_bit(case):
    array, block = case
    for method in METHODS:
        assert blockwise(describe(method, array), array, block=block) == method(array)


@given(two_classes(["uint8", "uint16", "int32", "float32", "float64"], max_dims=3))
@settings(max_examples=60, deadline=None)
def test_equals_scikit_image(case):
    array, _ = case
    for method in (otsu, triangle):
        got = method(array)
        assert got == skimage(method, array)
        assert type(got) is (float if array.dtype.kind == "f" else int)
    if array.dtype.kind == "f":
        spread = float(array.max()) - float(array.min())
        assert li(array) == pytest.approx(skimage(li, array), abs=2e-3 * spread + 1e-9)
    else:
        assert li(array) == pytest.approx(skimage(li, array), rel=1e-12)


@given(two_classes(["float32", "float64"], max_dims=3))
@settings(max_examples=30, deadline=None)
def test_li_of_floats_equals_scikit_image_on_the_same_histogram(case):
    array, _ = case
    counts, edges = np.histogram(array, 256)
    centers = (edges[:-1] + edges[1:]) / 2
    binned = np.repeat(centers.astype(float), counts)
    if array.min() < array.max():
        assert li(array, bins=256) == pytest.approx(skimage(li, binned), rel=1e-6)


@pytest.mark.parametrize("name", ["camera", "coins", "moon"])
def test_on_photographs(name):
    array = getattr(data, name)()
    for method in (otsu, triangle, li):
        assert method(array) == pytest.approx(skimage(method, array), rel=1e-12)
        wide = array.astype(np.uint16) * 200
        assert method(wide) == pytest.approx(skimage(method, wide), rel=1e-12)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float32"])
@pytest.mark.parametrize("value", [0, 1])
def test_an_image_of_a_single_value_is_all_background(dtype, value):
    array = np.full((4, 5), value, dtype)
    for method in METHODS:
        assert method(array) == value
        assert not (array > method(array)).any()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 6e4), ("float32", 1e38), ("float32", -3e38), ("float64", 1e300), ("int64", 2**62)],
)
def test_an_image_of_a_single_large_number_is_all_background(dtype, value):
    array = np.full((4, 5), value, dtype)
    for method in METHODS:
        assert method(array) == array[0, 0]
        assert blockwise(describe(method, array), array, block=(2, 3)) == array[0, 0]
    assert skimage(li, array) == skimage(otsu, array) == array[0, 0]


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_that_span_all_of_64_bits(dtype):
    info = np.iinfo(dtype)
    array = np.array([[info.min, info.min + 9, info.max - 9, info.max]], dtype)
    for method in METHODS:
        assert info.min < method(array) < info.max


@pytest.mark.parametrize("counts", [[1, 2, 9, 3, 2], [3, 9, 1], [1, 9, 3], [9, 1, 1, 0, 2], [4, 9]])
def test_triangle_takes_the_side_that_scikit_image_takes(counts):
    array = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)[None]
    assert triangle(array) == skimage(triangle, array)


def test_the_threshold_of_a_mask_is_the_mask():
    mask = np.random.default_rng(0).random((9, 9)) < 0.5
    np.testing.assert_array_equal(mask > otsu(mask), mask)


def test_integers_that_span_more_than_16_bits():
    array = np.random.default_rng(0).normal([[1e8], [-3e8]], 1e7, (2, 5000)).astype(np.int32)
    for method in (otsu, li):
        threshold = method(array)
        assert (array > threshold).mean() == 0.5
        assert abs(threshold) < 3e8
    assert otsu(array) == pytest.approx(otsu(array.astype(float), bins=2**16), abs=2e4)


def test_counts_beyond_float32_are_still_counted():
    # 9 in 10 of 10**10 voxels around 2000, the others around 40000. In float32 the sums stop
    # growing long before the second class is reached.
    levels = np.arange(2**16)
    shape = 0.9 * np.exp(-(((levels - 2000) / 900) ** 2)) / 900
    shape += 0.1 * np.exp(-(((levels - 40_000) / 5000) ** 2)) / 5000
    counts = (shape / shape.sum() * 1e10).astype(np.int64)
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * levels)
    means = sums / below, (sums[-1] - sums) / np.maximum(1, total - below)
    between = below * (total - below).astype(float) * (means[0] - means[1]) ** 2
    assert otsu_of(counts=counts, low=None, high=None, dtype="uint16") == np.argmax(between)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    array = np.ones((3, 3), np.float32)
    array[1, 1] = bad
    for method in METHODS:
        with pytest.raises(ValueError, match="NaN or infinite"):
            method(array)


def test_in_a_pipeline():
    def masks(raw: Image) -> dict[str, Node]:
        return {m.__name__: raw > m(raw) for m in METHODS}

    for dtype in ("uint8", "float32"):
        raw = image((30, 31), dtype, 5)
        spec = Definition(masks).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})
        result = evaluate(spec, {"raw": raw})
        for method in METHODS:
            np.testing.assert_array_equal(result[method.__name__], raw > method(raw))
    assert sum(s.id.startswith("moments") for s in spec.steps) == 1
