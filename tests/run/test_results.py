"""JSON files of a result: the same data as the encoder's, laid out for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_pipe.run.results import write_json

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
DATA = st.recursive(
    PLAIN | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(DATA)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reads_back_as_it_was(tmp_path: Path, data: Any) -> None:
    write_json(tmp_path / "data.json", data)
    assert json.loads((tmp_path / "data.json").read_text()) == data


def test_a_list_of_numbers_takes_one_line(tmp_path: Path) -> None:
    data = {"counts": np.arange(4), "levels": [{"shape": (2, 3)}, {}], "empty": [], "one": 1.5}
    write_json(tmp_path / "data.json", data)
    assert (tmp_path / "data.json").read_text() == (
        "{\n"
        '  "counts": [0, 1, 2, 3],\n'
        '  "levels": [\n'
        "    {\n"
        '      "shape": [2, 3]\n'
        "    },\n"
        "    {}\n"
        "  ],\n"
        '  "empty": [],\n'
        '  "one": 1.5\n'
        "}\n"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")]])
def test_numbers_that_json_has_no_word_for_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "data.json", {"value": value})


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object is no JSON data"):
        write_json(tmp_path / "data.json", {"value": object()})
