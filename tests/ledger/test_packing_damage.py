"""Packed bytes that are damaged, or that lie: refused, and no memory taken for them."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError
from lepton_pipe.ledger.packing import by_name, pack, unpack
from tests.ledger.packable import CLASSES, VALUES, Pair, Slotted, Sums

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
