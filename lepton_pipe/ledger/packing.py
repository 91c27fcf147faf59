"""Plain values as bytes and back, exactly; nothing that is read is imported or evaluated.

Each value is a tag of one byte and what belongs to it. Numbers of bytes and of items are written
seven bits to a byte, the lowest first. A class is named where it is first met, with its fields,
and goes by its number after that. No number is believed that the bytes left cannot hold.
"""

from __future__ import annotations

from typing import Any

from lepton_pipe.errors import DamagedError
from lepton_pipe.ledger.classes import Classes, by_name, known_classes
from lepton_pipe.ledger.decode import Reader
from lepton_pipe.ledger.encode import NotPlainError, Writer, pack_plain

__all__ = ["NotPlainError", "by_name", "classes_in", "known_classes", "pack", "unpack"]


def pack(value: Any) -> bytes:
    """Return a value as bytes.

    Parameters
    ----------
    value
        None, bool, int, float, complex, str, bytes; NumPy's scalars, dtypes and arrays of kinds
        b i u f c S U M m; tuples, lists, dicts, sets and frozensets of such, and NamedTuples and
        dataclasses whose fields hold such. Subclasses of these are something else.

    Raises
    ------
    NotPlainError
        When there is something else in it; names its type.
    """
    return pack_plain(value)


def unpack(data: bytes | memoryview, classes: Classes) -> Any:
    """Return the value that `pack` made `data` of.

    Bits, dtypes with their byte order, and shapes are the same; arrays are in C order and can be
    written to. An array takes memory for at most 1024 times the bytes that it is stored in.

    Parameters
    ----------
    classes
        The classes that may be in it, see `known_classes` and `by_name`.

    Raises
    ------
    DamagedError
        When `data` is damaged, or holds a class that is not among `classes` or has other fields
        now.
    """
    try:
        return Reader(memoryview(data), classes).whole()
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise DamagedError(
            f"a stored value of {len(data)} bytes cannot be read ({error}); the blocks that it is "
            "of have to be computed again"
        ) from error


def classes_in(value: Any) -> set[type]:
    """Return the NamedTuples and dataclasses that a value is made of.

    Raises
    ------
    NotPlainError
        As `pack` does.
    """
    writer = Writer()
    writer.write(value)
    return set(writer.classes)
