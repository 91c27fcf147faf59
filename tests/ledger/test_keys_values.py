"""Digests of values: equal for equal values alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lepton_pipe.ledger.keys import value_digest


class Pair(NamedTuple):
    a: Any
    b: Any


class Couple(NamedTuple):
    a: Any
    b: Any


@dataclass
class Point:
    a: Any
    b: Any


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0)),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


@given(plain)
def test_a_copy_has_the_same(value):
    found = value_digest(value)
    assert len(found) == 16
    assert value_digest(pickle.loads(pickle.dumps(value))) == found  # noqa: S301


DIFFERENT = [
    *(None, False, True, 0, 1, -1, 2**70, 0.0, -0.0, 1.0, float("nan"), 1j, complex(0.0, 1.0) - 1),
    *("", "0", "None", b"", b"0", (), [], {}, set(), frozenset({0}), {0}, (0,), [0], [[0]], [0, 0]),
    *((1, (2, 3)), ((1, 2), 3), (1, 2, 3), ["ab", "c"], ["a", "bc"], {"a": 1}, {"a": 2}, {"b": 1}),
    *(Pair(1, 2), Couple(1, 2), Point(1, 2), (1, 2)),
    *(np.float64(1), np.float32(1), np.int64(1), np.bool_(True), np.str_("0")),
    *(np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0)), np.zeros(2), np.zeros(2, "f4"), np.ones(2)),
    *(np.zeros((1, 2)), np.zeros((2, 1)), np.array(1.0), np.array([0.0, -0.0])),
    *(np.arange(4), np.arange(4, dtype="u8"), np.arange(4).reshape(2, 2)),
    *(np.array(["a", "b"]), np.array([b"a", b"b"]), np.array(["a", 1], object)),
    *(np.array([1], "M8[s]"), np.array([1], "M8[ms]"), np.array([1], "m8[s]")),
    *(np.zeros(1, [("a", "i4")]), np.zeros(1, [("b", "i4")]), np.zeros(1, [("a", "f4")])),
]


def test_different_values_have_different_ones():
    for a, b in combinations(range(len(DIFFERENT)), 2):
        assert value_digest(DIFFERENT[a]) != value_digest(DIFFERENT[b]), (
            DIFFERENT[a],
            DIFFERENT[b],
        )


def test_memory_and_byte_order_do_not_count():
    array = np.arange(24, dtype="<u2").reshape(2, 3, 4)
    assert value_digest(array.astype(">u2")) == value_digest(array)
    assert value_digest(np.asfortranarray(array)) == value_digest(array)
    assert value_digest(array.transpose().copy().transpose()) == value_digest(array)


def test_the_order_of_a_mapping_counts():
    a, b = OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)
    assert value_digest(a) != value_digest(b)


def test_what_is_not_understood_is_never_the_same():
    class Thing:
        pass

    thing = Thing()
    hidden = np.zeros(1, [("a", object)])
    for value in (thing, [thing], {"a": thing}, np.ma.masked_array([1, 2]), hidden):
        assert value_digest(value) != value_digest(value)


def test_sets_in_another_process():
    script = (
        "from lepton_pipe.ledger.keys import value_digest\n"
        "print(value_digest({'a', 'b', 'c', 'd', 1.5}).hex())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {value_digest({"a", "b", "c", "d", 1.5}).hex()}
