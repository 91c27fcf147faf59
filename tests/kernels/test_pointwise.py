from __future__ import annotations

import operator

import numpy as np
import pytest
import skimage.exposure
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import CastError, SpecError, UsageError
from lepton_pipe.kernels.casts import astype
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.pointwise import clip, rescale, where
from lepton_pipe.spec import kernel
from tests.kernels.blockwise import (
    DTYPES,
    assert_same,
    blocks,
    blockwise,
    check,
    describe,
    images,
    noise,
    whole,
)

ALL = (*DTYPES, np.int8, np.int16, np.uint32, np.int64, np.uint64, np.float16, np.float64)


def run(data, fn, axes, *arrays, **params):
    block = data.draw(blocks(arrays[0].shape))
    return check(fn, *arrays, block=block, axes=axes, extra=1, ulps=0, **params)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_where_equals_numpy(data):
    axes, image = data.draw(images(nan=True))
    mask = noise(image.shape, bool, 1)
    other = noise(image.shape, data.draw(st.sampled_from(DTYPES)), 2)
    np.testing.assert_array_equal(
        run(data, where, axes, mask, image, other), np.where(mask, image, other)
    )
    assert_same(run(data, lambda m, a: where(m, a, 1), axes, mask, image), np.where(mask, image, 1))
    assert_same(run(data, lambda m, a: where(m, 0, a), axes, mask, image), np.where(mask, 0, image))


def test_where_refuses_what_would_lose_values():
    mask, image = np.ones((3, 3), bool), np.ones((3, 3), np.uint8)
    with pytest.raises(SpecError, match=r"where: b=300 does not fit uint8"):
        describe(lambda m, a: where(m, a, 300), mask, image)
    with pytest.raises(SpecError, match=r"int64 with uint64 becomes float64"):
        describe(where, mask, image.astype(np.int64), image.astype(np.uint64))


def test_where_refuses_a_value_that_turned_out_too_large():
    args = {"condition": np.ones((1, 1), bool), "a": np.ones((1, 1), np.uint8), "b": 256}
    with pytest.raises(ValueError, match="b=256 does not fit uint8"):
        where.run(args, None)


def test_where_keeps_labels_labels():
    mask, labels = np.ones((3, 3), bool), np.ones((3, 3), np.int64)
    spec = describe(lambda m, a: where(m, a, 0), mask, labels, kinds=["mask", "labels"])
    assert spec["where"].type.kind == "labels"
    spec = describe(lambda m, a: where(m, a, 0.5), mask, labels, kinds=["mask", "labels"])
    assert spec["where"].type.kind == "image"
    assert describe(where, mask, mask, mask)["where"].type.kind == "mask"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_plane_fits_a_stack(data):
    _, stack = data.draw(images(axes="zyx"))
    plane = noise(stack.shape[1:], stack.dtype, 5)
    row = noise((1, stack.shape[2]), stack.dtype, 6)
    for other in (plane, row):
        assert_same(run(data, np.maximum, "zyx", stack, other), np.maximum(stack, other))
        got = run(data, lambda a, b: where(b > 1, a, b), "zyx", stack, other)
        assert_same(got, np.where(other > 1, stack, other))


@pytest.mark.parametrize(
    "fn",
    [
        np.sqrt,
        np.abs,
        np.isnan,
        lambda a: a > 3,
        lambda a: a * 2,
        lambda a: 1.5 - a,
        lambda a: (a > 10) & ~(a > 100),
        lambda a: np.hypot(a, 3.0),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_numpy_works_on_images(fn, dtype):
    image = noise((9, 17), dtype, 3, nan=True)
    with np.errstate(all="ignore"):
        assert_same(check(fn, image, block=(4, 5), ulps=0), np.asarray(fn(image)), ulps=0)


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.truediv])
@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint16), (np.int32, np.float32)])
def test_numpy_works_between_images(op, dtypes):
    a, b = noise((9, 17), dtypes[0], 3), noise((9, 17), dtypes[1], 4)
    with np.errstate(all="ignore"):
        assert_same(check(op, a, b, block=(4, 5), ulps=0), op(a, b), ulps=0)


# -- astype ---------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(data=st.data(), target=st.sampled_from(ALL), cast=st.sampled_from(["clip", "wrap"]))
def test_astype_in_blocks(data, target, cast):
    axes, image = data.draw(images(dtypes=ALL, nan=True))
    result = run(data, astype, axes, image, dtype=np.dtype(target).name, cast=cast)
    expected = [one(v, target, cast) for v in image.ravel().tolist()]
    assert_same(result, np.array(expected, target).reshape(image.shape), ulps=0)


def one(value, target, cast):
    """Convert one number with Python's unbounded integers."""
    target = np.dtype(target)
    if target.kind == "f":
        with np.errstate(over="ignore"):
            result = target.type(value)
        lost = np.isfinite(float(value)) and np.isinf(result)
        top = np.finfo(target).max
        return (top if value > 0 else -top) if lost and cast == "clip" else result
    if value != value:
        return target.type(0)
    whole = round(value)
    if target.kind == "b":
        return whole > 0 if cast == "clip" else whole != 0
    info = np.iinfo(target)
    if cast == "clip":
        return target.type(min(max(whole, info.min), info.max))
    return np.asarray([whole % 2**64], np.uint64).astype(target)[0]


@pytest.mark.parametrize("target", [np.uint8, np.int16, np.int64, np.uint64, np.bool_])
def test_extreme_floats(target):
    info = (0, 1) if target is np.bool_ else (int(np.iinfo(target).min), int(np.iinfo(target).max))
    image = np.array([np.inf, -np.inf, np.nan, 1e300, -1e300, 2.0**63, 2.0**64, -(2.0**63), 0.5])
    low, high = info
    clipped = astype(image, target, cast="clip").tolist()
    expected = [high, low, 0, high, low, min(2**63, high), high, max(-(2**63), low), 0]
    assert clipped == expected
    wrapped = astype(image, target, cast="wrap")
    assert wrapped[:3].tolist() == [0, 0, 0]
    if target is np.uint64:
        assert wrapped[5] == 2**63
    for i in range(5):
        with pytest.raises(CastError, match="1 of 1 values"):
            astype(image[i : i + 1], target)


@pytest.mark.parametrize(
    ("values", "source", "target", "says"),
    [
        ([300, 3], "uint16", "uint8", "1 of 2 values cannot be uint8, 300 for one: it holds 0 to"),
        ([-1, -2], "int8", "uint64", "2 of 2 values cannot be uint64, -1 for one"),
        ([np.nan], "float32", "int32", "1 of 1 values cannot be int32, nan for one"),
        ([1e39], "float64", "float32", "1 of 1 values cannot be float32, 1e[+]39 for one"),
        ([70000], "int32", "float16", "1 of 1 values cannot be float16, 70000 for one"),
        ([2], "uint8", "bool", "1 of 1 values cannot be bool, 2 for one: it holds 0 to 1"),
        ([255.6], "float32", "uint8", "1 of 1 values cannot be uint8, 255.6"),
    ],
)
def test_lost_values_raise(values, source, target, says):
    with pytest.raises(CastError, match=says):
        astype(np.array(values, source), target)
    with pytest.raises(CastError, match="cast='clip'"):
        astype(np.array(values, source), target)


def test_rounding_is_no_loss():
    image = np.array([0.5, 1.5, 2.5, -0.4, 255.4])
    assert astype(image, "uint8").tolist() == [0, 2, 2, 0, 255]
    assert astype(np.array([0.1]), np.float32).dtype == np.float32
    assert np.isinf(astype(np.array([np.inf]), "float16")).all()
    assert np.isnan(astype(np.array([np.nan]), "float16")).all()


def test_astype_raises_for_owned_voxels_alone():
    """What a block's margin holds may be polluted; it must not stop a run."""

    @kernel(depth=1)
    def broken_margin(image, *, place):
        result = image.copy()
        result[place.read.shape[0] - 1 :] = 1000 if place.read.stop[0] < place.grid.shape[0] else 1
        return result

    def fn(image):
        return gaussian(astype(broken_margin(image), "uint8"), sigma=0.1)

    image = np.ones((20, 5), np.uint16)
    assert_same(blockwise(describe(fn, image), image, block=(6, 5)), np.ones((20, 5), np.float32))

    def bad(image):
        return astype(image, "uint8")

    image[13, 2] = 256
    with pytest.raises(CastError, match="256 for one"):
        blockwise(describe(bad, image), image, block=(6, 5), extra=2)


def test_kinds_of_casts():
    labels = np.ones((3, 3), np.int64)
    kinds = {
        t: describe(astype, labels, kinds=["labels"], dtype=t)["astype"].type.kind
        for t in ("uint16", "float32", "bool")
    }
    assert kinds == {"uint16": "labels", "float32": "image", "bool": "mask"}


# -- clip and rescale -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_clip_in_blocks(data):
    axes, image = data.draw(images(dtypes=[d for d in ALL if d is not np.bool_], nan=True))
    low, high = sorted(data.draw(st.tuples(*[st.floats(-1000, 1000)] * 2)))
    result = run(data, clip, axes, image, low=low, high=high)
    kept = (image >= low) & (image <= high)
    np.testing.assert_array_equal(result[kept], image[kept])
    if image.dtype.kind in "iu":
        info = np.iinfo(image.dtype)
        bottom = min(max(int(np.ceil(low)), info.min), info.max)
        top = min(max(int(np.floor(high)), info.min), info.max)
        np.testing.assert_array_equal(result, np.minimum(np.maximum(image, bottom), top))
    else:
        np.testing.assert_array_equal(result, np.clip(image, low, high))


def test_clip_on_one_side():
    image = np.array([[0, 5, 9]], np.uint8)
    assert clip(image, 3).tolist() == [[3, 5, 9]]
    assert clip(image, high=6.9).tolist() == [[0, 5, 6]]
    assert clip(image, low=2.1).tolist() == [[3, 5, 9]]
    assert clip(image, -5, 1e9).tolist() == image.tolist()


def test_clip_by_a_bound_that_turned_out_nan():
    with pytest.raises(ValueError, match="uint8 has no such value"):
        clip.run({"image": np.ones((2, 2), np.uint8), "low": float("nan"), "high": 3}, None)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    out=st.sampled_from(
        [("float32", (0.0, 1.0)), ("uint8", (0, 255)), ("int16", (1000, -1000)), ("bool", (0, 1))]
    ),
)
def test_rescale_in_blocks(data, out):
    axes, image = data.draw(images(nan=True))
    dtype, ends = out
    result = run(data, rescale, axes, image, low=-20.0, high=90.5, out_range=ends, dtype=dtype)
    exact = np.clip((image.astype(np.float64) + 20.0) / 110.5, 0, 1) * (ends[1] - ends[0]) + ends[0]
    if dtype == "float32":
        np.testing.assert_allclose(result, exact, atol=1e-6)
    else:
        exact = np.where(np.isnan(exact), ends[0], exact)
        step = np.abs(result.astype(float) - exact)
        assert step.max() <= 0.5 + 1e-3


def test_rescale_equals_scikit_image():
    image = noise((20, 20), np.float32, 1)
    theirs = skimage.exposure.rescale_intensity(image, in_range=(-50, 60), out_range=(0, 1))
    np.testing.assert_allclose(rescale(image, -50, 60), theirs, atol=1e-6)


def test_rescale_reaches_its_ends_and_bears_a_flat_image():
    image = np.array([[3, 4, 7]], np.uint16)
    assert rescale(image, 3, 7).tolist() == [[0.0, 0.25, 1.0]]
    args = {"image": image, "low": 5.0, "high": 5.0, "out_range": (2, 3), "dtype": "float32"}
    assert rescale.run(args, None).tolist() == [[2.0, 2.0, 2.0]]


@pytest.mark.parametrize(
    ("kernel_", "params", "says"),
    [
        (astype, {"dtype": "uint9"}, "dtype='uint9' is no dtype"),
        (astype, {"dtype": "complex64"}, "cannot hold an image"),
        (astype, {"dtype": "uint8", "cast": "hope"}, "cast='hope' is not known"),
        (clip, {}, "neither low nor high"),
        (clip, {"low": 3, "high": 2}, "low=3 is above high=2"),
        (clip, {"low": float("nan")}, "low=nan is not a bound"),
        (rescale, {"low": 3, "high": 3}, "low=3 must be below high=3"),
        (rescale, {"high": float("inf")}, "high=inf must be finite"),
        (rescale, {"dtype": "uint8", "out_range": (0, 256)}, "does not fit uint8"),
        (rescale, {"out_range": (0, 1, 2)}, "must be two finite numbers"),
    ],
)
def test_bad_parameters_are_refused(kernel_, params, says):
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises((ValueError, UsageError), match=says):
        kernel_(image, **params)
    with pytest.raises(SpecError, match=f"{kernel_.name}: .*{says}") as caught:
        describe(kernel_, image, **params)
    assert len(caught.value.problems) == 1


def test_whole_answer_is_the_kernel_on_arrays():
    image = noise((5, 6), np.int32, 1)
    spec = describe(rescale, image, low=-3, high=9)
    assert_same(whole(spec, image), rescale(image, -3, 9), ulps=0)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"low": 0}, [0, 1]), ({"low": 0.5}, [1, 1]), ({"high": -3}, [0, 0]), ({"high": 1}, [0, 1])],
)
def test_a_clipped_mask_is_a_mask(bounds, expected):
    made = clip(np.array([False, True]), **bounds)
    assert made.dtype == np.bool_
    np.testing.assert_array_equal(made, np.array(expected, bool))
