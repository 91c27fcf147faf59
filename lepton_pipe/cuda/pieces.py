"""What kernels share that look at rows in pieces of eight voxels, a thread each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from lepton_pipe.cuda import THREADS
from lepton_pipe.cuda.operations import c_type

EACH = 8
"""Voxels of a piece."""
MOST_VOXELS = 2**31 - 1


@cache
def source(*names: str, **words: Any) -> str:
    """Return the sources ``NAME.cu`` as one, with their words put in, after ``pieces.cu``."""
    folder = Path(__file__).parent
    texts = [(folder / f"{name}.cu").read_text("utf-8") for name in ("pieces", *names)]
    return Template("\n".join(texts)).substitute(words, each=EACH, threads=THREADS)


def stored_type(dtype: np.dtype[Any]) -> str | None:
    """Return the C++ type in which a dtype's values are read; any byte of a mask counts."""
    return "unsigned char" if dtype == np.bool_ else c_type(dtype)


def pieces_in(shape: Sequence[int]) -> int:
    """Return how many pieces the rows of an image have."""
    return prod(shape[:-1]) * -(-shape[-1] // EACH)


def blocks_for(pieces: int) -> int:
    """Return how many blocks of threads look at some pieces."""
    return -(-pieces // THREADS)
