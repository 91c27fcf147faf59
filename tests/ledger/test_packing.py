from __future__ import annotations

import functools
import math
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_pipe.errors import DamagedError
from lepton_pipe.ledger import arrays
from lepton_pipe.ledger.packing import NotPlainError, by_name, classes_in, pack, unpack

T = TypeVar("T")


class Pair(NamedTuple):
    low: Any
    high: Any = 0


@dataclass
class Sums:
    count: Any
    total: Any
    cache: Any = field(default=None, init=False)


@dataclass(frozen=True, slots=True)
class Slotted:
    first: Any
    second: Any


@dataclass
class Boxed(Generic[T]):
    value: T

    @functools.cached_property
    def twice(self) -> Any:
        return 2 * self.value


@dataclass
class Shouting:
    """Code of the class must not run when an instance is read."""

    value: Any

    def __post_init__(self) -> None:
        raise AssertionError("ran")


CLASSES = by_name([Pair, Sums, Slotted, Boxed, Shouting])


def again(value: Any) -> Any:
    return unpack(pack(value), CLASSES)


def same(a: Any, b: Any) -> bool:
    """Tell whether two values have the same types and bits, whatever `pack` makes of them."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        equal = (a.dtype.str, a.shape) == (b.dtype.str, b.shape)
        return equal and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if type(a) in CLASSES.values():
        return all(same(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__)
    return bool(a == b)


DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(endianness="?", min_len=1),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
)
ARRAYS = DTYPES.flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.tuples(st.integers(), st.text()),
)
PLAIN = st.one_of(
    KEYS,
    st.floats(),
    st.complex_numbers(),
    st.characters(categories=["Cs"]),
    ARRAYS,
    DTYPES.flatmap(lambda d: hnp.arrays(d, (1,))).map(lambda a: a[0]),
    st.sets(KEYS),
    st.frozensets(KEYS),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(Pair, inner, inner),
        st.builds(Sums, inner, inner),
        st.builds(Slotted, inner, inner),
        st.builds(Boxed, inner),
    ),
    max_leaves=8,
)


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


# -- damaged bytes --------------------------------------------------------------------------

SAMPLE = [
    Pair(np.arange(7, dtype=">u2"), {"a": 1 << 70, None: (1.5, 2j)}),
    Sums(np.zeros(3000), {frozenset({1, 2}), "x"}),
    np.array(["ab", "c"]),
    np.array([True, False]),
    np.datetime64("2020-01-01", "s"),
    Pair("text", b"bytes"),
    np.str_("a"),
    Slotted(np.float32(1), np.dtype("<i4")),
]


def test_bytes_cut_off_anywhere_are_refused():
    data = pack(SAMPLE)
    for size in range(len(data)):
        with pytest.raises(DamagedError):
            unpack(data[:size], CLASSES)
    with pytest.raises(DamagedError, match="behind its end"):
        unpack(data + b"\0", CLASSES)


@settings(max_examples=300)
@given(VALUES, st.randoms(use_true_random=False), st.integers(1, 3))
def test_flipped_bits_give_a_plain_value_or_an_error(value, random, flips):
    data = bytearray(pack(value))
    for _ in range(flips):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    try:
        found = unpack(bytes(data), CLASSES)
    except DamagedError:
        return
    pack(found)  # what is read is whole: each part of it can be looked at


def test_every_flipped_bit_of_a_sample_gives_a_plain_value_or_an_error():
    data = pack(SAMPLE)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            pack(unpack(bytes(flipped), CLASSES))
        except DamagedError:
            continue


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_plain_value_or_an_error(data):
    try:
        pack(unpack(b"\x01" + data, CLASSES))
    except DamagedError:
        return


def _number(n: int) -> bytes:
    result = b""
    while n > 0x7F:
        result, n = result + bytes([n & 0x7F | 0x80]), n >> 7
    return result + bytes([n])


def _array(dtype: bytes, shape: tuple[int, ...], stored: bytes, packed: int = 0) -> bytes:
    head = b"\x01a" + _number(len(dtype)) + dtype + _number(len(shape))
    return head + b"".join(map(_number, shape)) + _number(packed) + stored


def _frame(size: int) -> bytes:
    from numcodecs import zstd

    return zstd.compress(bytes(size), 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02N",
        b"\x01?",
        b"\x01i\x00",
        b"\x01s\x02\xff\xff",
        b"\x01[" + _number(1 << 40),
        b"\x01s" + _number(1 << 62),
        b"\x01s" + b"\xff" * 20,
        b"\x01" + b"[\x01" * 5000 + b"N",
        b"\x01<\x02TT",
        b"\x01{\x04TNTN",
        b"\x01{\x01T",
        b"\x01<\x01[\x00",
        b"\x01r\x01",
        b"\x01r\x00" + b"\x09os:system" + b"\x01a" + b"N",
        _array(b"O", (1,), bytes(8)),
        _array(b"<f8", (1 << 40,), bytes(8)),
        _array(b"<f8", (1 << 60, 0, 1 << 60), b""),
        _array(b"<f8", (1 << 68,), b""),
        _array(b"<f8", (1,) * 65, bytes(8)),
        _array(b"<U0", (1 << 40,), b""),
        _array(b"<i4,<i4", (1,), bytes(8)),
        _array(b"(2,)<i4", (1,), bytes(8)),
        _array(b"=f8", (1,), bytes(8)),
        _array(b"<i1", (1,), bytes(1)),
        _array(b"|b1", (1,), b"\x02"),
        _array(b"<U1", (1,), b"\xff\xff\xff\xff"),
        _array(b"<f8", (1 << 30,), _frame(1 << 20), len(_frame(1 << 20))),
        _array(b"|u1", (60_000,), _frame(50_000).ljust(60, b"\0"), len(_frame(50_000))),
        _array(b"|u1", (60_000,), _frame(70_000).ljust(60, b"\0"), len(_frame(70_000))),
        _array(b"|u1", (60_000,), _frame(60_000).ljust(59, b"\0") + b"x", len(_frame(60_000))),
        _array(b"|u1", (60_000,), b"x" * 60, 60),
    ],
)
def test_lies_are_refused(data):
    with pytest.raises(DamagedError):
        unpack(data, CLASSES)


def test_no_memory_is_taken_for_what_a_frame_claims(monkeypatch):
    claim = bytes.fromhex("28b52ffd") + b"\xe0" + struct.pack("<Q", 1 << 50) + bytes(100)
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(DamagedError, match="zstd frame"):
        unpack(_array(b"|u1", (60_000,), claim, len(claim)), {})


def test_a_class_that_is_not_known_is_named():
    with pytest.raises(DamagedError, match="Pair"):
        unpack(pack(Pair(1, 2)), {})


def test_a_class_whose_fields_changed_is_refused():
    class Other(NamedTuple):
        low: Any
        top: Any

    with pytest.raises(DamagedError, match="has others now"):
        unpack(pack(Pair(1, 2)), {next(iter(by_name([Pair]))): Other})


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
