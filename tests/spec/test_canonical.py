from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.pointwise import clip
from lepton_pipe.spec import Ref, canonical, evaluate, plain
from tests.spec.binding import bind, image_type


@lp.kernel
def keep(block, what=None):
    return block


def ids(spec):
    return [s.id for s in spec.steps]


# -- steps ----------------------------------------------------------------------------------


def test_the_same_call_twice_is_one_step():
    def twice(raw: lp.Image):
        return {"a": gaussian(raw, 2) + 1, "b": gaussian(raw, sigma=2) * gaussian(raw, 2)}

    assert ids(bind(twice)) == ["raw", "gaussian", "add", "multiply"]


def test_other_parameters_or_inputs_are_other_steps_numbered_in_order():
    def several(raw: lp.Image):
        return gaussian(gaussian(gaussian(raw, 1), 2), 1)

    spec = bind(several)
    assert ids(spec) == ["raw", "gaussian", "gaussian_2", "gaussian_3"]
    assert [s.inputs for s in spec.steps] == [(), ("raw",), ("gaussian",), ("gaussian_2",)]


def test_equal_numbers_of_another_type_are_other_steps():
    def both(raw: lp.Image):
        return {"weak": raw + 1.0, "strong": raw + np.float32(1), "whole": raw + 1}

    spec = bind(both)
    dtypes = {n: spec.image_type(s).dtype for n, s in spec.outputs.items()}
    assert dtypes == {"weak": np.float64, "strong": np.float32, "whole": np.uint8}
    results = evaluate(spec, {"raw": np.ones((12, 16), np.uint8)})
    assert {n: r.dtype for n, r in results.items()} == dtypes


@pytest.mark.parametrize("pair", [(True, 1), (1, 1.0), ("1", 1), (None, False), ((1,), 1)])
def test_values_that_python_or_a_reader_may_take_for_equal_are_kept_apart(pair):
    def both(raw: lp.Image):
        return {"a": keep(raw, pair[0]), "b": keep(raw, pair[1])}

    spec = bind(both)
    assert len(spec.steps) == 3
    assert spec["keep"].args["what"] is pair[0]


def test_ids_stay_clear_of_names_of_images():
    def clash(gaussian_2: lp.Image, keep_: lp.Image):
        return keep(gaussian(gaussian(gaussian_2, 1), 2)) + keep_

    found = ids(bind(clash))
    assert len(set(found)) == len(found)
    assert found[:2] == ["gaussian_2", "keep_"]


def test_kernels_of_one_name_are_told_apart():
    def make(factor):
        @lp.kernel
        def scale(block):
            return block * factor

        return scale

    twice, thrice = make(2), make(3)

    def both(raw: lp.Image):
        return thrice(twice(raw)) + twice(raw)

    spec = bind(both)
    assert ids(spec) == ["raw", "scale", "scale_2", "add"]
    assert spec.codes[twice] != spec.codes[thrice]
    result = evaluate(spec, {"raw": np.ones((12, 16), np.uint8)})["both"]
    assert (result == 8).all()


def test_what_no_output_needs_is_left_out_and_unused_images_stay():
    def unused(raw: lp.Image, dark: lp.Image):
        gaussian(dark)
        return raw + 1

    assert ids(bind(unused)) == ["raw", "dark", "add"]


def test_steps_come_in_an_order_in_which_they_can_run():
    def tangled(raw: lp.Image):
        a = raw + 1
        b = a * 2
        return {"last": b - a, "first": a, "again": (b - a) / b, "raw": raw}

    spec = bind(tangled)
    done = set()
    for step in spec.steps:
        assert set(step.inputs) <= done
        done.add(step.id)
    assert spec.outputs["raw"] == "raw"


# -- canonical form -------------------------------------------------------------------------


def example(raw: lp.Image, *, sigma: float = 2.0):
    smooth = gaussian(raw, sigma=(sigma, sigma))
    return {"smooth": clip(smooth, 0, np.float32(3)), "mask": smooth > 1}


def test_the_canonical_form_survives_json_and_is_the_same_each_time():
    spec = bind(example, sigma=1.5)
    data = spec.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    again = bind(example, sigma=1.5)
    assert json.dumps(again.to_json()) == json.dumps(data)
    assert again.digest == spec.digest
    assert data["parameters"] == {"sigma": 1.5}
    assert data["outputs"] == {"smooth": "clip", "mask": "greater"}
    assert data["steps"][1]["args"]["image"] == {"step": "raw"}
    assert data["steps"][1]["kernel"] == "lepton_pipe.kernels.filters.gaussian"
    assert data["steps"][-1]["kernel"] == "numpy.greater"


def test_the_digest_changes_with_parameters_types_and_outputs():
    base = bind(example, sigma=1.5).digest
    others = [
        bind(example, sigma=1.6),
        bind(example, image_type(dtype="uint16"), sigma=1.5),
        bind(example, image_type((12, 17)), sigma=1.5),
        bind(example, image_type(kind="labels"), sigma=1.5),
    ]
    assert len({base, *(o.digest for o in others)}) == 5

    def example_(raw: lp.Image, *, sigma: float = 2.0):
        made = example(raw, sigma=sigma)
        return {"smoother": made["smooth"], "mask": made["mask"]}

    example_.__name__ = "example"
    assert bind(example_, sigma=1.5).digest != base


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(plain_values)
def test_plain_data_is_always_strict_json(value):
    text = json.dumps(plain(value), allow_nan=False)
    assert json.loads(text) == plain(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int16(3), 3),
        (np.True_, True),
        ((1, (2, "a")), [1, [2, "a"]]),
        (np.dtype("uint16"), "uint16"),
        (np.float32, "float32"),
        (Ref("gaussian"), {"step": "gaussian"}),
        (math.inf, {"float": "inf"}),
        (np.float32("nan"), {"float": "nan"}),
        (
            np.array([[1, 2]], "u1"),
            {"array": "|u1", "shape": [1, 2], "base64": "AQI="},
        ),
    ],
)
def test_parameters_become_plain_data(value, expected):
    assert plain(value) == expected


@pytest.mark.parametrize("value", [object(), 1j, np.longdouble(1), {1, 2}, np.array(["a"]), b"a"])
def test_what_is_not_plain_data_is_refused_with_its_value(value):
    with pytest.raises(TypeError, match="cannot be a parameter") as caught:
        plain(value)
    assert repr(value) in str(caught.value)


def test_arrays_of_equal_bytes_and_other_shape_or_order_are_told_apart():
    a = np.arange(4, dtype="u1")
    forms = [plain(x) for x in (a, a.reshape(2, 2), a.reshape(2, 2).T, a.view("u2"), a.view("i1"))]
    assert len({json.dumps(f) for f in forms}) == 5


# -- the reference answer -------------------------------------------------------------------


def test_a_kernel_is_held_to_the_dtype_and_shape_it_declared():
    @lp.kernel(dtype="float32")
    def wrong_dtype(block):
        return block

    @lp.kernel
    def wrong_shape(block):
        return block[1:]

    def first(raw: lp.Image):
        return wrong_dtype(raw)

    def second(raw: lp.Image):
        return wrong_shape(raw)

    array = np.zeros((12, 16), np.uint8)
    with pytest.raises(KernelError, match=r"wrong_dtype returned uint8 .* declares float32"):
        evaluate(bind(first), {"raw": array})
    with pytest.raises(
        KernelError, match=r"shape \(11, 16\), but declares uint8 of shape \(12, 16"
    ):
        evaluate(bind(second), {"raw": array})


def test_each_kernel_is_computed_once():
    calls = []

    @lp.kernel
    def counted(block):
        calls.append(1)
        return block + 1

    def several(raw: lp.Image):
        return {"a": counted(raw) * 2, "b": counted(raw) * 3, "c": counted(raw)}

    evaluate(bind(several), {"raw": np.zeros((12, 16), np.uint8)})
    assert len(calls) == 1


# -- long chains ----------------------------------------------------------------------------


def test_a_chain_of_thousands_of_kernels_is_bound_hashed_and_computed():
    def chain(raw: lp.Image):
        for i in range(2000):
            raw = keep(raw, i)
        return raw

    spec = bind(chain)
    assert len(spec.steps) == 2001
    assert spec.steps[-1].id == "keep_2000"
    assert len(spec.digest) == 64
    array = np.arange(192, dtype=np.uint8).reshape(12, 16)
    assert (evaluate(spec, {"raw": array})["chain"] == array).all()
    assert json.dumps(spec.to_json())


def test_the_code_of_kernels_is_read_once_for_all_that_is_made_of_a_pipeline(monkeypatch):
    def smooth(raw: lp.Image):
        return keep(gaussian(raw, 2))

    spec = bind(smooth)
    before = spec.codes

    def unread(kernel):
        raise AssertionError(kernel)

    monkeypatch.setattr(canonical, "code_digest", unread)
    assert replace(spec, steps=spec.steps).codes == before
    assert set(replace(spec, steps=spec.steps[:2]).codes) == {gaussian}
