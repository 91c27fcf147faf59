"""Chunks as a user wants them: reading the wish, and refusing what would not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from operator import index
from typing import SupportsIndex

from lepton_pipe.errors import RefusedError, UsageError
from lepton_pipe.geometry import Grid, Layout

# Blosc takes no more at once.
LARGEST_CHUNK_BYTES = 2**31 - 2**10


def parse_chunks(chunks: Mapping[str, int] | str | None) -> dict[str, int]:
    """Return chunk lengths by axis name, from a mapping or from text such as ``z=1,y=1024``.

    Raises
    ------
    UsageError
        When the text is not understood, names an axis twice, or a length is below 1.
    """
    if chunks is None:
        return {}
    if isinstance(chunks, Mapping):
        return {name: _length(name, length) for name, length in chunks.items()}
    if not isinstance(chunks, str):
        raise UsageError(
            f"chunks={chunks!r} does not say which axes are meant; write it as z=1,y=1024,x=1024, "
            "or as a mapping from axis names"
        )
    found: dict[str, int] = {}
    for part in chunks.split(","):
        name, _, text = (word.strip() for word in part.partition("="))
        if not name or not text.isdecimal():
            raise UsageError(
                f"chunks {chunks!r} is not understood; write it as z=1,y=1024,x=1024, in voxels"
            )
        if name in found:
            raise UsageError(f"chunks {chunks!r} gives {name} twice; which one is meant?")
        found[name] = _length(name, int(text))
    return found


def _length(name: str, length: SupportsIndex) -> int:
    if isinstance(length, bool) or not hasattr(length, "__index__") or index(length) < 1:
        raise UsageError(
            f"chunks: {name}={length!r} must be a whole number of voxels, at least 1; an axis that "
            "is left out is up to the planner"
        )
    return index(length)


def refuse_unknown_axes(wanted: Mapping[str, int], outputs: Iterable[Grid]) -> None:
    """Raise `UsageError` when no output image has an axis that is wanted."""
    axes = list(dict.fromkeys(axis for grid in outputs for axis in grid.axes))
    for name in wanted:
        if name not in axes:
            there = f"there are {', '.join(axes)}" if axes else "no output is an image"
            raise UsageError(f"chunks: no output image has an axis {name!r}; {there}")


def refuse_chunks(name: str, itemsize: int, layout: Layout) -> None:
    """Refuse to store an image in chunks too large to encode.

    Parameters
    ----------
    name
        Of the output.
    itemsize
        Bytes of a voxel.

    Raises
    ------
    RefusedError
        Says how large a chunk would be.
    """
    nbytes = prod(layout.chunks) * itemsize
    if nbytes > LARGEST_CHUNK_BYTES:
        shape = " x ".join(map(str, layout.chunks))
        raise RefusedError(
            f"output {name!r}: a chunk of {shape} voxels is {nbytes:,} bytes, and codecs "
            "take 2 GiB at most; give shorter chunks"
        )
