"""The loop that follows a program of `networks`."""

from __future__ import annotations

from typing import Any

from lepton_pipe.compiled import jit
from lepton_pipe.networks import BOTH, LARGER, SMALLER


@jit
def follow(steps: Any, tiles: Any, lanes: Any, memory: Any) -> None:
    """Follow the steps of a program for each of several tiles.

    Parameters
    ----------
    steps
        ``(n, 7)`` of uint64: what to do; where in `memory` the row of smaller and that of larger
        values go; where both arguments begin; and for each argument 1 if that is counted from
        the tile's place in the source, else 0. The place of a copy is counted from the tile's
        place in the result. No step may overwrite its own arguments.
    tiles
        ``(n, 2)`` of uint64: the places of each tile in the source and in the result.
    lanes
        Elements of a row; uint64.
    memory
        All rows, of any integer dtype.
    """
    # All places are unsigned, or each index would be checked for being counted from the end.
    for t in range(tiles.shape[0]):
        for k in range(steps.shape[0]):
            what, low, high = steps[k, 0], steps[k, 1], steps[k, 2]
            a = steps[k, 3] + steps[k, 5] * tiles[t, 0]
            b = steps[k, 4] + steps[k, 6] * tiles[t, 0]
            if what == BOTH:
                for i in range(lanes):
                    p, q = memory[a + i], memory[b + i]
                    memory[low + i] = p if p < q else q
                    memory[high + i] = q if p < q else p
            elif what == SMALLER:
                for i in range(lanes):
                    p, q = memory[a + i], memory[b + i]
                    memory[low + i] = p if p < q else q
            elif what == LARGER:
                for i in range(lanes):
                    p, q = memory[a + i], memory[b + i]
                    memory[high + i] = q if p < q else p
            else:
                low += tiles[t, 1]
                for i in range(lanes):
                    memory[low + i] = memory[a + i]


@jit
def to_keys(bits: Any, keys: Any) -> None:
    """Turn the bits of floats into integers in the order of the floats.

    Parameters
    ----------
    keys
        Those of the two infinities, the one that any NaN gets, and the largest of all.
    """
    low, high, nan, top = keys[0], keys[1], keys[2], keys[3]
    for i in range(bits.shape[0]):
        key = bits[i] if bits[i] >= 0 else bits[i] ^ top
        bits[i] = nan if (key < low) | (key > high) else key


@jit
def from_keys(bits: Any, top: Any) -> None:
    """Turn what `to_keys` made into the bits of floats."""
    for i in range(bits.shape[0]):
        bits[i] = bits[i] if bits[i] >= 0 else bits[i] ^ top
