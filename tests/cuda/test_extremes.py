"""Extremes in windows by our own kernels: the values of the filters in array operations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.cuda import compiled, extremes
from lepton_pipe.device import to_device, to_host
from lepton_pipe.kernels import closing, erosion, maximum, white_tophat
from lepton_pipe.kernels.windows import Window, extreme, extreme_by_steps
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.kernels.blockwise import noise
from tests.kernels.test_blocks_on_device import Run, picture

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")

DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)


@pytest.fixture(autouse=True)
def gpu():
    with fake_cupy(kernels=True) as traffic:
        yield traffic


@pytest.fixture
def launched(monkeypatch):
    """Return the names of kernels that are started."""
    names = []

    def noted(source, name):
        names.append(name)
        return compiled(source, name)

    monkeypatch.setattr("lepton_pipe.cuda.tiles.compiled", noted)
    monkeypatch.setattr("lepton_pipe.cuda.lines.compiled", noted)
    return names


def ball(*radii):
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in radii)]
    return sum((a / r) ** 2 for a, r in zip(axes, radii, strict=True)) <= 1


def corner(*shape):
    """Return a window whose cells lie all on one side of its centre."""
    cells = np.zeros(shape, bool)
    cells[(slice(0, 1),) * len(shape)] = True
    return cells


CASES = [
    # (shape, dtype, size of a box or footprint)
    *(((5, 17, 70), dtype, (3, 3, 3)) for dtype in DTYPES),
    ((9, 70, 150), "uint16", (3, 5, 2)),
    ((9, 70, 150), "float32", ball(2, 2, 2)),
    ((13, 10, 65), "uint8", ball(3, 2, 4)),
    ((7, 40), "int16", corner(4, 3)),
    ((6, 5, 4), "float16", np.ones((3, 1, 3), bool)),
    ((2, 3, 5, 6, 40), "uint8", (1, 1, 1, 3, 5)),
    ((4, 3, 6, 7), "float64", ball(1, 1)[:, None, None, :]),
    ((3, 2, 3), "int32", (7, 7, 4)),
    ((300,), "int64", (4,)),
    ((1, 1, 1), "float32", (3, 3, 3)),
    *(((11, 9, 40), dtype, (1, 9, 18)) for dtype in DTYPES),
    ((40, 33, 67), "uint16", (15, 12, 9)),
    ((3, 2, 9, 8, 30), "bool", (2, 2, 5, 4, 9)),
    ((40, 290), "float64", (20, 150)),
    ((900,), "uint8", (600,)),
    ((5, 7, 3), "int8", (31, 11, 40)),
]


def extremes_of(image, size, *, largest):
    """Return what our own kernels make of an image, and what array operations do."""
    cells = size if isinstance(size, np.ndarray) else None
    over = Window(size if cells is None else cells.shape, cells)
    ufunc = np.maximum if largest else np.minimum
    assert extremes.fits(image.shape, image.dtype, cells)
    got = extreme(to_device(image, "gpu"), over, ufunc, mirrored=largest)
    return got, extreme_by_steps(image, over, ufunc, mirrored=largest)


def check(image, size, *, largest):
    got, expected = extremes_of(image, size, largest=largest)
    assert got.dtype == image.dtype
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(to_host(got), expected)


@pytest.mark.parametrize(("shape", "dtype", "size"), CASES)
@pytest.mark.parametrize("largest", [False, True])
def test_extremes_are_those_of_array_operations(shape, dtype, size, largest):
    check(noise(shape, dtype, 1, nan=True), size, largest=largest)


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 4))
    longest = {1: 300, 2: 70, 3: 14, 4: 6}[axes]
    shape = draw(st.tuples(*[st.integers(1, longest)] * axes))
    dtype = draw(st.sampled_from(["uint8", "int16", "float32"]))
    image = noise(shape, dtype, draw(st.integers(0, 2**16)), nan=True)
    return image, draw(st.tuples(*[st.sampled_from([1, 3, 12])] * axes))


@given(cases(), st.booleans())
@settings(max_examples=10)
def test_any_box_of_any_image(case, largest):
    image, size = case
    check(image, size, largest=largest)


@given(st.data())
@settings(max_examples=10)
def test_any_footprint_of_any_image(data):
    cells = data.draw(st.sampled_from([ball(1, 2, 2), corner(2, 3, 3)]))
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 70)))
    image = noise(shape, data.draw(st.sampled_from(["uint16", "float32"])), 3, nan=True)
    check(image, cells, largest=data.draw(st.booleans()))


@pytest.mark.parametrize("size", [(3, 3, 3), (1, 12, 9)])
def test_a_view_is_what_it_shows(size):
    there = to_device(noise((8, 20, 50), "int16", 2), "gpu")[1:, ::2, 5:44]
    over = Window(size)
    got = to_host(extreme(there, over, np.minimum))
    np.testing.assert_array_equal(got, extreme_by_steps(to_host(there), over, np.minimum))


@pytest.mark.parametrize("size", [(3, 3), (20, 20), (1, 1)])
def test_an_image_of_nothing_and_a_box_of_one_voxel(size):
    over = Window(size)
    assert extreme(to_device(np.zeros((0, 5)), "gpu"), over, np.minimum).shape == (0, 5)
    image = to_device(noise((4, 5), "uint8", 1), "gpu")
    got = extreme(image, over, np.maximum)
    assert not np.shares_memory(got._raw, image._raw)
    np.testing.assert_array_equal(to_host(got), extreme_by_steps(image.get(), over, np.maximum))


def test_small_windows_take_one_pass_and_long_boxes_one_along_each_axis(launched):
    image = to_device(noise((20, 30, 40), "uint16", 1), "gpu")
    for size in ((3, 3, 3), (7, 7, 7), (1, 9, 9)):
        extreme(image, Window(size), np.minimum)
    assert launched == ["tiles"] * 3
    launched.clear()
    extreme(image, Window((15, 15, 15)), np.minimum)
    extreme(image, Window((1, 9, 40)), np.minimum)
    assert launched == ["lines"] * 5


def test_what_has_no_kernel_goes_by_steps(launched):
    cells = ball(7, 7, 7)
    assert not extremes.fits((9, 9, 9), np.dtype("uint8"), cells)
    image = noise((9, 10, 11), "uint8", 1)
    got = extreme(to_device(image, "gpu"), Window(cells.shape, cells), np.maximum)
    assert not launched
    expected = extreme_by_steps(image, Window(cells.shape, cells), np.maximum)
    np.testing.assert_array_equal(to_host(got), expected)


def test_voxels_of_very_large_images_are_counted_by_long_integers(monkeypatch):
    monkeypatch.setattr("lepton_pipe.cuda.tiles.index_of", lambda image: np.dtype(np.int64))
    monkeypatch.setattr("lepton_pipe.cuda.lines.index_of", lambda image: np.dtype(np.int64))
    for size in ((3, 3, 3), (1, 9, 18)):
        check(noise((5, 17, 70), "uint16", 1), size, largest=True)


@lp.pipeline
def shapes(raw: lp.Image):
    """Windows of each kind, one after the other in one task and in blocks."""
    return {
        "peaks": white_tophat(raw, radius=2),
        "filled": closing(raw > 20_000, size=3),
        "low": erosion(maximum(raw, size=(1, 4, 11)), footprint=np.eye(3)[None]),
    }


def test_a_pipeline_on_the_device_is_that_of_the_cores(launched):
    image = picture()
    expected = Run(shapes, "cpu", raw=image).all()
    made = Run(shapes, "gpu", raw=image).all()
    assert set(launched) == {"tiles"}
    for name, want in expected.items():
        np.testing.assert_array_equal(made[name], want)
