from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled.separable import fits, separable
from lepton_pipe.compiled.strips import filter_volume
from lepton_pipe.kernels.casts import astype
from tests.kernels.blockwise import noise

FLOAT32 = (np.uint8, np.uint16, np.int16, np.float32, np.bool_, np.int8, np.float16)
FLOAT64 = (np.float64, np.int32, np.int64)
TAPS = st.one_of(st.none(), st.integers(1, 11), st.sampled_from([17, 25, 34]))


def gaussian(sigma, truncate=4.0):
    radius = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def reference(image, weights):
    """Filter in double precision."""
    result = image.astype(np.float64)
    for axis, w in enumerate(weights):
        if w is not None:
            result = scipy.ndimage.correlate1d(result, w, axis)
    return result


def assert_close(got, image, weights, ulps=4e-7):
    kind = np.promote_types(image.dtype, np.float32)
    assert got.dtype == kind
    if kind == np.float64:
        ulps = 2e-15
    magnitude = np.abs(image.astype(np.float64)).max(initial=0)
    expected = reference(image, weights)
    np.testing.assert_allclose(got, expected, rtol=0, atol=ulps * magnitude)


@st.composite
def shapes(draw):
    n = draw(st.integers(1, 5))
    top = {1: 1300, 2: 60, 3: 20, 4: 7, 5: 5}[n]
    return tuple(draw(st.integers(1, top)) for _ in range(n))


@st.composite
def some_weights(draw, ndim, signed=True):
    """Weights for each axis, of absolute sum 1: even, asymmetric, with zeros, longer than axes."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    result = []
    for n in (draw(TAPS) for _ in range(ndim)):
        w = None if n is None else random.random(n) + 0.01
        if w is not None and signed and draw(st.booleans()):
            w *= random.integers(-1, 2, n)
            w[random.integers(n)] = 0.5
        result.append(w if w is None else w / np.abs(w).sum())
    return result


@st.composite
def cases(draw, dtypes=(*FLOAT32, *FLOAT64), signed=True):
    shape = draw(shapes())
    image = noise(shape, draw(st.sampled_from(dtypes)), draw(st.integers(0, 999)))
    return image, draw(some_weights(len(shape), signed))


@settings(max_examples=80, deadline=None)
@given(cases())
def test_equal_scipy(case):
    image, weights = case
    image.flags.writeable = False
    before = image.copy()
    assert_close(separable(image, weights), image, weights)
    np.testing.assert_array_equal(image, before)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_arrays_of_any_layout(data):
    image, weights = data.draw(cases(dtypes=(np.uint8, np.int16, np.float32, np.float64)))
    expected = separable(image, weights)
    wider = np.repeat(np.repeat(image, 2, 0), 2, -1)
    layouts = [
        np.asfortranarray(image),
        image[::-1].copy()[::-1],
        np.flip(np.flip(image, -1).copy(), -1),
        wider[::2, ..., ::2] if image.ndim > 1 else np.repeat(image, 3)[1::3],
        np.moveaxis(np.moveaxis(image, 0, -1).copy(), -1, 0),
        image.astype(image.dtype.newbyteorder()),
    ]
    for layout in layouts:
        np.testing.assert_array_equal(separable(layout, weights), expected)


def test_unaligned_and_repeated_elements():
    weights = [gaussian(1), gaussian(2)]
    packed = np.zeros((9, 40), np.dtype([("a", "u1"), ("b", "<u2")]))
    packed["b"] = noise(packed.shape, np.uint16, 1)
    expected = separable(packed["b"].copy(), weights)
    np.testing.assert_array_equal(separable(packed["b"], weights), expected)
    row = noise((1, 40), np.uint16, 1)
    repeated = separable(np.broadcast_to(row, (9, 40)), weights)
    np.testing.assert_array_equal(repeated, separable(row.repeat(9, 0), weights))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_give_the_bits_of_the_whole(data):
    image, weights = data.draw(cases(dtypes=(np.uint16, np.float32, np.float64)))
    whole = separable(image, weights)
    cut, inner, read = [], [], []
    for n, w in zip(image.shape, weights, strict=True):
        start = data.draw(st.integers(0, n - 1))
        stop = data.draw(st.integers(start + 1, n))
        taps = 1 if w is None else len(w)
        extra = data.draw(st.integers(0, 3))
        low = max(0, start - taps // 2 - extra)
        read.append(slice(low, min(n, stop + (taps - 1) // 2 + extra)))
        cut.append(slice(start, stop))
        inner.append(slice(start - low, stop - low))
    part = separable(image[tuple(read)], weights)[tuple(inner)]
    np.testing.assert_array_equal(part.view(np.uint8), whole[tuple(cut)].copy().view(np.uint8))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_is_wanted_has_the_bits_of_all(data):
    image, weights = data.draw(cases(dtypes=(np.uint8, np.int16, np.float32, np.float64, np.int8)))
    if image.dtype.kind == "f":
        image[np.random.default_rng(0).random(image.shape) < 0.01] = np.nan
    before = data.draw(operations(image))
    inner = []
    for n in image.shape:
        start = data.draw(st.integers(0, n - 1))
        inner.append(slice(start, data.draw(st.integers(start, n))))
    dtype = data.draw(st.sampled_from([None, np.int16]))
    params = {"before": before, "out_dtype": dtype}
    expected = separable(image, weights, **params)[tuple(inner)]
    got = separable(image, weights, **params, inner=inner)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    room = np.full([n + 2 for n in expected.shape], 77, expected.dtype)
    out = room[(slice(1, -1),) * image.ndim]
    separable(image, weights, **params, inner=inner, out=out)
    np.testing.assert_array_equal(out, expected)
    out[...] = 77
    assert (room == 77).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_blocks_of_large_images(dtype):
    """Blocks of several strips, tiles of columns and windows of planes."""
    image = noise((40, 70, 1300), dtype, 3)
    weights = [gaussian(1), gaussian(2), gaussian(3)]
    whole = separable(image, weights)
    assert_close(whole, image, weights)
    part = separable(image[9:33, 3:60, 77:1111], weights)
    expected = whole[13:29, 11:52, 89:1099]
    inner = (slice(4, -4), slice(8, -8), slice(12, -12))
    np.testing.assert_array_equal(part[inner], expected)
    got = separable(image[9:33, 3:60, 77:1111], weights, inner=inner)
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_nan_and_infinity_reach_as_far_as_in_scipy(data):
    image, weights = data.draw(cases(dtypes=(np.float32, np.float64)))
    random = np.random.default_rng(1)
    share = data.draw(st.sampled_from([0.002, 0.05]))
    for value in (np.nan, np.inf, -np.inf):
        image[random.random(image.shape) < share] = value
    with np.errstate(invalid="ignore"):
        expected = reference(image, weights)
    got = separable(image, weights)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(expected))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(expected))


def test_weights_too_small_for_float32_do_not_make_nan_of_infinity():
    image = np.zeros(50, np.float32)
    image[25] = np.inf
    weights = gaussian(1, truncate=16)
    assert weights[0] < 1e-50
    got = separable(image, [weights])
    assert np.isposinf(got[9:42]).all()
    assert not got[:9].any()


@pytest.mark.parametrize("shape", [(3, 90, 200), (90, 4, 30), (40, 50), (600,)])
@pytest.mark.parametrize("sigma", [12, 50])
def test_wide_gaussians(shape, sigma):
    image = noise(shape, np.uint16, 4)
    weights = [gaussian(sigma)] * len(shape)
    assert fits(image, weights) == (sigma < 51)
    assert_close(separable(image, weights), image, weights)


def test_a_constant_stays():
    image = np.full((20, 30, 40), 54321, np.uint16)
    got = separable(image, [gaussian(1), gaussian(2), gaussian(2)])
    np.testing.assert_allclose(got, 54321, rtol=3e-7)


# -- out, what is done before, and rounding --------------------------------------------------


@st.composite
def operations(draw, image):
    """Some operations with numbers, rows, columns and planes."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    plane = (1,) * (2 - min(image.ndim, 2)) + image.shape[-2:]
    columns = (*plane[:-1], 1)

    def value(low, high):
        shape = draw(st.sampled_from([(), plane, plane[-1:], columns]))
        made = random.uniform(low, high, shape).astype(np.float32)
        return float(made) if not shape and draw(st.booleans()) else made

    ranges = {"subtract": (-20, 90), "multiply": (0.5, 3), "add": (-5, 5), "maximum": (-5, 30)}
    ranges["minimum"] = (10, 90)
    names = draw(st.lists(st.sampled_from(sorted(ranges)), max_size=4))
    return tuple((name, value(*ranges[name])) for name in names)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_fused_is_the_composition(data):
    image, weights = data.draw(cases(dtypes=(np.uint8, np.uint16, np.int16, np.float32)))
    if image.dtype.kind == "f":
        image[np.random.default_rng(0).random(image.shape) < 0.01] = np.nan
    before = data.draw(operations(image))
    dtype = data.draw(st.sampled_from([None, np.uint8, np.uint16, np.int16]))
    adjusted = image.astype(np.float32)
    for name, operand in before:
        adjusted = getattr(np, name)(adjusted, operand)
        assert adjusted.dtype == np.float32
    adjusted = adjusted.reshape(image.shape)
    expected = separable(adjusted, weights)
    if dtype is not None:
        expected = astype(expected, dtype, cast="clip")
    got = separable(image, weights, before=before, out_dtype=dtype)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_rounding_is_that_of_casts(dtype, kind):
    info = np.iinfo(dtype)
    ends = [info.min + d for d in (-1e9, -1, -0.5, 0, 0.5)] + [info.max + d for d in (-0.5, 0, 0.5)]
    values = [*ends, info.max + 1, 1e30, -1e30, 0.5, 1.5, 2.5, -0.5, 0.49999997, -1.5, -0.0]
    image = np.array([*values, np.nan, np.inf, -np.inf], kind)
    expected = astype(image, dtype, cast="clip")
    np.testing.assert_array_equal(separable(image, [None], out_dtype=dtype), expected)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_out_is_filled(data):
    image, weights = data.draw(cases(dtypes=(np.uint16, np.float32)))
    dtype = data.draw(st.sampled_from([np.float32, np.int16]))
    room = np.full([n + 2 for n in image.shape], 77, dtype)
    out = room[(slice(1, -1),) * image.ndim]
    expected = separable(image, weights, out_dtype=dtype)
    assert separable(image, weights, out_dtype=dtype, out=out) is out
    np.testing.assert_array_equal(out, expected)
    out[...] = 77
    assert (room == 77).all()


def test_empty_arrays():
    assert separable(np.empty((3, 0, 4), np.uint8), [None, gaussian(1), None]).shape == (3, 0, 4)


def test_what_does_not_fit_is_refused():
    image = np.zeros((4, 5), np.float32)
    wide = np.ones(402) / 402
    assert fits(image, [wide, None])
    assert not fits(image, [None, wide])
    assert not fits(image.astype(np.longdouble), [None, None])
    for block, weights in ((image, [None]), (image, [None, wide]), (np.float32(1), [])):
        with pytest.raises(ValueError, match=r"cannot be filtered .* use scipy\.ndimage"):
            separable(np.asarray(block), weights)
    with pytest.raises(ValueError, match="out_dtype=int32 cannot be stored"):
        separable(image, [None, None], out_dtype=np.int32)
    for out in (np.zeros((5, 4), np.float32), np.zeros((4, 5)), np.zeros((4, 10), "f4")[:, ::2]):
        with pytest.raises(ValueError, match="it must have both, and rows that are contiguous"):
            separable(image, [None, None], out=out)
    for inner in ((slice(1, 3),), (slice(0, 4, 2), slice(0, 2))):
        with pytest.raises(ValueError, match="no part of an array with 2 axes; give a slice"):
            separable(image, [None, None], inner=inner)


def test_it_is_compiled_for_two_kinds_of_floats_alone():
    for dtype in (*FLOAT32, *FLOAT64):
        image = np.ones((3, 4, 5), dtype)
        plane = np.ones((4, 5))
        for before in ((), [("add", 1)], [("subtract", plane), ("maximum", plane[:1])]):
            for out_dtype in (None, "uint8"):
                weights = [gaussian(1), None, [1.0]]
                separable(image, weights, before=before, out_dtype=out_dtype)
            image.flags.writeable = False
    assert len(filter_volume.signatures) == 2
