"""Bytes to plain values, see `lepton_pipe.ledger.packing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lepton_pipe.ledger import arrays
from lepton_pipe.ledger.classes import Classes, fields_of, made
from lepton_pipe.ledger.encode import COMPLEX, DEEPEST, FLOAT, FORMAT, MOST_DIGITS

_LONGEST_NUMBER = 10
"""Bytes of the largest number of bytes or items: 63 bits."""


class Reader:
    """A place in bytes that moves on.

    All methods raise `ValueError`, or what NumPy, zstd and the making of a dict or set raise, when
    the bytes are damaged.
    """

    def __init__(self, data: memoryview, classes: Classes) -> None:
        self._data = data
        self._at = 0
        self._classes = classes
        self._met: list[tuple[type, tuple[str, ...]]] = []

    def whole(self) -> Any:
        """Return the value that all the bytes are."""
        if self._take(1) != FORMAT:
            raise ValueError("written in a format that is unknown here")
        value = self._value(0)
        if self._at != len(self._data):
            raise ValueError("there are bytes behind its end")
        return value

    def _take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"{size} bytes belong at byte {self._at}, where it ends before")
        self._at += size
        return self._data[self._at - size : self._at]

    def _number(self) -> int:
        number = 0
        for i in range(_LONGEST_NUMBER):
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return number
        raise ValueError(f"the number before byte {self._at} has no end")

    def _sized(self) -> memoryview:
        return self._take(self._number())

    def _text(self) -> str:
        return str(self._sized(), "utf-8", "surrogatepass")

    def _value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError("it is nested deeper than anything that is stored")
        tag = bytes(self._take(1))
        plain = _PLAIN.get(tag)
        if plain is not None:
            return plain(self)
        if tag == b"r":
            return self._record(depth)
        if tag == b"{":
            return self._mapping(depth)
        if tag not in _CONTAINERS:
            raise ValueError(f"there is no kind of value {tag!r}")
        items = self._items(self._count(1), depth)
        container = _CONTAINERS[tag](items)
        if len(container) != len(items):
            raise ValueError("a member of a set is there twice")
        return container

    def _count(self, least: int) -> int:
        """Return a number of items, each of at least so many bytes."""
        count = self._number()
        if count * least > len(self._data) - self._at:
            raise ValueError(f"{count} items cannot be in the bytes left at byte {self._at}")
        return count

    def _items(self, count: int, depth: int) -> list[Any]:
        return [self._value(depth + 1) for _ in range(count)]

    def _mapping(self, depth: int) -> dict[Any, Any]:
        items = self._items(self._count(1), depth)
        result = dict(zip(items[::2], items[1::2], strict=True))
        if 2 * len(result) != len(items):
            raise ValueError("a key of a dict is there twice")
        return result

    def _record(self, depth: int) -> Any:
        cls, fields = self._class()
        return made(cls, fields, self._items(len(fields), depth))

    def _class(self) -> tuple[type, tuple[str, ...]]:
        number = self._number()
        if number < len(self._met):
            return self._met[number]
        if number > len(self._met):
            raise ValueError(f"class {number} was not named before")
        name, fields = self._text(), self._text()
        cls = self._classes.get(name)
        if cls is None:
            raise ValueError(f"{name!r} is none of the classes that its kernels know")
        present = fields_of(cls)
        if present is None or ",".join(present) != fields:
            raise ValueError(f"{name!r} had the fields {fields!r}, and has others now")
        self._met.append((cls, present))
        return cls, present

    def _integer(self) -> int:
        digits = self._sized()
        if not 0 < len(digits) <= MOST_DIGITS:
            raise ValueError(f"an integer of {len(digits)} bytes")
        return int.from_bytes(digits, "little", signed=True)

    def _complex(self) -> complex:
        return complex(*COMPLEX.unpack(self._take(COMPLEX.size)))

    def _dtype(self) -> np.dtype[Any]:
        return arrays.dtype_of(self._text())

    def _scalar(self) -> Any:
        dtype = self._dtype()
        return arrays.from_raw(self._take(dtype.itemsize), dtype, ())[()]

    def _array(self) -> Any:
        dtype = self._dtype()
        shape = tuple(self._number() for _ in range(self._count(1)))
        size, packed = arrays.size_of(dtype, shape), self._number()
        if not packed:
            return arrays.from_raw(self._take(size), dtype, shape)
        if packed >= size:
            raise ValueError("a compressed array is larger than it was")
        stored = self._take(max(packed, arrays.room_of(size)))
        if any(stored[packed:]):
            raise ValueError("there are bytes behind a compressed array")
        return arrays.from_frame(stored[:packed], dtype, shape)


_PLAIN: dict[bytes, Callable[[Reader], Any]] = {
    b"N": lambda _: None,
    b"T": lambda _: True,
    b"F": lambda _: False,
    b"i": Reader._integer,
    b"f": lambda r: FLOAT.unpack(r._take(FLOAT.size))[0],
    b"c": Reader._complex,
    b"s": Reader._text,
    b"b": lambda r: bytes(r._sized()),
    b"S": lambda r: np.str_(r._text()),
    b"B": lambda r: np.bytes_(bytes(r._sized())),
    b"d": Reader._dtype,
    b"g": Reader._scalar,
    b"a": Reader._array,
}
_CONTAINERS: dict[bytes, Callable[[list[Any]], Any]] = {
    b"(": tuple,
    b"[": list,
    b"<": set,
    b">": frozenset,
}
