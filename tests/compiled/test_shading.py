"""Division by shading and sums over cells: bit for bit what NumPy's operators give."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels import shading
from lepton_pipe.kernels.flatfield import divide_flat
from lepton_pipe.kernels.shading import divide_shading, fit_shading
from lepton_pipe.spec import Place
from tests.kernels.blockwise import blocks, images, noise

DTYPES = (np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64)
COEFFICIENTS = np.array([[1.0, 0.4, -0.3, -0.5, 0.2, -0.9], [0.3, 0.1, 0.2, 0, 0, 0]] * 150)


def reference(call):
    """Call a function without the compiled loops."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (shading, importlib.import_module("lepton_pipe.kernels.flatfield")):
            patch.setattr(module, "shading_loops", lambda *_: None)
        return call()


@st.composite
def cut_out(draw):
    """An image, a block of it as a view, and where it lies."""
    axes, image = draw(images(dtypes=DTYPES, nan=True))
    shape = draw(blocks(image.shape))
    start = [draw(st.integers(0, n - min(n, b))) for n, b in zip(image.shape, shape, strict=True)]
    stop = [min(n, a + b) for n, a, b in zip(image.shape, start, shape, strict=True)]
    region = Region(tuple(start), tuple(stop))
    block = image[region.slices]
    block.flags.writeable = False
    return block, Place(region, region, Grid.of(image.shape, axes))


@settings(max_examples=80, deadline=None)
@given(case=cut_out(), dark=st.sampled_from([0.0, 3.7, -2]), floor=st.sampled_from([0.05, 0.7]))
def test_division_by_a_surface(case, dark, floor):
    block, place = case
    args = {"image": block, "dark": dark, "coefficients": COEFFICIENTS, "floor": floor}
    got = divide_shading.run(args, place)
    expected = reference(lambda: divide_shading.run(args, place))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=80, deadline=None)
@given(case=cut_out(), data=st.data())
def test_division_by_a_reference(case, data):
    block, place = case
    last = data.draw(st.integers(2, block.ndim))
    plane = [n if data.draw(st.integers(0, 4)) else 1 for n in block.shape[-last:]]
    flat = noise(plane, data.draw(st.sampled_from([np.uint8, np.float32])), 1, nan=True)
    dark = data.draw(st.sampled_from([0.0, 2.5, "plane", "whole"]))
    shapes = {"plane": block.shape[-2:], "whole": block.shape}
    if isinstance(dark, str):
        dark = noise(shapes[dark], np.uint8, 2)
    channels = place.grid.shape[place.grid.axis("c")] if "c" in place.grid.axes else 1
    level = np.linspace(40, 60, channels)
    args = {"image": block, "flat": flat, "dark": dark, "level": level, "floor": 0.1}
    with np.errstate(all="ignore"):
        got = divide_flat.run(args, place)
        expected = reference(lambda: divide_flat.run(args, place))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=80, deadline=None)
@given(case=cut_out())
def test_sums_over_cells(case):
    block, place = case
    if block.dtype.kind == "f":
        block = np.where(np.random.default_rng(0).random(block.shape) < 0.1, np.inf, block)
        block = block.astype(np.float32)
    got = fit_shading.run({"image": block}, place)
    expected = reference(lambda: fit_shading.run({"image": block}, place))
    np.testing.assert_array_equal(got.count, expected.count)
    assert got.total.dtype == expected.total.dtype
    if block.dtype.kind != "f":
        np.testing.assert_array_equal(got.total, expected.total)
    else:
        scale = 1e-12 * np.abs(expected.total).max(initial=1)
        np.testing.assert_allclose(got.total, expected.total, rtol=1e-12, atol=scale)


def test_parts_cover_wide_planes_and_long_rows(monkeypatch):
    monkeypatch.setattr(shading, "_PART", 50)
    for shape, axes in (((3, 7, 60), "zyx"), ((4, 9), "yx"), ((2, 3, 4, 5), "tcyx")):
        image = noise(shape, np.uint16, 1)
        place = Place.whole(Grid.of(shape, axes))
        args = {"image": image, "dark": 3.0, "coefficients": COEFFICIENTS, "floor": 0.1}
        expected = reference(lambda: divide_shading.run(args, place))  # noqa: B023
        np.testing.assert_array_equal(divide_shading.run(args, place), expected)
        got = fit_shading.run({"image": image}, place)
        np.testing.assert_array_equal(
            got.total,
            reference(lambda: fit_shading.run({"image": image}, place)).total,  # noqa: B023
        )


def test_the_reference_is_another_body():
    place = Place.whole(Grid.of((4, 5)))
    image = noise((4, 5), np.uint16, 1)
    called = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shading, "_surface", lambda *a: called.append(a) or 1.0)
        args = {"image": image, "dark": 0.0, "coefficients": COEFFICIENTS, "floor": 0.1}
        divide_shading.run(args, place)
        assert not called
        reference(lambda: divide_shading.run(args, place))
        assert called
