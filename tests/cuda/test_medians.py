"""Medians by our own kernels: the values of the compiled loops and of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.compiled import ranks
from lepton_pipe.cuda import compiled, medians
from lepton_pipe.device import to_device, to_host
from lepton_pipe.kernels import median
from lepton_pipe.kernels.ranks import median_by_sorting
from tests.cuda.on_cpu import COMPILER
from tests.cuda.test_extremes import DTYPES, ball
from tests.fake_device import fake_cupy
from tests.kernels.blockwise import noise
from tests.kernels.test_blocks_on_device import Run, picture

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")


@pytest.fixture(autouse=True)
def gpu():
    with fake_cupy(kernels=True) as traffic:
        yield traffic


CASES = [
    # (shape, dtype, voxels of the window)
    *(((5, 70), dtype, np.ones((3, 3), bool)) for dtype in DTYPES),
    ((6, 35, 70), "uint16", np.ones((3, 3, 3), bool)),
    ((6, 35, 70), "float32", np.ones((1, 5, 5), bool)),
    ((7, 9, 33), "int16", ball(1, 1, 1)),
    ((3, 4, 5), "uint8", np.ones((3, 2, 5), bool)),
    ((2, 1, 3), "float64", np.ones((4, 3, 2), bool)),
    ((3, 2, 6, 7, 8), "bool", np.ones((1, 1, 3, 1, 3), bool)),
    ((90,), "int32", np.ones(6, bool)),
    ((40, 3), "uint64", np.array([[1, 0, 0, 0], [0, 0, 1, 0]], bool)),
]


@pytest.mark.parametrize(("shape", "dtype", "cells"), CASES)
def test_medians_are_those_of_the_compiled_loops(shape, dtype, cells):
    image = noise(shape, dtype, 1, nan=True)
    assert medians.fits(image.shape, image.dtype, cells)
    got = medians.median(to_device(image, "gpu"), cells)
    assert got.dtype == image.dtype
    np.testing.assert_array_equal(to_host(got), ranks.median(image, cells))


@given(st.data())
@settings(max_examples=12)
def test_any_image_is_filtered_as_scipy_does(data):
    cells = data.draw(st.sampled_from([ball(1, 1, 1), np.ones((1, 3, 4), bool)]))
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 70)))
    image = noise(shape, data.draw(st.sampled_from(["uint16", "float32"])), 3)
    got = to_host(medians.median(to_device(image, "gpu"), cells))
    np.testing.assert_array_equal(got, median_by_sorting(image, cells))


def test_a_view_is_what_it_shows_and_nothing_is_nothing():
    cells = np.ones((1, 3, 3), bool)
    there = to_device(noise((8, 20, 50), "int16", 2), "gpu")[1:, ::2, 5:44]
    got = to_host(medians.median(there, cells))
    np.testing.assert_array_equal(got, ranks.median(to_host(there), cells))
    assert medians.median(to_device(np.zeros((3, 0, 2)), "gpu"), cells).shape == (3, 0, 2)


def test_windows_that_are_too_large_are_left_to_cupy():
    image = np.zeros((9, 9, 9), np.uint8)
    for size in ((9, 9, 9), (1, 3, 99), (1, 20, 20)):
        assert not medians.fits(image.shape, image.dtype, np.ones(size, bool))
    assert not medians.fits((9,) * 4, image.dtype, np.ones((3, 3, 3, 3), bool))
    assert medians.fits(image.shape, image.dtype, np.ones((5, 5, 5), bool))


@lp.pipeline
def calmed(raw: lp.Image):
    """Medians of an image and of a mask."""
    calm = median(raw, size=3)
    return {"calm": calm, "mask": median(calm > 20_000, radius=1)}


def test_a_pipeline_on_the_device_is_that_of_the_cores(monkeypatch):
    image, names = picture(), []
    monkeypatch.setattr(
        "lepton_pipe.cuda.tiles.compiled", lambda s, n: names.append(n) or compiled(s, n)
    )
    expected = Run(calmed, "cpu", raw=image).all()
    assert not names
    made = Run(calmed, "gpu", raw=image).all()
    assert names
    for name, want in expected.items():
        np.testing.assert_array_equal(made[name], want)
