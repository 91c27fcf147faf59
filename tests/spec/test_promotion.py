"""Operators on nodes promise the dtypes and the numbers that NumPy gives on arrays."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import SpecError
from lepton_pipe.spec import Definition, evaluate
from tests.spec.binding import bind, image_type

DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
DTYPES += ["float16", "float32", "float64"]
BINARY = [
    np.add,
    np.subtract,
    np.multiply,
    np.true_divide,
    np.floor_divide,
    np.remainder,
    np.power,
    np.maximum,
    np.minimum,
    np.less,
    np.greater_equal,
    np.equal,
    np.not_equal,
    np.bitwise_and,
    np.bitwise_or,
    np.left_shift,
    np.logical_and,
    np.logical_xor,
    np.hypot,
    np.arctan2,
    np.copysign,
    np.fmod,
]
UNARY = [np.negative, np.absolute, np.sqrt, np.exp, np.invert, np.isnan, np.logical_not, np.sign]
SCALARS = [0, 1, 3, -2, 200, 300, 70000, 2**40, 0.5, -1.5, 2.0, True, False]
STRONG = [np.float32(1.5), np.float64(2), np.uint8(3), np.int64(-3), np.uint16(7)]

modest = settings(max_examples=150, deadline=None)


def sample(dtype, n=6):
    values = np.array([1, 0, 2, 3, 1, 2])[:n]
    return (values > 0) if dtype == "bool" else values.astype(dtype)


def expected_of(fn, *arrays):
    """What NumPy gives, or the error it raises."""
    with np.errstate(all="ignore"):
        try:
            return fn(*arrays)
        except (TypeError, OverflowError, ValueError) as error:
            return error


def described(fn, *arrays):
    """The promised dtype, and what the pipeline computes."""
    names = ["a", "b"][: len(arrays)]
    source = {1: lambda a: fn(a), 2: lambda a, b: fn(a, b)}[len(arrays)]
    source.__annotations__ = dict.fromkeys(names, lp.Image)
    definition = Definition(source)
    spec = bind(definition, *(image_type(a.shape, a.dtype) for a in arrays))
    (step_id,) = spec.outputs.values()
    with np.errstate(all="ignore"):
        (result,) = evaluate(spec, dict(zip(names, arrays, strict=True))).values()
    return spec.image_type(step_id).dtype, result


def same_as_numpy(fn, *arrays):
    expected = expected_of(fn, *arrays)
    if isinstance(expected, Exception):
        # ValueError: an integer to a negative power, which NumPy tells from the scalar alone.
        with pytest.raises(SpecError):
            described(fn, *arrays)
        return
    dtype, result = described(fn, *arrays)
    assert dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@modest
@given(st.sampled_from(BINARY), st.sampled_from(DTYPES), st.sampled_from(DTYPES))
def test_two_images(ufunc, a, b):
    kinds = {np.dtype(a).kind, np.dtype(b).kind}
    joint = np.result_type(a, b)
    assume(not (kinds == {"u", "i"} and joint == np.float64))  # refused, see test_tracing
    same_as_numpy(ufunc, sample(a), sample(b))


@modest
@given(st.sampled_from(BINARY), st.sampled_from(DTYPES), st.sampled_from(SCALARS), st.booleans())
def test_an_image_and_a_python_scalar(ufunc, dtype, scalar, swapped):
    fn = (lambda a: ufunc(scalar, a)) if swapped else (lambda a: ufunc(a, scalar))
    same_as_numpy(fn, sample(dtype))


@modest
@given(st.sampled_from(BINARY), st.sampled_from(DTYPES), st.sampled_from(STRONG))
def test_an_image_and_a_numpy_scalar_which_promotes_like_an_array(ufunc, dtype, scalar):
    kinds = {np.dtype(dtype).kind, scalar.dtype.kind}
    assume(not (kinds == {"u", "i"} and np.result_type(dtype, scalar.dtype) == np.float64))
    same_as_numpy(lambda a: ufunc(a, scalar), sample(dtype))


@pytest.mark.parametrize("ufunc", UNARY, ids=lambda u: u.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_one_image(ufunc, dtype):
    same_as_numpy(ufunc, sample(dtype))


@pytest.mark.parametrize(
    "op",
    [
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.floordiv,
        operator.mod,
        operator.pow,
        operator.and_,
        operator.or_,
        operator.xor,
        operator.lshift,
        operator.rshift,
        operator.lt,
        operator.le,
        operator.gt,
        operator.ge,
        operator.eq,
        operator.ne,
    ],
    ids=lambda o: o.__name__,
)
def test_pythons_operators_on_either_side(op):
    a, b = sample("uint8"), sample("uint16")
    same_as_numpy(op, a, b)
    same_as_numpy(lambda x: op(x, 2), a)
    same_as_numpy(lambda x: op(2, x), a)


@pytest.mark.parametrize("op", [operator.neg, operator.pos, operator.invert, abs])
def test_pythons_operators_of_one_image(op):
    same_as_numpy(op, sample("int16"))


def test_sum_of_a_list_of_images():
    same_as_numpy(lambda a, b: sum([a, b, a]), sample("uint8"), sample("uint16"))


# -- values ---------------------------------------------------------------------------------


def reduction(dtype, finalize):
    @lp.kernel(combine=np.maximum, finalize=finalize, value=lp.ValueType(dtype))
    def largest(block):
        return block.max()

    return largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("value_dtype", "python"), [("bool", bool), ("int64", int), ("float64", float)]
)
def test_a_value_promotes_like_a_python_scalar(dtype, value_dtype, python):
    largest = reduction(value_dtype, lambda partial: partial)
    array = sample(dtype)
    value = python(array.max())

    def uses(raw: lp.Image):
        return raw * largest(raw)

    spec = bind(uses, image_type(array.shape, dtype))
    promised = spec.image_type(spec.outputs["uses"]).dtype
    assert promised == (array * value).dtype

    # The reduction gives NumPy's scalar; the image must see Python's number.
    cast = reduction(value_dtype, lambda partial: np.dtype(value_dtype).type(partial))

    def computed(raw: lp.Image):
        return raw * cast(raw)

    spec = bind(computed, image_type(array.shape, dtype))
    result = evaluate(spec, {"raw": array})["computed"]
    assert result.dtype == promised
    np.testing.assert_array_equal(result, array * value)


def test_values_are_computed_from_values_and_are_pythons_own():
    largest = reduction("float64", lambda partial: np.float64(partial))

    def uses(raw: lp.Image):
        top = largest(raw)
        return {"half": top / 2, "is_big": top > 2, "both": top + top, "root": np.sqrt(top)}

    spec = bind(uses, image_type((6,)))
    types = {n: spec[s].type.dtype for n, s in spec.outputs.items()}
    assert types == {"half": "float64", "is_big": "bool", "both": "float64", "root": "float64"}
    results = evaluate(spec, {"raw": sample("uint8")})
    assert {n: type(v) for n, v in results.items()} == {
        "half": float,
        "is_big": bool,
        "both": float,
        "root": float,
    }
    assert results == {"half": 1.5, "is_big": True, "both": 6.0, "root": np.sqrt(3.0)}


def test_a_kernel_on_values_alone_is_computed_once():
    largest = reduction("float64", lambda partial: float(partial))
    calls = []

    @lp.kernel(value=lp.ValueType("float64"))
    def halve(value):
        calls.append(value)
        return value / 2

    def uses(raw: lp.Image):
        half = halve(largest(raw))
        return {"low": raw < half, "half": half}

    spec = bind(uses, image_type((6,)))
    assert evaluate(spec, {"raw": sample("uint8")})["half"] == 1.5
    assert calls == [3.0]


def test_a_kernel_called_on_arrays_is_just_its_function():
    @lp.kernel(depth=1, dtype="float32")
    def halve(block, by=2):
        return (block / by).astype(np.float32)

    np.testing.assert_array_equal(halve(sample("uint8"), by=4), sample("uint8") / np.float32(4))
