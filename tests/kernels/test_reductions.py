from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import exposure

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import reductions
from lepton_pipe.kernels.reductions import (
    histogram,
    histogram_counts,
    integer_counts,
    maximum_of,
    mean,
    minimum_of,
    std,
    sum_of,
)
from lepton_pipe.spec import Definition, Image, ImageType, Node, Place, Value, evaluate
from tests.kernels.reduced import blocks_of, image, in_blocks, shapes

DTYPES = ["uint8", "uint16", "int32", "float32", "bool", "int64", "uint64", "float64", "int8"]
SCALARS = [minimum_of, maximum_of, mean, std, sum_of]


@st.composite
def cases(draw, dtypes=DTYPES):
    shape = draw(shapes())
    dtype, seed = draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**32))
    return image(shape, dtype, seed), draw(blocks_of(shape))


@given(cases())
@settings(max_examples=80, deadline=None)
def test_blocks_equal_the_whole(case):
    array, block = case
    for kernel in SCALARS:
        got, whole = in_blocks(kernel, {"image": array}, block), kernel(array)
        assert type(got) is type(whole)
        if array.dtype.kind == "f" and kernel in (mean, std, sum_of):
            size = np.abs(array).astype(float)
            scale = float(size.sum() if kernel is sum_of else size.max())
            assert got == pytest.approx(whole, rel=1e-12, abs=1e-14 * scale)
        else:
            assert got == whole


@given(cases())
@settings(max_examples=80, deadline=None)
def test_equals_numpy(case):
    array, block = case
    exact = array.astype(object) if array.dtype.kind in "biu" else array.astype(float)
    args = {"image": array}
    assert in_blocks(minimum_of, args, block) == array.min()
    assert in_blocks(maximum_of, args, block) == array.max()
    assert type(in_blocks(maximum_of, args, block)) is type(array.max().item())
    n, total = array.size, exact.sum()
    if array.dtype.kind != "f":
        assert in_blocks(sum_of, args, block) == total
        assert in_blocks(mean, args, block) == total / n
        squares = sum(int(v) ** 2 for v in array.ravel())
        variance = (n * squares - int(total) ** 2) / n**2
        assert in_blocks(std, args, block) == np.sqrt(variance)
    else:
        scale = np.abs(exact).max()
        assert in_blocks(sum_of, args, block) == pytest.approx(total, abs=1e-13 * n * scale)
        assert in_blocks(mean, args, block) == pytest.approx(exact.mean(), abs=1e-13 * scale)
        assert in_blocks(std, args, block) == pytest.approx(exact.std(), rel=1e-10)


def test_types_are_those_promised_to_the_pipeline():
    promised = {"bool": bool, "uint8": int, "int64": int, "uint64": int, "float64": float}
    promised["float32"] = float
    for dtype in ("bool", "uint8", "float32"):
        array = image((5, 6), dtype, 1)
        node = Image(ImageType(Grid.of(array.shape), array.dtype), None)
        for kernel in SCALARS:
            value = kernel(node)
            assert isinstance(value, Value)
            assert type(kernel(array)) is promised[value.type.dtype], kernel


def test_a_large_mean_does_not_hurt_the_deviation():
    array = np.random.default_rng(0).normal(1e7, 1e-3, (60, 70))
    assert in_blocks(std, {"image": array}, (7, 8)) == pytest.approx(array.std(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_makes_nan(dtype):
    array = np.ones((6, 6), dtype)
    array[4, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kernel in SCALARS:
            assert np.isnan(in_blocks(kernel, {"image": array}, (2, 3)))


def test_infinity_as_in_numpy():
    array = np.ones((6, 6), np.float32)
    array[4, 1] = np.inf
    args = {"image": array}
    assert [in_blocks(k, args, (2, 3)) for k in (minimum_of, maximum_of, sum_of, mean)] == [
        1,
        np.inf,
        np.inf,
        np.inf,
    ]
    assert np.isnan(in_blocks(std, args, (2, 3)))


@given(cases(), st.sampled_from([1, 2, 7, 256]))
@settings(max_examples=60, deadline=None)
def test_histogram_equals_numpy(case, bins):
    array, block = case
    numbers = array.astype(np.uint8) if array.dtype == bool else array
    got = histogram(array, bins)
    expected = np.histogram(numbers, bins)[0]
    np.testing.assert_array_equal(got, expected)
    low, high = minimum_of(array), maximum_of(array)
    args = {"image": array, "bins": bins, "low": low, "high": high, "of_image": True}
    np.testing.assert_array_equal(in_blocks(histogram_counts, args, block), expected)
    ends = (float(low) / 2 + 0.1, float(high) / 3 + 1)
    if ends[0] < ends[1]:
        expected = np.histogram(numbers, bins, ends)[0]
        np.testing.assert_array_equal(histogram(array, bins, ends), expected)


@given(cases(["uint8", "int8", "uint16", "bool"]))
@settings(max_examples=40, deadline=None)
def test_every_integer_by_itself_equals_scikit_image(case):
    array, block = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images that look like colour
        numbers = array.astype(np.uint8) if array.dtype == bool else array
        expected, _ = exposure.histogram(numbers)
    got = histogram(array, bins=None)
    np.testing.assert_array_equal(got, expected)
    in_parts = in_blocks(integer_counts, {"image": array}, block)
    np.testing.assert_array_equal(np.trim_zeros(in_parts), np.trim_zeros(got))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("most", [1000, 37])
def test_bins_of_several_integers(dtype, most):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    for bottom in {int(info.min), int(info.max) - 900, 0}:
        array = (rng.integers(0, 901, (20, 30)).astype(object) + bottom).astype(dtype)
        low, high = minimum_of(array), maximum_of(array)
        args = {"image": array, "low": low, "high": high, "most": most}
        got = in_blocks(integer_counts, args, (7, 8))
        width = reductions.bin_width(low, high, most)
        index = [(int(v) - low) // width for v in array.ravel()]
        np.testing.assert_array_equal(got, np.bincount(index))
        assert len(got) <= most
        assert (width == 1) == (most == 1000)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: minimum_of(np.ones((0, 3))), "without voxels"),
        (lambda: std(np.ones((3, 3), complex)), "complex128"),
        (lambda: histogram(np.ones((3, 3)), 0), "bins=0"),
        (lambda: histogram(np.ones((3, 3)), 9, (2, 1)), "low to high"),
        (lambda: histogram(np.ones((3, 3)), None), "give bins="),
        (lambda: histogram(np.ones((3, 3), int), None, (0, 1)), "leave out range"),
        (lambda: histogram(np.array([[1, np.nan]])), "NaN or infinite"),
        (lambda: histogram(np.array([[0, 2**40]]), None), "give bins="),
        (lambda: integer_counts(np.ones((3, 3), int)), "without a range"),
        (lambda: integer_counts(np.ones((3, 3), "u1"), most=0), "most=0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_value_as_the_range_of_a_histogram():
    def spread(raw: Image) -> dict[str, Node]:
        middle = mean(raw)
        return {"upper": histogram(raw, 4, (middle, maximum_of(raw))), "all": histogram(raw, 8)}

    raw = image((20, 30), "float32", 3)
    spec = Definition(spread).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})
    result = evaluate(spec, {"raw": raw})
    upper = np.histogram(raw, 4, (raw.astype(float).mean(), raw.max()))[0]
    np.testing.assert_array_equal(result["upper"], upper)
    np.testing.assert_array_equal(result["all"], np.histogram(raw, 8)[0])
    assert spec["histogram_counts"].type.shape == (4,)

    def wrong(raw: Image) -> Node:
        return histogram(raw, -1)

    with pytest.raises(SpecError, match="bins=-1"):
        Definition(wrong).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int64"])
def test_scratch_is_honest(dtype):
    array = image((256, 64, 128), dtype, 0)
    place = Place.whole(Grid.of(array.shape))
    counted = {"image": array, "bins": 256, "low": 0, "high": 1, "of_image": False}
    integers = {"image": array, "low": 0, "high": 1000, "most": 1 << 24, "exactly": False}
    calls = [(k, {"image": array}) for k in SCALARS] + [(histogram_counts, counted)]
    if dtype in ("uint8", "uint16"):
        calls.append((integer_counts, {**integers, "low": None, "high": None}))
    for kernel, args in calls:
        kernel.run(args, place)
        tracemalloc.start()
        kernel.run(args, place)
        assert tracemalloc.get_traced_memory()[1] <= kernel.scratch * array.size, kernel
        tracemalloc.stop()
