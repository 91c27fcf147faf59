from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import UsageError
from lepton_pipe.spec.parameters import Parameter, read_signature

EMPTY = inspect.Parameter.empty


def parameter(annotation, default=EMPTY):
    return Parameter("size", annotation, default, "")


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (float, "2", 2.0),
        (float, "1e-3", 0.001),
        (float, "-2.5", -2.5),
        (float, "inf", float("inf")),
        (float, "-inf", float("-inf")),
        (int, "3", 3),
        (int, "-3", -3),
        (int, "1_000", 1000),
        (bool, "true", True),
        (bool, "No", False),
        (bool, "False", False),
        (str, "3", "3"),
        (str, "none", "none"),
        (str, "a,b", "a,b"),
        (Literal["max", "min"], "min", "min"),
        (Literal[1, 2], "2", 2),
        (Literal["auto", 3], "3", 3),
        (float | None, "none", None),
        (float | None, "None", None),
        (float | None, "2", 2.0),
        (Optional[int], "4", 4),  # noqa: UP045
        (Union[int, str], "4", 4),  # noqa: UP007
        (int | str, "four", "four"),
        (float | str, "3", 3.0),
        (str | None, "none", None),
        (float | Literal["otsu"], "otsu", "otsu"),
        (float | Literal["otsu"], "0.5", 0.5),
        (tuple[float, ...], "1,2,2", (1.0, 2.0, 2.0)),
        (tuple[float, ...], "3", (3.0,)),
        (tuple[float, float], "1,2", (1.0, 2.0)),
        (tuple[str, ...], "label,area", ("label", "area")),
        (tuple[str, ...], "label", ("label",)),
        (list[int], "1,2", (1, 2)),
        (Sequence[float], "1,2", (1.0, 2.0)),
        (float | tuple[float, ...], "1", 1.0),
        (float | tuple[float, ...], "1,2", (1.0, 2.0)),
        (tuple[float | None, ...], "1,None", (1.0, None)),
        (Mapping[str, float], "{'z': 1}", {"z": 1}),
        (Any, "3", 3),
        (Any, "text", "text"),
        (EMPTY, "3", 3),
    ],
)
def test_a_text_of_the_command_line_becomes_the_annotated_type(annotation, text, expected):
    value = parameter(annotation).parse(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float, "wide"),
        (float, "true"),
        (float, "none"),
        (float, "1,2"),
        (int, "3.0"),
        (int, "1e6"),
        (int, "true"),
        (bool, "1"),
        (bool, "maybe"),
        (Literal["max", "min"], "median"),
        (Literal[1, 2], "3"),
        (Literal[1, 2], "True"),
        (float | None, "x"),
        (tuple[float, float], "1,2,3"),
        (tuple[float, ...], "a,b"),
        (float, ""),
        (float, "__import__('os')"),
    ],
)
def test_a_text_that_is_no_such_value_is_refused_by_name_and_value(annotation, text):
    with pytest.raises(UsageError, match="size must be ") as caught:
        parameter(annotation).parse(text)
    assert str(caught.value).endswith(f", not {text!r}")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (float, "float"),
        (float | None, "float | None"),
        (Literal["a"], "a"),
        (Literal["max", "min", 3], "max, min or 3"),
        (float | Literal["otsu"] | None, "float, otsu or None"),
    ],
)
def test_the_error_names_the_type_as_the_user_wrote_it_and_choices_one_by_one(annotation, words):
    with pytest.raises(UsageError, match="must be") as caught:
        parameter(annotation).check([1, 2])
    assert f"must be {words}, not [1, 2]" in str(caught.value)


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.integers(), st.booleans())
def test_what_python_writes_is_read_back(number, whole, flag):
    assert parameter(float).parse(repr(number)) == number
    assert parameter(int).parse(repr(whole)) == whole
    assert parameter(bool).parse(repr(flag)) is flag


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, np.int64(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, np.int16(2), 2.0),
        (float, 2, 2.0),
        (bool, np.True_, True),
        (tuple[float, ...], [np.float32(1), 2], (1.0, 2.0)),
        (str | None, None, None),
    ],
)
def test_numbers_become_pythons_own_where_nothing_is_lost(annotation, value, expected):
    fitted = parameter(annotation).check(value)
    assert fitted == expected
    assert type(fitted) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2.5),
        (int, 2.0),
        (int, True),
        (float, True),
        (float, "2"),
        (bool, 1),
        (str, 3),
        (Sequence[float], "abc"),
        (tuple[float, ...], 3.0),
        (float, None),
        (Literal[1], True),
    ],
)
def test_values_of_another_type_are_refused(annotation, value):
    with pytest.raises(UsageError, match="size must be"):
        parameter(annotation).check(value)


def test_a_default_is_fitted_too_so_that_giving_it_changes_nothing():
    assert type(parameter(float, 2).usual()) is float
    assert parameter(float, None).usual() is None


def test_a_signature_is_read_with_its_help():
    def cells(
        raw: lp.Image, dark: lp.Image | None = None, *, sigma: float = 2, sizes=(1, 2), limit: int
    ):
        """Find cells.

        Parameters
        ----------
        sigma
            Width of the filter,
            in voxels.
        """

    images, parameters = read_signature(cells)
    assert images == {"raw": True, "dark": False}
    assert list(parameters) == ["sigma", "sizes", "limit"]
    assert parameters["sigma"].help == "Width of the filter, in voxels."
    assert parameters["sizes"].annotation is tuple
    assert [p.required for p in parameters.values()] == [False, False, True]


def bare(raw: lp.Image, sigma):
    pass


def starred(raw: lp.Image, *others: lp.Image):
    pass


def no_image(*, sigma: float = 2):
    pass


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (bare, "bare: parameter sigma has no type; annotate it"),
        (starred, r"starred: \*others is not allowed"),
        (no_image, "no_image takes no image; annotate one parameter"),
    ],
)
def test_signatures_that_cannot_be_pipelines_are_refused(fn, message):
    with pytest.raises(UsageError, match=message):
        read_signature(fn)
