"""Plain values to bytes, see `lepton_pipe.ledger.packing`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.ledger import arrays
from lepton_pipe.ledger.classes import fields_of, name_of, values_of

FORMAT = b"\x01"
DEEPEST = 64
"""Levels of containers in one another."""
MOST_DIGITS = 1 << 24
"""Bytes of the largest integer."""
FLOAT, COMPLEX = struct.Struct("<d"), struct.Struct("<dd")


class NotPlainError(TypeError):
    """A value holds something that is no plain data, so that it cannot be stored."""


class Writer:
    """Bytes that grow, and the classes met so far with their numbers.

    Attributes
    ----------
    out
        What was written.
    classes
        NamedTuples and dataclasses, numbered as they were met.
    """

    def __init__(self) -> None:
        self.out = bytearray(FORMAT)
        self.classes: dict[type, int] = {}

    def write(self, value: Any, depth: int = 0) -> None:
        """Append a value that lies in `depth` others; raise `NotPlainError` if it is not plain."""
        kind = type(value)
        if depth > DEEPEST:
            raise NotPlainError(
                f"a {_full_name(kind)} lies {depth} levels deep, or in itself: it cannot be "
                "stored; return something flatter"
            )
        plain = _PLAIN.get(kind)
        if plain is not None:
            plain(self, value)
        elif kind in _CONTAINERS:
            tag, items = _CONTAINERS[kind]
            self._items(tag, items(value), depth)
        elif isinstance(value, np.dtype):
            self.out += b"d"
            self._dtype(value)
        elif isinstance(value, np.generic) and kind is value.dtype.type:
            self._scalar(value)
        else:
            self._record(value, depth)

    def _number(self, n: int) -> None:
        while n > 0x7F:
            self.out.append(n & 0x7F | 0x80)
            n >>= 7
        self.out.append(n)

    def _sized(self, data: bytes) -> None:
        self._number(len(data))
        self.out += data

    def _text(self, text: str) -> None:
        self._sized(_utf8(text))

    def _dtype(self, dtype: np.dtype[Any]) -> None:
        if not arrays.is_storable(dtype):
            raise NotPlainError(
                f"an array of dtype {dtype} cannot be stored; return numbers, text or times, each "
                "in an array of its own"
            )
        self._text(dtype.str)

    def _tagged(self, tag: bytes, data: bytes) -> None:
        self.out += tag
        self._sized(data)

    def _integer(self, value: int) -> None:
        size = value.bit_length() // 8 + 1
        if size > MOST_DIGITS:
            raise NotPlainError(f"an int of {size} bytes cannot be stored: {MOST_DIGITS} at most")
        self._tagged(b"i", value.to_bytes(size, "little", signed=True))

    def _scalar(self, value: np.generic) -> None:
        self.out += b"g"
        self._dtype(value.dtype)
        self.out += arrays.to_bytes(np.asarray(value))

    def _array(self, array: NDArray[Any]) -> None:
        self.out += b"a"
        self._dtype(array.dtype)
        self._number(array.ndim)
        for n in array.shape:
            self._number(n)
        raw = arrays.to_bytes(array)
        frame = arrays.compressed(raw)
        self._number(0 if frame is None else len(frame))
        # Filled up, so that a reader may refuse what claims to hold far more than is there.
        self.out += raw if frame is None else frame.ljust(arrays.room_of(len(raw)), b"\0")

    def _items(self, tag: bytes, values: list[Any], depth: int) -> None:
        self.out += tag
        self._number(len(values))
        for value in values:
            self.write(value, depth + 1)

    def _record(self, value: Any, depth: int) -> None:
        kind = type(value)
        fields = fields_of(kind)
        if fields is None:
            raise NotPlainError(
                f"a {_full_name(kind)} cannot be stored: it is no plain data; return numbers, "
                "text, arrays, or tuples, lists, dicts and dataclasses of them"
            )
        try:
            values = values_of(value, fields)
        except AttributeError as error:
            raise NotPlainError(f"a {_full_name(kind)} cannot be stored: {error}") from None
        self.out += b"r"
        self._class(kind, fields)
        for item in values:
            self.write(item, depth + 1)

    def _class(self, kind: type, fields: tuple[str, ...]) -> None:
        known = self.classes.get(kind)
        if known is not None:
            self._number(known)
            return
        self._number(len(self.classes))
        self.classes[kind] = len(self.classes)
        self._text(name_of(kind))
        self._text(",".join(fields))


def _full_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else name_of(kind).replace(":", ".")


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Return the members of a set in an order that does not depend on the process."""
    return sorted(values, key=pack_plain)


def pack_plain(value: Any) -> bytes:
    """Return a value as bytes, see `lepton_pipe.ledger.packing.pack`."""
    writer = Writer()
    writer.write(value)
    return bytes(writer.out)


def _entries(mapping: dict[Any, Any]) -> list[Any]:
    return [x for entry in mapping.items() for x in entry]


def _utf8(text: str) -> bytes:
    return str(text).encode("utf-8", "surrogatepass")


_PLAIN: dict[type, Callable[[Writer, Any], None]] = {
    type(None): lambda w, _: w.out.extend(b"N"),
    bool: lambda w, v: w.out.extend(b"T" if v else b"F"),
    int: Writer._integer,
    float: lambda w, v: w.out.extend(b"f" + FLOAT.pack(v)),
    complex: lambda w, v: w.out.extend(b"c" + COMPLEX.pack(v.real, v.imag)),
    str: lambda w, v: w._tagged(b"s", _utf8(v)),
    bytes: lambda w, v: w._tagged(b"b", v),
    # As text and bytes: an array would lose the zeros at their ends.
    np.str_: lambda w, v: w._tagged(b"S", _utf8(v)),
    np.bytes_: lambda w, v: w._tagged(b"B", bytes(v)),
    np.ndarray: Writer._array,
}
_CONTAINERS: dict[type, tuple[bytes, Callable[[Any], list[Any]]]] = {
    tuple: (b"(", list),
    list: (b"[", list),
    set: (b"<", _in_order),
    frozenset: (b">", _in_order),
    dict: (b"{", _entries),
}
