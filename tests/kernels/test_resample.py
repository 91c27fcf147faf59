from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import skimage.measure
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.merge.pyramid import downsample_array
from lepton_pipe.spec import Image, ImageType
from tests.kernels.blockwise import DTYPES, blocks, check, describe, images, noise

ALL = (*DTYPES, np.int8, np.int64, np.uint64, np.float16, np.float64)


@st.composite
def ranges(draw, axes, shape):
    kept = {}
    for name, n in zip(axes, shape, strict=True):
        if draw(st.booleans()):
            start = draw(st.integers(0, n - 1))
            kept[name] = (start, draw(st.integers(start + 1, n)))
    return kept


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_crop_in_blocks(data):
    axes, image = data.draw(images())
    kept = data.draw(ranges(axes, image.shape))
    index = tuple(slice(*kept.get(a, (None, None))) for a in axes)
    block = data.draw(blocks(image[index].shape))
    result = check(crop, image, block=block, axes=axes, **kept)
    np.testing.assert_array_equal(result, image[index])


def test_crop_speaks_like_python():
    image = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(crop(image, z=1), image[1:2])
    np.testing.assert_array_equal(crop(image, z=-1, x=(None, -2)), image[2:, :, :-2])
    np.testing.assert_array_equal(crop(image, y=(2, None)), image[:, 2:])
    np.testing.assert_array_equal(crop(image), image)


def test_crop_keeps_world_positions():
    grid = Grid.of((10, 20), scale=(2.0, 0.5), unit="micrometer", translation=(7.0, 0.0))
    result = crop(Image(ImageType(grid, np.dtype("u1"), "labels"), None), y=(3, 6), x=(10, None))
    assert result.shape == (3, 10)
    assert result.grid.translation == (13.0, 5.0)
    assert result.grid.scale == (2.0, 0.5)
    assert result.kind == "labels"


def reference(image, factors, method):
    """Reduce every cell with Python's own numbers."""
    out = np.empty([-(-n // f) for n, f in zip(image.shape, factors, strict=True)], image.dtype)
    for index in np.ndindex(out.shape):
        start = [i * f for i, f in zip(index, factors, strict=True)]
        cell = image[tuple(slice(a, a + f) for a, f in zip(start, factors, strict=True))]
        values = cell.ravel().tolist()
        if method == "nearest":
            out[index] = values[0]
        elif method != "mean":
            out[index] = {"max": np.max, "min": np.min}[method](cell)
        elif image.dtype.kind == "f":
            out[index] = np.float64(sum(values)) / len(values)
        else:
            out[index] = round(Fraction(sum(int(v) for v in values), len(values)))
    return out


@settings(max_examples=120, deadline=None)
@given(data=st.data(), method=st.sampled_from(["mean", "nearest", "max", "min"]))
def test_downsample_in_blocks(data, method):
    axes, image = data.draw(images(dtypes=ALL, nan=True))
    factors = tuple(data.draw(st.integers(1, 5)) for _ in axes)
    shape = [-(-n // f) for n, f in zip(image.shape, factors, strict=True)]
    block = data.draw(blocks(shape))
    result = check(downsample, image, block=block, axes=axes, factor=factors, method=method, ulps=0)
    if image.size < 3000:
        expected = reference(image, factors, method)
        if image.dtype.kind == "f" and method == "mean":
            np.testing.assert_allclose(result, expected, rtol=1e-3 if image.itemsize == 2 else 1e-5)
        else:
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int64, np.int8])
@pytest.mark.parametrize("factor", [2, 3, 4, 7])
def test_mean_of_the_largest_values_does_not_overflow(dtype, factor):
    info = np.iinfo(dtype)
    for value in (info.max, info.min, info.max - 1):
        image = np.full((9, 10, 11), value, dtype)
        assert (downsample_array(image, (factor,) * 3) == value).all()


def test_mean_rounds_halves_to_even():
    image = np.array([[0, 1, 1, 2, 2, 3, -1, 0, -1, -2]])
    for dtype in (np.int8, np.int16, np.int64):
        result = downsample_array(image.astype(dtype), (1, 2))
        assert result.tolist() == [[0, 2, 2, 0, -2]]
    assert downsample_array(np.array([True, False, True, True]), (2,)).tolist() == [False, True]


def test_mean_equals_scikit_image():
    image = noise((12, 20, 30), np.float64, 1)
    theirs = skimage.measure.block_reduce(image, (2, 4, 5), np.mean)
    np.testing.assert_allclose(downsample(image, (2, 4, 5)), theirs, rtol=1e-10, atol=1e-10)


def test_spatial_axes_alone_are_coarsened():
    image = noise((3, 8, 9), np.uint8, 1)
    result = describe(downsample, image, axes="cyx", factor=2)["downsample"].type
    assert result.grid.shape == (3, 4, 5)
    assert result.grid.scale == (1.0, 2.0, 2.0)
    assert result.grid.translation == (0.0, 0.5, 0.5)


def test_defaults_by_kind():
    mask = noise((9, 9), bool, 1)
    np.testing.assert_array_equal(downsample(mask), mask[::2, ::2])
    labels = noise((9, 9), np.int64, 1)
    for method in (None, "mean"):
        with pytest.raises(SpecError, match="would average labels"):
            describe(downsample, labels, kinds=["labels"], method=method)
    spec = describe(downsample, labels, kinds=["labels"], method="nearest")
    assert spec["downsample"].type.kind == "labels"


def test_results_own_their_data():
    image = noise((8, 8), np.uint8, 1)
    for method in ("nearest", "mean"):
        assert not np.shares_memory(downsample_array(image, (1, 1), method), image)


@pytest.mark.parametrize(
    ("kernel", "params", "says"),
    [
        (crop, {"z": (0, 3)}, "there is no axis 'z'"),
        (crop, {"y": (3, 3)}, r"y=\(3, 3\) leaves nothing or reaches beyond .* 8 voxels"),
        (crop, {"y": (0, 9)}, r"y=\(0, 9\) leaves nothing or reaches beyond"),
        (crop, {"y": 8}, r"y=\(8, 9\) leaves nothing or reaches beyond"),
        (crop, {"y": (-9, None)}, "leaves nothing or reaches beyond"),
        (crop, {"x": (1, 2, 3)}, "is no range of voxels"),
        (crop, {"x": 0.5}, "x=0.5 is no range of voxels"),
        (downsample, {"factor": 0}, "factor=0 must be made of whole numbers of at least 1"),
        (downsample, {"factor": (2, 2, 2)}, "factor has 3 values, but the image has axes yx"),
        (downsample, {"method": "median"}, "method='median' is not known; there are mean"),
    ],
)
def test_bad_parameters_are_refused(kernel, params, says):
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises((ValueError, UsageError), match=says):
        kernel(image, **params)
    with pytest.raises(SpecError, match=f"{kernel.name}: .*{says}") as caught:
        describe(kernel, image, **params)
    assert len(caught.value.problems) == 1
