from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.kernels.flatfield import divide_shading, fit_shading, flatfield
from tests.kernels.blockwise import DTYPES, blocks, blockwise, check, describe, images, noise


def vignette(height, width):
    """Return a surface of second order, 1 on average."""
    y = ((2 * np.arange(height) + 1) / height - 1)[:, None]
    x = (2 * np.arange(width) + 1) / width - 1
    surface = 1 + 0.1 * y - 0.2 * x - 0.3 * y**2 + 0.05 * x * y - 0.25 * x**2
    return surface / surface.mean()


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_estimate_in_blocks(data):
    axes, image = data.draw(images(dtypes=DTYPES, nan=True))
    image = np.abs(image) if image.dtype.kind == "f" else image
    result = check(
        flatfield, image, block=data.draw(blocks(image.shape)), axes=axes, ulps=16, floor=0.3
    )
    assert result.shape == image.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.bool_])
def test_sums_of_integers_do_not_depend_on_the_blocks(dtype):
    image = noise((2, 3, 70, 200), dtype, 1)
    spec = describe(fit_shading, image, axes="tcyx")
    expected = blockwise(spec, image, block=(2, 3, 70, 200))
    for block in [(1, 1, 7, 9), (2, 2, 33, 200), (1, 3, 70, 1), (2, 1, 1, 64)]:
        np.testing.assert_array_equal(blockwise(spec, image, block=block), expected)


@pytest.mark.parametrize("extent", [(40, 60), (150, 131), (1, 90), (257, 2), (3, 3)])
def test_a_surface_of_second_order_is_removed(extent):
    surface = vignette(*extent)
    stack = 300.0 * np.stack([surface, 2 * surface, 0.5 * surface])
    result = flatfield(stack + 7.0, dark=7.0)
    for plane, level in zip(result, (300, 600, 150), strict=True):
        np.testing.assert_allclose(plane, level, rtol=1e-9)


def test_every_channel_has_its_own_surface():
    one, other = vignette(50, 70), vignette(50, 70)[::-1, ::-1]
    image = np.stack([one * 100, other * 50])
    result = blockwise(describe(flatfield, image, axes="cyx"), image, block=(1, 20, 30))
    np.testing.assert_allclose(result[0], 100, rtol=1e-9)
    np.testing.assert_allclose(result[1], 50, rtol=1e-9)


def test_noisy_image_becomes_flatter_and_keeps_its_brightness():
    random = np.random.default_rng(0)
    truth = random.poisson(1000, (20, 64, 80))
    seen = (truth * vignette(64, 80)).astype(np.uint16)
    result = flatfield(seen)
    before, after = (a.mean(axis=0) / a.mean() for a in (seen, result))
    assert after.std() < 0.1 * before.std()
    assert abs(result.mean() / truth.mean() - 1) < 0.02


def test_nan_takes_no_part():
    image = (100 * np.stack([vignette(30, 40)] * 3)).astype(np.float32)
    image[0, 3:9, 4:20] = np.nan
    image[1, 5, 5] = np.inf
    result = flatfield(image)
    good = np.isfinite(image)
    np.testing.assert_allclose(result[good], 100, rtol=1e-5)
    assert np.isnan(result[~good & np.isnan(image)]).all()


@pytest.mark.parametrize("value", [0, 5])
def test_nothing_to_fit_changes_nothing(value):
    image = np.full((4, 9, 9), value, np.uint8)
    np.testing.assert_array_equal(flatfield(image, dark=float(value)), np.zeros(image.shape))
    np.testing.assert_array_equal(flatfield(image), np.full(image.shape, float(value)))
    assert flatfield(np.full((5, 5), np.nan)).shape == (5, 5)


def test_floor_limits_the_gain():
    image = np.full((1, 3), 10.0)
    steep = np.array([[1.0, 0, 2.0, 0, 0, 0]])
    result = divide_shading(image, coefficients=steep, floor=0.25)
    np.testing.assert_allclose(result, [[40.0, 10.0, 10 / (1 + 4 / 3)]])


# -- with a reference -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_reference_in_blocks(data):
    axes, image = data.draw(images(nan=True))
    flat = noise(image.shape[-2:], data.draw(st.sampled_from([np.uint16, np.float32])), 1)
    flat = np.abs(flat).astype(flat.dtype)
    block = data.draw(blocks(image.shape))
    check(flatfield, image, flat, block=block, axes=axes, ulps=16, dark=3.5)


def test_reference_equals_the_formula():
    image, flat = noise((5, 20, 30), np.uint16, 1), noise((20, 30), np.uint16, 2) // 2 + 30000
    dark = noise((20, 30), np.uint8, 3)
    result = check(flatfield, image, flat, dark, block=(2, 7, 8))
    shading = (flat - dark.astype(float)) / (flat - dark.astype(float)).mean()
    np.testing.assert_allclose(result, (image - dark.astype(float)) / shading, rtol=1e-5)
    assert result.dtype == np.float32


def test_reference_with_channels():
    image = noise((4, 2, 3, 20, 30), np.uint8, 1)
    flat = noise((2, 1, 20, 30), np.uint8, 2) // 2 + np.uint8(100)
    flat[1] //= 2
    result = check(flatfield, image, flat, block=(3, 1, 2, 9, 11), axes="tczyx")
    shading = flat / flat.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, image / shading, rtol=1e-5)


def test_dead_pixels_of_the_reference_are_not_blown_up():
    flat = np.full((4, 5), 100.0)
    flat[1, 1], flat[2, 2] = 0, np.nan
    result = flatfield(np.full((4, 5), 50.0), flat, floor=0.2)
    shading = 1800 / 19 / 100
    expected = np.full((4, 5), 50.0 * shading)
    expected[1, 1] = expected[2, 2] = 50 / 0.2
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize(
    ("axes", "params", "says"),
    [
        ("yx", {"floor": 0}, "floor=0 must be above 0 and at most 1"),
        ("yx", {"dark": float("nan")}, "dark=nan must be finite"),
        ("zy", {}, "shading is a surface over y and x, but the image has axes zy"),
    ],
)
def test_bad_parameters_are_refused(axes, params, says):
    image = np.ones((8, 9), np.uint8)
    with pytest.raises(SpecError, match=says):
        describe(flatfield, image, axes=axes, **params)
    if axes == "yx":
        with pytest.raises((ValueError, TypeError, UsageError), match=says):
            flatfield(image, **params)


def test_bad_references_are_refused():
    image, stack = np.ones((8, 9), np.uint8), np.ones((3, 8, 9), np.uint8)
    with pytest.raises(ValueError, match="flat or dark has more axes"):
        flatfield(image, stack)
    with pytest.raises(ValueError, match="does not fit"):
        flatfield(stack, np.ones((7, 9)))
    with pytest.raises(TypeError, match="dark is an image, but without flat"):
        flatfield(stack, dark=image)
    with pytest.raises(TypeError, match=r"flat=3\.0 must be an image"):
        flatfield(image, 3.0)
    with pytest.raises(SpecError, match="make it a parameter of the pipeline"):
        describe(flatfield, stack, flat=image)
