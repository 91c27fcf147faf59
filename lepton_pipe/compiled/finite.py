"""How many numbers of an image are NaN or infinite, by the bits of IEEE 754."""

from __future__ import annotations

from typing import Any

from lepton_pipe.compiled import jit


@jit
def not_finite(bits: Any, magnitude: Any, infinity: Any) -> tuple[int, int]:
    """Count what is NaN, and what is NaN or infinite.

    Parameters
    ----------
    bits
        The floats as unsigned integers of their size.
    magnitude, infinity
        All bits but the sign, and those of infinity, which are beyond those of finite numbers.
    """
    nan, beyond = 0, 0
    for i in range(bits.size):
        value = bits[i] & magnitude
        nan += value > infinity
        beyond += value >= infinity
    return nan, beyond
