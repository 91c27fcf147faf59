"""NaN and infinities counted by a compiled loop: as NumPy counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.kernels.finite import _simply_counted, count_not_finite
from lepton_pipe.spec import NotFinite
from tests.compiled.test_counts import laid_out


@st.composite
def floats(draw):
    """An image with any bits: NaN of both signs and all kinds, and the numbers next to them."""
    array = draw(laid_out(["float16", "float32", "float64", ">f4"]))
    finfo = np.finfo(array.dtype)
    special = [np.nan, -np.nan, np.inf, -np.inf, finfo.max, finfo.min, finfo.tiny, -0.0, 0.0]
    quiet = np.where(np.isfinite(array), array, 0) if draw(st.booleans()) else array.copy()
    at = draw(st.lists(st.integers(0, array.size - 1), max_size=6)) if array.size else []
    for number, place in enumerate(at):
        quiet[np.unravel_index(place, quiet.shape)] = special[number % len(special)]
    quiet.flags.writeable = False
    return quiet


@settings(max_examples=150, deadline=None)
@given(floats())
def test_as_numpy(image):
    found = count_not_finite(image)
    assert found == _simply_counted(image)
    assert all(type(n) is int for n in found)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_nan_is_one(dtype):
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    infinity = np.array(np.inf, dtype).view(unsigned)
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    bits = [infinity, infinity + 1, infinity - 1, sign - 1, sign]
    bits += [sign | infinity, sign | (sign - 1)]
    image = np.array(bits, unsigned).view(dtype)
    assert count_not_finite(image) == NotFinite(nan=3, infinite=2)


def test_long_images_and_none():
    image = np.zeros((3, 70_000), np.float32)
    image[:, ::1000] = np.nan
    image[1, 1::1000] = -np.inf
    assert count_not_finite(image.T) == NotFinite(210, 70)
    assert count_not_finite(image[:0]) == NotFinite()
