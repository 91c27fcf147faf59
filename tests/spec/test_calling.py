"""Calling and binding a pipeline: its arguments, and what it returns."""

from __future__ import annotations

import pytest

import lepton_pipe as lp
from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.spec import Definition
from tests.spec.binding import image_type, problems

# -- what a pipeline returns ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda raw: None, "returned None; return one image"),
        (lambda raw: [raw], "returned list"),
        (lambda raw: {}, "returned an empty dict; return one image"),
        (lambda raw: {"a": 3}, "output 'a' is int, not an image"),
        (lambda raw: {"a": None}, "output 'a' is None, not an image"),
        (lambda raw: {"a/b": raw}, "output name 'a/b' cannot be a file name"),
        (lambda raw: {"../up": raw}, "cannot be a file name"),
        (lambda raw: {"": raw}, "cannot be a file name"),
        (lambda raw: {3: raw}, "cannot be a file name"),
        (lambda raw: {"scratch": raw}, "output name 'scratch' is taken"),
        (lambda raw: {"values": raw}, "output name 'values' is taken"),
    ],
)
def test_what_cannot_be_an_output_is_refused(result, message):
    def returns(raw: lp.Image):
        return result(raw + 1)

    (problem,) = problems(returns)
    assert message in problem
    assert problem == problem.strip()


def test_an_optional_image_may_be_missing_or_none():
    def flat(raw: lp.Image, dark: lp.Image | None = None):
        return raw if dark is None else raw - dark

    definition = Definition(flat)
    assert definition.split(("a",), {}) == ({"raw": "a"}, {})
    assert definition.split(("a",), {"dark": None}) == ({"raw": "a"}, {})
    without = definition.bind({"raw": image_type()}, {})
    both = definition.bind({"raw": image_type(), "dark": image_type()}, {})
    assert (without.outputs, both.outputs) == ({"flat": "raw"}, {"flat": "subtract"})
    assert without.digest != both.digest
    with pytest.raises(SpecError, match="image 'raw' is missing"):
        definition.split((None,), {})


# -- calling --------------------------------------------------------------------------------


def cells(raw: lp.Image, dark: lp.Image, *, sigma: float = 2, size: int):
    return gaussian(raw - dark, sigma=sigma)


def test_unknown_missing_and_wrong_arguments_are_told_together():
    with pytest.raises(SpecError) as caught:
        Definition(cells).split((1,), {"sigm": 3, "sigma": "wide"})
    assert caught.value.problems == (
        "there is no image or parameter 'sigm'; there are raw, dark, sigma, size",
        "image 'dark' is missing",
        "sigma must be float, not 'wide'",
        "parameter 'size' is missing",
    )


def test_too_many_and_repeated_arguments_are_refused():
    def one(raw: lp.Image):
        return raw

    with pytest.raises(SpecError, match="takes 1 arguments without a name, 2 were given"):
        Definition(one).split((1, 2), {})
    with pytest.raises(SpecError, match="'raw' was given twice"):
        Definition(one).split((1,), {"raw": 2})


def test_images_and_parameters_are_told_apart():
    images, parameters = Definition(cells).split(("a", "b"), {"size": 3})
    assert images == {"raw": "a", "dark": "b"}
    assert parameters == {"sigma": 2.0, "size": 3}
    assert type(parameters["sigma"]) is float


def test_an_option_of_every_run_is_no_name_for_a_parameter():
    with pytest.raises(UsageError, match="'memory' is the name of an option of every run"):

        @lp.pipeline
        def mine(raw: lp.Image, *, memory: int = 3):
            return raw
