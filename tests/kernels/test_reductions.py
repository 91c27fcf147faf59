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
from lepton_pipe.kernels import otsu, quantile
from lepton_pipe.kernels.counts import bin_width, integer_counts, range_counts
from lepton_pipe.kernels.histograms import histogram, histogram_counts
from lepton_pipe.kernels.reductions import maximum_of, mean, minimum_of, moments, std, sum_of
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.spec import Definition, Image, ImageType, Node, Place, Value, evaluate
from tests.kernels.blockwise import blockwise, describe
from tests.kernels.reduced import blocks_of, image, in_blocks, shapes

DTYPES = ["uint8", "uint16", "int32", "float32", "bool", "int64", "uint64", "float64", "int8"]
SCALARS = [minimum_of, maximum_of, mean, std, sum_of]


def by_blocks(fn, array, block, **params):
    return blockwise(describe(fn, array, **params), array, block=block)


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
        got, whole = by_blocks(kernel, array, block), kernel(array)
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
    assert by_blocks(minimum_of, array, block) == array.min()
    assert by_blocks(maximum_of, array, block) == array.max()
    assert type(by_blocks(maximum_of, array, block)) is type(array.max().item())
    n, total = array.size, exact.sum()
    if array.dtype.kind != "f":
        assert by_blocks(sum_of, array, block) == total
        assert by_blocks(mean, array, block) == total / n
        squares = sum(int(v) ** 2 for v in array.ravel())
        variance = (n * squares - int(total) ** 2) / n**2
        assert by_blocks(std, array, block) == np.sqrt(variance)
    else:
        scale = np.abs(exact).max()
        assert by_blocks(sum_of, array, block) == pytest.approx(total, abs=1e-13 * n * scale)
        assert by_blocks(mean, array, block) == pytest.approx(exact.mean(), abs=1e-13 * scale)
        assert by_blocks(std, array, block) == pytest.approx(exact.std(), rel=1e-10)


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
    assert by_blocks(std, array, (7, 8)) == pytest.approx(array.std(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_makes_nan(dtype):
    array = np.ones((6, 6), dtype)
    array[4, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kernel in SCALARS:
            assert np.isnan(by_blocks(kernel, array, (2, 3)))


def test_infinity_as_in_numpy():
    array = np.ones((6, 6), np.float32)
    array[4, 1] = np.inf
    assert [by_blocks(k, array, (2, 3)) for k in (minimum_of, maximum_of, sum_of, mean)] == [
        1,
        np.inf,
        np.inf,
        np.inf,
    ]
    assert np.isnan(by_blocks(std, array, (2, 3)))


@given(cases(), st.sampled_from([1, 2, 7, 256]))
@settings(max_examples=60, deadline=None)
def test_histogram_equals_numpy(case, bins):
    array, block = case
    numbers = array.astype(np.uint8) if array.dtype == bool else array
    expected = np.histogram(numbers, bins)[0]
    for got in (histogram(array, bins), by_blocks(histogram, array, block, bins=bins)):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int64
    low, high = minimum_of(array), maximum_of(array)
    ends = (float(low) / 2 + 0.1, float(high) / 3 + 1)
    if ends[0] < ends[1]:
        expected = np.histogram(numbers, bins, ends)[0]
        np.testing.assert_array_equal(histogram(array, bins, ends), expected)


@pytest.mark.parametrize("value", [7, 2**53 + 2, 2**64 - 1, 1e300, -1e300])
@pytest.mark.parametrize("bins", [1, 7, 256])
def test_a_constant_image_lies_in_the_middle_bin(value, bins):
    """Also where numbers lie so far apart that `numpy.histogram` cannot make bins around one."""
    array = np.full((4, 5), value, np.uint64 if isinstance(value, int) else np.float64)
    expected = np.zeros(bins, np.int64)
    expected[bins // 2] = 20
    if value == 7:
        np.testing.assert_array_equal(np.histogram(array, bins)[0], expected)
    for got in (histogram(array, bins), by_blocks(histogram, array, (3, 2), bins=bins)):
        np.testing.assert_array_equal(got, expected)


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
    np.testing.assert_array_equal(by_blocks(histogram, array, block, bins=None), expected)
    counts = in_blocks(integer_counts, {"image": array}, block)
    assert counts.size == 1 << 8 * array.dtype.itemsize
    np.testing.assert_array_equal(np.trim_zeros(counts), np.trim_zeros(got))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("most", [1000, 37])
def test_bins_of_several_integers(dtype, most):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    for bottom in {int(info.min), int(info.max) - 900, 0}:
        array = (rng.integers(0, 901, (20, 30)).astype(object) + bottom).astype(dtype)
        low, high = minimum_of(array), maximum_of(array)
        args = {"image": array, "low": low, "high": high, "most": most}
        got = in_blocks(range_counts, args, (7, 8))
        width = bin_width(low, high, most)
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
        (lambda: histogram(np.array([[2**60, 2**60 + 1]])), "cannot be cut into 256 bins.*fewer"),
        (lambda: histogram(np.ones((3, 3), "u1"), 9, (1e300, 1e300)), "cannot be cut into 9 bins"),
        (lambda: histogram(np.ones((3, 3), "u1"), 0), "bins=0"),
        (lambda: histogram(np.ones((3, 3), "u1"), 9, (2, 1)), "low to high"),
        (lambda: histogram(np.ones((3, 3), "u1"), 9, (np.nan, 1)), "not finite|NaN or infinite"),
        (lambda: integer_counts(np.ones((3, 3), int)), "too many values"),
        (lambda: moments(np.ones((3, 3), "u1")), "moments_of_counts"),
        (lambda: range_counts(np.ones((3, 3), "i4"), 1, 1, most=0), "most=0"),
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


def summary(raw: Image) -> dict[str, Node]:
    ends = quantile(raw, (0.01, 0.99))
    found = {k.__name__: k(raw) for k in SCALARS}
    return {**found, "counts": histogram(raw), "ends": ends, "level": otsu(raw)}


@pytest.mark.parametrize(
    ("dtype", "reduces"),
    [
        ("uint8", [{"integer_counts"}]),
        ("uint16", [{"integer_counts"}]),
        ("int16", [{"integer_counts"}]),
        ("bool", [{"integer_counts"}]),
        ("float32", [{"moments", "quantile_digits"}, {"histogram_counts", "quantile_digits_2"}]),
    ],
)
def test_all_that_is_asked_of_an_image_shares_its_passes(dtype, reduces):
    raw = ImageType(Grid.of((64, 256, 256)), np.dtype(dtype))
    spec = Definition(summary).bind({"raw": raw}, {})
    plan = make_plan(spec, {"raw": InputInfo(raw, (32, 128, 128), "raw")}, Resources(2**33, 2, 1))
    assert [set(stage.reduces) for stage in plan.stages] == reduces
    steps = [s.id for s in spec.steps if s.kernel is not None and s.kernel.role == "reduce"]
    assert sorted(steps) == sorted(set().union(*reduces))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int64"])
def test_scratch_is_honest(dtype):
    array = image((256, 64, 128), dtype, 0)
    place = Place.whole(Grid.of(array.shape))
    if dtype in ("uint8", "uint16"):
        calls = [(integer_counts, {"image": array})]
    else:
        counted = {"image": array, "bins": 256, "low": 0, "high": 1, "of_image": False}
        calls = [(moments, {"image": array}), (histogram_counts, counted)]
    if dtype == "int64":
        array = array % 1000
        calls.append((range_counts, {"image": array, "low": 0, "high": 999}))
    for kernel, args in calls:
        for laid_out in (array, np.moveaxis(array, 0, 1)):
            kernel.run({**args, "image": laid_out}, place)
            tracemalloc.start()
            kernel.run({**args, "image": laid_out}, place)
            assert tracemalloc.get_traced_memory()[1] <= kernel.scratch * array.size, kernel
            tracemalloc.stop()
