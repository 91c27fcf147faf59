"""What is packed comes back the same, and what is not plain data is refused."""

from __future__ import annotations

import math
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.ledger import arrays
from lepton_pipe.ledger.packing import NotPlainError, classes_in, pack, unpack
from tests.ledger.packable import VALUES, Boxed, Pair, Shouting, Slotted, Sums, again, same

# -- there and back -------------------------------------------------------------------------


@given(VALUES)
def test_what_is_packed_comes_back_the_same(value):
    assert same(again(value), value)


@given(st.integers())
def test_integers_of_any_size_come_back(n):
    assert again(n**37) == n**37


def test_edges_of_integers_come_back():
    values = [s * (2**k + d) for k in range(0, 2100, 7) for d in (-1, 0, 1) for s in (-1, 1)]
    assert again(values) == values


@pytest.mark.parametrize("bits", [0x7FF8000000000001, 0xFFF800000000BEEF, 1 << 63, 1])
def test_bits_of_floats_survive(bits):
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert struct.unpack("<Q", struct.pack("<d", again(value)))[0] == bits
    array = np.array([bits], np.uint64).view(np.float64)
    assert again(array).view(np.uint64)[0] == bits
    assert again(array[0]).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "dtype", ["<f2", ">f8", "g", "G", ">U3", "|S4", "<M8[25s]", "<m8", ">M8[D]"]
)
def test_rarer_dtypes_survive(dtype):
    array = np.zeros((2, 3), dtype)
    assert again(array).dtype.str == array.dtype.str
    assert same(again(np.dtype(dtype)), np.dtype(dtype))


@pytest.mark.parametrize("value", [np.str_(""), np.str_("äb"), np.bytes_(b""), np.bytes_(b"\0\0")])
def test_numpys_text_comes_back_with_its_type(value):
    assert type(again(value)) is type(value)
    assert again(value) == value


def test_arrays_that_are_not_contiguous_come_back_in_c_order():
    array = np.arange(60).reshape(3, 4, 5)
    for view in (array.T, array[::-1, ::2], np.broadcast_to(array[:1], (3, 4, 5))):
        result = again(view)
        assert np.array_equal(result, view)
        assert result.flags.c_contiguous


def test_arrays_can_be_written_to_and_leave_the_bytes_alone():
    for size in (3, 100_000):
        data = pack(np.zeros(size))
        kept = bytes(data)
        unpack(data, {})[:] = 1
        assert data == kept


def test_true_is_one_whatever_byte_it_was():
    assert again(np.array([0, 1, 2, 255], np.uint8).view(bool)).view(np.uint8).tolist() == [
        0,
        1,
        1,
        1,
    ]


def test_large_arrays_are_compressed_where_that_helps():
    zeros, noise = np.zeros(1 << 20), np.random.default_rng(0).bytes(1 << 16)
    assert len(pack(zeros)) == pytest.approx(zeros.nbytes / arrays.MOST_RATIO, rel=0.01)
    assert same(again(zeros), zeros)
    noise = np.frombuffer(noise, np.uint8)
    assert noise.size < len(pack(noise)) < noise.size + 20
    assert same(again(noise), noise)


@pytest.mark.parametrize("size", [511, 512, 513, 8191, 8192, 65535, 65536, 65792, 1 << 22])
@pytest.mark.parametrize("dtype", [">u2", "?", "<c16", ">U2"])
def test_every_width_of_a_frames_size_is_understood(size, dtype):
    array = (np.arange(size) % 2).astype(dtype)
    assert same(again(array), array)


def test_sets_are_packed_alike_in_every_process():
    # Small integers that collide in the table of a set lie there in the order they came in.
    assert list({0, 8}) != list({8, 0})
    assert pack({0, 8}) == pack({8, 0})
    mixed = {1, "1", b"1", None, (1,), Pair(1, "a")}
    assert again(mixed) == mixed


def test_no_code_of_a_class_runs():
    made = object.__new__(Shouting)
    made.value = 5
    assert again(made).value == 5


def test_a_cached_property_is_no_field():
    box = Boxed(4)
    assert box.twice == 8
    assert vars(again(box)) == {"value": 4}
    assert again(Boxed[int](4)).value == 4


def test_classes_are_named_once():
    one, many = len(pack([Pair(0, 0)])), len(pack([Pair(0, 0)] * 11))
    assert many - one == 10 * len(b"r\0" + b"i\x01\0" * 2)


def test_classes_in_a_value_are_found():
    assert classes_in({"a": [Pair(Sums(1, 2), 3), {Slotted(1, 2)}]}) == {Pair, Sums, Slotted}


# -- what is not plain ----------------------------------------------------------------------


class Colour(IntEnum):
    RED = 1


class Kind(Enum):
    A = 1


class Text(str):
    __slots__ = ()


class Derived(Pair):
    pass


@dataclass
class Listed(list):
    name: str


def _loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _unset() -> Slotted:
    return object.__new__(Slotted)


def _extended() -> Sums:
    value = Sums(1, 2)
    value.more = 3  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "object"),
        (Colour.RED, "Colour"),
        (Kind.A, "Kind"),
        (Text("a"), "Text"),
        (Derived(1, 2), "Derived"),
        (Listed("a"), "Listed"),
        (Decimal(1), "Decimal"),
        (Counter("aa"), "Counter"),
        (OrderedDict(), "OrderedDict"),
        (defaultdict(list), "defaultdict"),
        (lambda: 0, "function"),
        (Pair, "type"),
        (bytearray(1), "bytearray"),
        (np.ma.masked_array([1]), "MaskedArray"),
        (np.rec.array([1]), "recarray"),
        (np.array([None]), "object"),
        (np.zeros(2, "i4,i4"), "dtype"),
        (np.zeros(2, "i4,i4")[0], "dtype"),
        (np.dtype("U0"), "dtype"),
        (np.dtype("O"), "object"),
        (range(3), "range"),
        (_loop(), "list"),
        (_unset(), "Slotted"),
        (_extended(), "more"),
        (1 << (8 << 24), "int"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_not_plain_is_refused_by_name(value, named):
    with pytest.raises(NotPlainError, match=named):
        pack({"a": (value,)})
    with pytest.raises(NotPlainError):
        classes_in(value)


def test_pickles_are_bytes_like_any_others():
    assert again(pickle.dumps(print)) == pickle.dumps(print)


def test_a_value_deep_in_others_comes_back():
    value: Any = 1
    for _ in range(64):
        value = [value]
    assert again(value) == value
    with pytest.raises(NotPlainError, match="deep"):
        pack([value])


def test_not_a_number_is_equal_to_itself_here():
    assert same(again(math.nan), math.nan)
    assert not same(0.0, -0.0)
