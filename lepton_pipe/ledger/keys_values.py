"""Digests of values: the same for equal values in every process, whatever they are made of."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

VALUE_BYTES = 16
"""Length of the digest of a value."""

_LENGTH = struct.Struct("<q")
Update = Callable[[bytes | memoryview], None]


def value_digest(value: Any) -> bytes:
    """Return a digest of a value that a stage needs.

    Equal are values of the same types with the same bits: ``1``, ``1.0`` and ``np.float64(1)``
    differ, and so do ``0.0`` and ``-0.0``, but not arrays in another memory
    or byte order.

    Parameters
    ----------
    value
        None, a number, text, bytes, a NumPy array or scalar, or what is made of these: tuples,
        lists, sets, mappings and dataclasses. Anything else may have changed as far as can be
        told, so its digest is another every time.

    Returns
    -------
    bytes
        `VALUE_BYTES` long.
    """
    state = hashlib.blake2b(digest_size=VALUE_BYTES)
    _feed(state.update, value)
    return state.digest()


def _feed(update: Update, value: Any) -> None:
    kind = type(value)
    if kind is np.ndarray:
        _feed_array(update, value)
    elif value is None or kind in (bool, int):
        _tagged(update, kind.__name__, repr(value).encode())
    elif kind is float:
        _tagged(update, "float", struct.pack("<d", value))
    elif kind is complex:
        _tagged(update, "complex", struct.pack("<dd", value.real, value.imag))
    elif kind is str:
        _tagged(update, "str", value.encode("utf-8", "surrogatepass"))
    elif kind is bytes:
        _tagged(update, "bytes", value)
    elif isinstance(value, np.generic):
        _tagged(update, "scalar", b"")
        _feed_array(update, np.asarray(value))
    else:
        _feed_container(update, value)


def _tagged(update: Update, tag: str, data: bytes) -> None:
    update(f"{tag}:{len(data)}:".encode())
    update(data)


def _feed_array(update: Update, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.kind == "O":
        _tagged(update, "objects", repr(array.shape).encode())
        _feed(update, list(array.flat))
        return
    if array.dtype.hasobject:
        _tagged(update, "unknown", os.urandom(VALUE_BYTES))
        return
    # NumPy's pickles turn some arrays into native byte order, and others not.
    dtype = array.dtype.newbyteorder("<")
    _tagged(update, "array", f"{repr(dtype) if dtype.names else dtype.str}{array.shape}".encode())
    whole = np.ascontiguousarray(array, dtype)
    update(whole.reshape(-1).view(np.uint8).data if whole.size and whole.itemsize else b"")


def _feed_container(update: Update, value: Any) -> None:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (tuple, list)):
        entries = list(value)
    elif isinstance(value, Mapping):
        entries = [entry for item in value.items() for entry in item]
    elif isinstance(value, (set, frozenset)):
        entries = sorted(map(value_digest, value))
    elif is_dataclass(value) and not isinstance(value, type):
        entries = [getattr(value, f.name) for f in fields(value)]
    else:
        _tagged(update, "unknown", os.urandom(VALUE_BYTES))
        return
    _tagged(update, name, _LENGTH.pack(len(entries)))
    for entry in entries:
        _feed(update, entry)
