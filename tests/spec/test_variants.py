"""Variants of a pipeline are one pipeline: what they share is one step, and each is what it was."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.kernels import gaussian, label, maximum, maximum_of, mean, regionprops
from lepton_pipe.spec import evaluate, users_of, value_text, variants
from lepton_pipe.spec.variants import LONGEST_NAME, MOST_VARIANTS
from tests.spec.binding import bind, image_type


@lp.pipeline
def objects(raw: lp.Image, *, radius: int = 1, above: float = 3.0, size: int = 0):
    """Each parameter matters later than the one before."""
    bright = maximum(raw, 2 * radius + 1)
    labels = label(bright > above, min_size=size)
    return {"labels": labels, "table": regionprops(labels, raw), "top": maximum_of(bright)}


@lp.pipeline
def single(raw: lp.Image, *, sigma: float = 1.0) -> lp.Node:
    return gaussian(raw, sigma=sigma)


lists = st.fixed_dictionaries(
    {},
    optional={
        "radius": st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
        "above": st.lists(st.sampled_from([2.0, 3.5, 5.0]), min_size=1, max_size=3, unique=True),
        "size": st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True),
    },
).filter(bool)


@settings(max_examples=60, deadline=None)
@given(lists, st.integers(0, 99))
def test_each_variant_is_what_it_is_alone(values, seed):
    image = np.random.default_rng(seed).integers(0, 7, (12, 16)).astype(np.uint8)
    swept = objects.sweep(**values)
    usual = {n: p.usual() for n, p in swept.parameters.items()}
    spec = swept.bind({"raw": image_type()}, usual)
    found = evaluate(spec, {"raw": image})
    steps = 0
    for variant, chosen in variants(swept.swept).items():
        alone = objects.bind({"raw": image_type()}, {**usual, **chosen})
        steps += len(alone.steps)
        for name, expected in evaluate(alone, {"raw": image}).items():
            np.testing.assert_equal(found[f"{variant}/{name}"], expected)
    assert len(found) == 3 * len(variants(swept.swept))
    assert len(spec.steps) <= steps
    assert len({s.id for s in spec.steps}) == len(spec.steps)
    assert all({s.id for s in spec.steps[:i]} >= set(s.inputs) for i, s in enumerate(spec.steps))


def test_what_variants_share_is_computed_once_and_named_by_what_it_depends_on():
    swept = objects.sweep(radius=[1, 2], size=[0, 5, 9])
    spec = bind(swept, above=3.0)
    kinds = [s.kernel.name for s in spec.steps if s.kernel is not None]
    assert kinds.count("maximum") == kinds.count("greater") == 2
    assert kinds.count("label_join") == kinds.count("regionprops") == 6
    assert spec["maximum[radius=2]"].args["size"] == 5
    assert spec.outputs["radius=2,size=9/labels"] == "label_apply[radius=2,size=9]"
    assert spec.outputs["radius=1,size=0/top"] == spec.outputs["radius=1,size=9/top"]
    users = users_of(spec)
    assert users["maximum[radius=1]"] == {f"radius=1,size={n}" for n in (0, 5, 9)}
    assert users["raw"] == set(variants(swept.swept))


def test_ids_are_those_of_a_pipeline_where_all_variants_need_a_step():
    spec = bind(objects.sweep(size=[1, 2]), radius=1, above=3.0)
    assert {"maximum", "greater", "label_join[size=1]", "label_join[size=2]"} <= set(spec.by_id)


def test_ids_do_not_depend_on_how_many_values_there_are():
    few, many = (
        {s.id for s in bind(objects.sweep(radius=r), above=3.0, size=0).steps}
        for r in ([1, 2], [0, 1, 2, 3])
    )
    assert few < many


def test_a_kernel_used_twice_by_a_variant_is_numbered():
    @lp.pipeline
    def twice(raw: lp.Image, *, width: float = 1.0):
        return gaussian(raw, sigma=width) - gaussian(raw, sigma=2 * width)

    spec = bind(twice.sweep(width=[1, 2]))
    made = [s.id for s in spec.steps if s.kernel is not None and s.kernel.name == "gaussian"]
    # The second of width 1 is the first of width 2.
    assert made == ["gaussian[width=1]", "gaussian", "gaussian[width=2]"]


def test_the_digest_follows_the_values():
    digests = {bind(single.sweep(sigma=s)).digest for s in ([1, 2], [1, 3], [1, 2, 3])}
    assert len(digests) == 3
    assert bind(single.sweep(sigma=[1, 2])).to_json()["swept"] == {"sigma": [1.0, 2.0]}
    assert "swept" not in bind(single, sigma=1.0).to_json()


def test_a_pipeline_called_on_arrays_returns_a_dict_of_each_variant():
    image = np.random.default_rng(0).integers(0, 7, (12, 16)).astype(np.uint8)
    found = objects.sweep(size=range(2), radius=np.arange(3))(image, above=2)
    assert list(found) == [f"size={s},radius={r}" for s in (0, 1) for r in (0, 1, 2)]
    np.testing.assert_equal(found["size=1,radius=2"], objects(image, size=1, radius=2, above=2))
    one = single.sweep(sigma=[1, 2])(image)
    np.testing.assert_array_equal(one["sigma=2"]["single"], single(image, sigma=2.0))


def test_sweeping_leaves_the_pipeline_as_it_was_and_goes_on():
    first = single.sweep(sigma=[1])
    assert (single.swept, list(single.parameters)) == ({}, ["sigma"])
    assert (first.swept, list(first.parameters)) == ({"sigma": (1.0,)}, [])
    both = objects.sweep(size=[1, 2]).sweep(radius=[1, 2])
    assert list(variants(both.swept))[1] == "size=1,radius=2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.5, "0.5"),
        (-3, "-3"),
        (1e-7, "1e-07"),
        (1e300, "1e+300"),
        (float("nan"), "nan"),
        (None, "none"),
        (True, "true"),
        (np.float32(2), "2"),
        ((1, 2.0, 2.5), "1x2x2.5"),
        ("mean", "mean"),
        ("a/b c", "a%2Fb%20c"),
        ("..", ".."),
    ],
)
def test_values_in_names(value, text):
    assert value_text("p", value) == text


@pytest.mark.parametrize("value", [{}, (), np.zeros(3), object()])
def test_what_cannot_be_in_a_name_is_refused(value):
    with pytest.raises(UsageError, match=r"p=.*cannot be swept over"):
        value_text("p", value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "values of a parameter"),
        ({"sgima": [1]}, "no parameter 'sgima'.*sigma"),
        ({"raw": [1]}, "no parameter 'raw'"),
        ({"sigma": []}, "sigma has no values"),
        ({"sigma": 3.0}, "sigma=3.0 are no values"),
        ({"sigma": "12"}, "sigma='12' are no values"),
        ({"sigma": [1, "wide"]}, "sigma must be float, not 'wide'"),
        ({"sigma": [1, 2, 1.0]}, "sigma=1 is given twice"),
        ({"sigma": range(MOST_VARIANTS + 1)}, f"{MOST_VARIANTS + 1} variants"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(values, told):
    with pytest.raises(SpecError, match=told):
        single.sweep(**values)


def test_a_name_too_long_for_a_folder_is_refused():
    @lp.pipeline
    def called(raw: lp.Image, *, word: str = ""):
        return raw

    with pytest.raises(SpecError, match="too long"):
        called.sweep(word=["x" * LONGEST_NAME])


def test_a_parameter_that_is_swept_over_is_given_no_more():
    with pytest.raises(SpecError, match="'sigma'"):
        single.sweep(sigma=[1, 2])(np.zeros((4, 4)), sigma=3)


def test_a_mistake_of_one_variant_is_told_with_the_line():
    with pytest.raises(SpecError, match="min_size=-1") as caught:
        bind(objects.sweep(size=[3, -1]), radius=1, above=3.0)
    assert "label(bright > above" in str(caught.value)


def test_a_dict_in_a_dict_is_a_folder():
    @lp.pipeline
    def both(raw: lp.Image):
        return {
            "one": single(raw, sigma=2.0),
            "two": objects(raw),
            "three": {"smooth": single(raw)},
        }

    spec = bind(both)
    assert list(spec.outputs) == ["one", "two/labels", "two/table", "two/top", "three/smooth"]
    found = both(np.ones((12, 16), np.uint8))
    assert list(found) == ["one", "two", "three"]
    assert list(found["two"]) == ["labels", "table", "top"]


def test_a_sweep_in_a_pipeline_is_a_dict_of_its_variants():
    @lp.pipeline
    def brightest(raw: lp.Image):
        return {
            v: {"top": maximum_of(n["single"])} for v, n in single.sweep(sigma=[1, 2])(raw).items()
        }

    assert list(bind(brightest).outputs) == ["sigma=1/top", "sigma=2/top"]


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "scratch", "running", "lepton.json", ""])
def test_a_folder_must_be_able_to_be_one(name):
    @lp.pipeline
    def odd(raw: lp.Image):
        return {name: {"mean": mean(raw)}}

    with pytest.raises(SpecError, match=re.escape(repr(name))):
        bind(odd)
