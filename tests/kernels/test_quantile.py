from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.quantile import _keys, _value, quantile, quantile_digits, quantile_of
from lepton_pipe.spec import Definition, Image, ImageType, Node, Place, evaluate
from tests.kernels.reduced import blocks_of, image, in_blocks, shapes

DTYPES = ["uint8", "uint16", "int8", "int16", "int32", "uint32", "float32", "float64", "bool"]
DTYPES += ["float16", "int64", "uint64"]


def quantile_in_blocks(array, q, block):
    """Return quantiles digit by digit, also where `quantile` would count every value."""
    state = None
    for level in range(max(1, array.dtype.itemsize // 2)):
        args = {"image": array, "q": q, "level": level, "state": state}
        state = in_blocks(quantile_digits, args, block)
    return quantile_of(state=state, q=q, size=array.size, dtype=str(array.dtype))


@st.composite
def cases(draw):
    shape = draw(shapes())
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**32))
    array = image(shape, dtype, seed)
    if dtype == "float16":
        array = np.nan_to_num(array, posinf=100, neginf=-100)
    if draw(st.booleans()):  # many ties
        array = array.ravel()[np.random.default_rng(seed).integers(0, array.size, shape) % 5]
    q = draw(st.lists(st.floats(0, 1) | st.sampled_from([0, 0.5, 1]), min_size=1, max_size=4))
    return array, draw(blocks_of(shape, most=20)), tuple(q)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_equals_numpy_for_any_blocks(case):
    array, block, q = case
    got = quantile_in_blocks(array, q, block)
    np.testing.assert_array_equal(got, quantile(array, q))
    numbers = array.astype(np.float64)
    rtol = 1e-12 if array.dtype.itemsize < 8 or array.dtype.kind == "f" else 1e-9
    expected = np.quantile(numbers, q)
    scale = float(np.abs(numbers).max())
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-14 * scale)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_at_ranks_it_gives_the_very_values_of_the_image(case):
    array, _, _ = case
    ordered = np.sort(array, axis=None)
    assert quantile(array, 0.0) == ordered[0]
    assert quantile(array, 1.0) == float(ordered[-1])
    if array.size % 2:
        assert quantile(array, 0.5) == float(ordered[array.size // 2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_are_in_the_order_of_values_and_lead_back(dtype):
    array = image((500,), dtype, 0)
    if array.dtype.kind == "f":
        small = np.finfo(dtype).smallest_subnormal
        array[:6] = [0, -0.0, np.inf, -np.inf, small, -small]
    keys = _keys(array)
    order = np.argsort(array, kind="stable")
    assert (np.diff(array[np.argsort(keys, kind="stable")].astype(float)) >= 0).all()
    assert (keys[order][1:] >= keys[order][:-1])[array[order][1:] != array[order][:-1]].all()
    back = np.array([_value(int(k), array.dtype) for k in keys])
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_gives_nan(dtype, sign):
    array = np.arange(12, dtype=dtype).reshape(3, 4)
    array[2, 1] = np.copysign(np.nan, sign)
    assert np.isnan(quantile(array, 0.1))
    assert np.isnan(quantile(array, (0, 1))).all()
    assert np.isnan(quantile_in_blocks(array, 0.5, (2, 2)))


def test_infinite_values_are_values():
    array = np.array([[-np.inf, 0, 1, np.inf, np.inf]], np.float32)
    assert quantile(array, [0, 0.25, 0.5, 0.75, 1]).tolist() == [-np.inf, 0, 1, np.inf, np.inf]


def test_a_number_gives_a_number_and_a_sequence_an_array():
    array = image((20, 20), "uint16", 0)
    assert type(quantile(array, 0.25)) is float
    for q in ([0.1, 0.9], (0.1, 0.9), np.array([0.1, 0.9])):
        assert quantile(array, q).shape == (2,)


@pytest.mark.parametrize(
    ("array", "q", "words"),
    [
        (np.ones((2, 2)), 1.5, "q=1.5"),
        (np.ones((2, 2)), np.nan, "0 to 1"),
        (np.ones((2, 2)), [], "0 values"),
        (np.ones((2, 2)), [0.5] * 17, "17 values"),
        (np.ones((2, 0)), 0.5, "without voxels"),
        (np.ones((2, 2), complex), 0.5, "complex128"),
        (np.ones((2, 2), np.longdouble), 0.5, "float64"),
    ],
)
def test_what_makes_no_sense_is_refused(array, q, words):
    with pytest.raises(ValueError, match=words):
        quantile(array, q)


def test_in_a_pipeline():
    def stretch(raw: Image) -> dict[str, Node]:
        return {"mask": raw > quantile(raw, 0.9), "ends": quantile(raw, [0.01, 0.99])}

    raw = image((21, 22), "float32", 4)
    spec = Definition(stretch).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})
    result = evaluate(spec, {"raw": raw})
    assert result["mask"].mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(result["ends"], np.quantile(raw.astype(float), [0.01, 0.99]))
    assert [s.id for s in spec.steps if s.kernel is quantile_digits][1] == "quantile_digits_2"

    def wrong(raw: Image) -> Node:
        return quantile(raw, 2)

    with pytest.raises(SpecError, match="0 to 1") as caught:
        Definition(wrong).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_scratch_is_honest(dtype):
    array = image((256, 64, 128), dtype, 0)
    state = None
    for level in range(max(1, array.dtype.itemsize // 2)):
        args = {"image": array, "q": 0.3, "level": level, "state": state}
        quantile_digits.run(args, Place.whole(Grid.of(array.shape)))  # imports and compiles
        tracemalloc.start()
        partial = quantile_digits.run(args, Place.whole(Grid.of(array.shape)))
        assert tracemalloc.get_traced_memory()[1] <= quantile_digits.scratch * array.size
        tracemalloc.stop()
        state = quantile_digits.finish(partial, args, Grid.of(array.shape))
