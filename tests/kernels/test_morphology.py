from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import skimage.morphology
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.kernels.morphology import (
    black_tophat,
    closing,
    dilation,
    erosion,
    opening,
    white_tophat,
)
from tests.kernels.blockwise import blocks, check, describe, images, noise, whole

KERNELS = [erosion, dilation, opening, closing, white_tophat, black_tophat]
ODD = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_blocks_equal_whole(kernel, data):
    axes, image = data.draw(images(nan=True))
    spatial = sum(a in "zyx" for a in axes)
    size, radius = st.integers(1, 6), st.floats(0, 4)
    params = data.draw(
        st.one_of(
            st.fixed_dictionaries({"size": size}),
            st.fixed_dictionaries({"size": st.tuples(*[size] * spatial)}),
            st.fixed_dictionaries({"radius": radius}),
            st.fixed_dictionaries({"radius": st.tuples(*[radius] * spatial)}),
            st.just({"footprint": ODD.reshape((1,) * (spatial - 2) + ODD.shape)}),
        )
    )
    block = data.draw(blocks(image.shape))
    extra = data.draw(st.integers(0, 3))
    result = check(kernel, image, block=block, axes=axes, extra=extra, **params)
    assert result.dtype == image.dtype


@pytest.mark.parametrize("kernel", KERNELS[:4], ids=lambda k: k.name)
def test_windows_that_reach_beyond_the_image(kernel):
    image = noise((7, 9), np.uint8, 1)
    theirs = getattr(skimage.morphology, kernel.name)
    for radius in (6, 9, 30):
        disk = skimage.morphology.disk(radius)
        expected = theirs(image, disk, mode="ignore")
        np.testing.assert_array_equal(kernel(image, radius=radius), expected)
        np.testing.assert_array_equal(kernel(image, footprint=disk), expected)
        expected = theirs(image, np.ones((2 * radius + 1, 3)), mode="ignore")
        np.testing.assert_array_equal(kernel(image, (2 * radius + 1, 3)), expected)
    value = image.min() if kernel in (erosion, opening) else image.max()
    for params in ({"size": 10**30}, {"radius": 1e30}):
        assert (kernel(image, **params) == value).all() or kernel in (opening, closing)
        depth = describe(kernel, image, **params)[kernel.name].depth
        assert all(side <= 2 * 8 for pair in depth for side in pair)


@pytest.mark.parametrize("shape", [(23, 31), (7, 9, 11), (1, 5), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.bool_])
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_equals_scikit_image(shape, dtype, radius):
    image = noise(shape, dtype, radius)
    ball = {2: skimage.morphology.disk, 3: skimage.morphology.ball}[len(shape)](radius)
    box = np.ones((2 * radius + 1,) * len(shape))
    mode = {"erosion": "ignore", "dilation": "ignore"}
    for kernel in KERNELS[:4]:
        theirs = getattr(skimage.morphology, kernel.name)
        extra = {"mode": mode.get(kernel.name, "ignore")}
        np.testing.assert_array_equal(kernel(image, radius=radius), theirs(image, ball, **extra))
        np.testing.assert_array_equal(
            kernel(image, 2 * radius + 1), theirs(image, box, **extra), kernel.name
        )


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (5, 2), (1, 6)])
def test_grey_equals_scipy_for_even_boxes(size):
    image = noise((20, 30), np.int16, 1)
    for kernel in KERNELS[:4]:
        theirs = getattr(scipy.ndimage, f"grey_{kernel.name}")
        np.testing.assert_array_equal(kernel(image, size), theirs(image, size), kernel.name)


def test_lopsided_footprint_equals_scipy_away_from_the_edge():
    image = noise((20, 30), np.uint16, 2)
    inner = (slice(4, -4), slice(4, -4))
    for kernel in KERNELS[:4]:
        theirs = getattr(scipy.ndimage, f"grey_{kernel.name}")(image, footprint=ODD)
        np.testing.assert_array_equal(kernel(image, footprint=ODD)[inner], theirs[inner])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_opening_lies_below_and_closing_above(data):
    _, image = data.draw(images(axes="yx"))
    cells = data.draw(st.lists(st.booleans(), min_size=12, max_size=12))
    footprint = np.array(cells).reshape(3, 4)
    footprint[1, 2] = True
    opened, closed = opening(image, footprint=footprint), closing(image, footprint=footprint)
    assert (opened <= image).all()
    assert (image <= closed).all()
    np.testing.assert_array_equal(opening(opened, footprint=footprint), opened)
    np.testing.assert_array_equal(closing(closed, footprint=footprint), closed)
    if image.dtype != np.bool_:
        np.testing.assert_array_equal(white_tophat(image, footprint=footprint), image - opened)
        np.testing.assert_array_equal(black_tophat(image, footprint=footprint), closed - image)


def test_tophat_of_a_mask_is_what_the_opening_removed():
    mask = noise((30, 30), bool, 3)
    np.testing.assert_array_equal(white_tophat(mask, 3), mask & ~opening(mask, 3))
    np.testing.assert_array_equal(black_tophat(mask, 3), closing(mask, 3) & ~mask)


def test_edges_do_not_erode_a_mask():
    assert erosion(np.ones((5, 5), bool), radius=3).all()


def test_time_and_channel_are_left_alone():
    image = noise((2, 3, 10, 10), np.uint8, 4)
    spec = describe(erosion, image, axes="tcyx", size=3)
    assert spec["erosion"].depth == ((0, 0), (0, 0), (1, 1), (1, 1))
    each = [[erosion(plane, 3) for plane in frame] for frame in image]
    np.testing.assert_array_equal(whole(spec, image), each)


def test_depth_of_opening_is_that_of_both_its_halves():
    image = np.zeros((50, 50), np.uint8)
    assert describe(erosion, image, size=(4, 3))["erosion"].depth == ((2, 1), (1, 1))
    assert describe(dilation, image, size=(4, 3))["dilation"].depth == ((1, 2), (1, 1))
    assert describe(opening, image, size=(4, 3))["opening"].depth == ((3, 3), (2, 2))


def test_labels_stay_labels():
    labels = np.zeros((5, 5), np.int64)
    assert describe(dilation, labels, kinds=["labels"])["dilation"].type.kind == "labels"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"size": 0}, "size=0 must be made of whole numbers of at least 1"),
        ({"size": 2.5}, "size=2.5 must be made of whole numbers"),
        ({"size": (3, 3, 3)}, "size has 3 values, but the image has axes yx"),
        ({"size": {"z": 3}}, "there is no axis 'z'"),
        ({"footprint": np.ones((3, 3, 3))}, "the footprint has 3 axes"),
        ({"footprint": np.zeros((3, 3))}, "is empty"),
        ({"footprint": "disk"}, "must be a small array"),
        ({"radius": -1}, "radius=-1 must be at least 0"),
        ({"radius": float("nan")}, "radius=nan must be at least 0"),
        ({"size": 3, "radius": 1}, "size=3 and radius=1 were given"),
    ],
)
def test_bad_windows_are_refused(params, says):
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises((ValueError, UsageError), match="(?s)" + says.replace("(", r"\(")):
        opening(image, **params)
    with pytest.raises(SpecError, match="opening: .*" + says.replace("(", r"\(")) as caught:
        describe(opening, image, **params)
    assert len(caught.value.problems) == 1
