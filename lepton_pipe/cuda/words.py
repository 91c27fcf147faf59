"""Voxels of any dtype as words of the GPU that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Literal

import numpy as np

from lepton_pipe.cuda.operations import C_TYPES

What = Literal["smallest", "largest", "median"]

_INTEGERS = {name: type_ for name, type_ in C_TYPES.items() if name[0] in "iu"}
_LONGEST_AXIS = 2**30


def are_words(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Tell whether an image's voxels can be words, and its axes be counted by an int."""
    known = dtype.kind in "biuf" and dtype.isnative and dtype.itemsize <= 8
    return known and max(shape, default=0) < _LONGEST_AXIS


def index_of(image: Any) -> np.dtype[Any]:
    """Return the integers that count the voxels of an image, and some more than there are."""
    return np.dtype(np.int32 if image.size < 2**31 - 2**16 else np.int64)


def per_word(dtype: np.dtype[Any]) -> int:
    """Return how many voxels lie in a word and are compared at once."""
    return 2 if dtype.itemsize <= 2 else 1


def word_bytes(dtype: np.dtype[Any]) -> int:
    """Return the size of a word."""
    return max(4, dtype.itemsize)


def source_of_words(dtype: np.dtype[Any], what: What) -> str:
    """Return the source that other sources begin with: what voxels are, and how they compare."""
    bits = _bits(dtype)
    info = np.iinfo(bits)
    mask = 256**dtype.itemsize - 1
    of_floats = _of_floats(dtype, what, mask) if dtype.kind == "f" else {}
    most = 1 if dtype.kind == "b" else info.max
    edge = {"smallest": most, "largest": info.min, "median": 0}[what]
    return template("words.cu").substitute(
        {
            "packed": int(per_word(dtype) == 2),
            "signed": int(bits.kind == "i"),
            "floats": int(dtype.kind == "f"),
            "voxel": _INTEGERS[bits.str[1:]],
            "word": "unsigned int" if per_word(dtype) == 2 else _INTEGERS[bits.str[1:]],
            "top": _literal(info.max),
            "infinite": 0,
            "nan": 0,
            "outside": _literal(edge & mask),
        }
        | of_floats
    )


def _bits(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the integers that voxels are read as."""
    kinds = {"f": f"i{dtype.itemsize}", "b": "u1"}
    return np.dtype(kinds.get(dtype.kind, dtype))


def _of_floats(dtype: np.dtype[Any], what: What, mask: int) -> dict[str, str]:
    top = mask >> 1
    infinite, minus = (int(i) & mask for i in np.array([np.inf, -np.inf], dtype).view(_bits(dtype)))
    return {
        "infinite": _literal(infinite),
        # NaN wins, as in NumPy.
        "nan": _literal(~top & mask if what == "smallest" else top),
        "outside": _literal(infinite if what == "smallest" else minus),
    }


def _literal(bits: int) -> str:
    return f"{bits:#x}ull"


@cache
def template(name: str) -> Template:
    """Return a source of this folder with places to be filled in."""
    return Template((Path(__file__).parent / name).read_text("utf-8"))
