"""Values that can be packed, and classes that may be among them."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_pipe.ledger.packing import by_name, pack, unpack

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
