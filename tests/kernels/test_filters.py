from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import skimage.filters
import skimage.morphology
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.kernels.correlation import correlate, correlate_by_axes
from lepton_pipe.kernels.edges import (
    difference_of_gaussians,
    gradient_magnitude,
    laplace,
    sobel,
)
from lepton_pipe.kernels.filters import gaussian, uniform
from lepton_pipe.kernels.ranks import maximum, median, minimum
from lepton_pipe.kernels.weights import gaussian_weights
from tests.kernels.blockwise import (
    DTYPES,
    assert_same,
    blocks,
    check,
    describe,
    images,
    noise,
    whole,
)

SIGMA = st.floats(0, 3)
SIZE = st.integers(1, 6)
WEIGHTS = [None, [0.25, 0.5, 0.25], [0.5, 0.0, -0.5], [0.25] * 4, gaussian_weights(2, 4)]
ALL = (*DTYPES, np.int8, np.int64, np.float16, np.float64)
SHAPES = [(23, 31), (7, 9, 11), (1, 5), (2, 1, 3), (1, 1)]


def drawn(data, fn, dtypes=DTYPES, nan=False, **strategies):
    """Check blocks against the whole for drawn parameters, one for each spatial axis."""
    axes, image = data.draw(images(dtypes=dtypes, nan=nan))
    spatial = sum(a in "zyx" for a in axes)
    params = {n: data.draw(st.one_of(s, st.tuples(*[s] * spatial))) for n, s in strategies.items()}
    block, extra = data.draw(blocks(image.shape)), data.draw(st.integers(0, 3))
    return check(fn, image, block=block, extra=extra, axes=axes, ulps=0, **params)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), truncate=st.sampled_from([1.0, 2.5, 4.0]))
def test_gaussian_in_blocks(data, truncate):
    def fn(image, sigma):
        return gaussian(image, sigma, truncate=truncate)

    drawn(data, fn, nan=True, sigma=SIGMA)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_difference_of_gaussians_in_blocks(data):
    drawn(data, difference_of_gaussians, low_sigma=SIGMA)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_gradient_magnitude_in_blocks(data):
    drawn(data, gradient_magnitude, nan=True, sigma=st.floats(0.3, 3))


@pytest.mark.parametrize("fn", [sobel, laplace], ids=lambda k: k.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fixed_filters_in_blocks(fn, data):
    drawn(data, fn, dtypes=ALL, nan=True)


@pytest.mark.parametrize("fn", [uniform, minimum, maximum], ids=lambda k: k.name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_boxes_in_blocks(fn, data):
    drawn(data, fn, dtypes=ALL, nan=True, size=SIZE)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_median_in_blocks(data):
    drawn(data, median, dtypes=ALL, size=st.integers(1, 4))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_median_of_footprints_in_blocks(data):
    cells = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(3, 4)
    cells[0, 3] = True

    def fn(image):
        return median(image, footprint=cells.reshape((1,) * (spatial(image) - 2) + cells.shape))

    drawn(data, fn)
    drawn(data, lambda image: median(image, radius=1.5))


def spatial(image):
    return len(image.grid.spatial)


# -- against SciPy and scikit-image ---------------------------------------------------------


def assert_near(got, expected, image, scale=1):
    """Hold floats to the rounding of sums of the image's own values."""
    assert got.dtype == expected.dtype
    largest = np.abs(image.astype(np.float64)).max(initial=0)
    tolerance = scale * largest * (4e-7 if got.dtype == np.float32 else 1e-15)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.bool_])
def test_equal_scipy(shape, dtype):
    image = noise(shape, dtype, 1)
    wide = image.astype(np.promote_types(dtype, np.float32))
    size = (3, 4, 2)[: len(shape)]
    ndi = scipy.ndimage
    assert_near(gaussian(image, 1.3), ndi.gaussian_filter(wide, 1.3), image)
    theirs = ndi.gaussian_gradient_magnitude(wide, 1.3)
    assert_near(gradient_magnitude(image, 1.3), theirs, image)
    assert_near(laplace(image), ndi.laplace(wide), image, scale=4)
    assert_near(uniform(image, size), ndi.uniform_filter(wide, size), image)
    assert_same(minimum(image, size), ndi.minimum_filter(image, size))
    assert_same(maximum(image, size), ndi.maximum_filter(image, size))
    assert_same(median(image, size), ndi.median_filter(image, size))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_scikit_image(shape, dtype):
    image = noise(shape, dtype, 1)
    assert_near(sobel(image), skimage.filters.sobel(image), image, scale=2)
    theirs = skimage.filters.difference_of_gaussians(image, 1, 3, mode="reflect")
    assert_near(difference_of_gaussians(image, 1, 3), theirs, image, scale=2)
    theirs = skimage.filters.difference_of_gaussians(image, 1.5, mode="reflect")
    assert_near(difference_of_gaussians(image, 1.5), theirs, image, scale=2)
    ball = {2: skimage.morphology.disk, 3: skimage.morphology.ball}[len(shape)](2)
    theirs = scipy.ndimage.median_filter(image, footprint=ball)
    assert_same(median(image, radius=2), theirs)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_compiled_filters_are_those_of_scipy(data):
    axes, image = data.draw(images(dtypes=ALL))
    weights = [data.draw(st.sampled_from(WEIGHTS)) for _ in axes]
    inner = tuple(slice(data.draw(st.integers(0, n - 1)), n - 1 or n) for n in image.shape)
    theirs = correlate_by_axes(image, weights)[inner]
    assert_near(correlate(image, weights, inner), theirs, image)


@pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float64])
def test_gaussians_with_very_many_taps(dtype):
    for shape, sigma in [((3, 700), 80), ((600, 5), 70), ((450, 470), (52, 3)), ((2, 5, 420), 55)]:
        image = noise(shape, dtype, 1)
        exact = image.astype(np.promote_types(dtype, np.float32))
        assert_near(gaussian(image, sigma), scipy.ndimage.gaussian_filter(exact, sigma), image)
        theirs = scipy.ndimage.gaussian_gradient_magnitude(exact, sigma)
        assert_near(gradient_magnitude(image, sigma), theirs, image)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), wide=st.sampled_from([(60.0, 2.0), (2.0, 60.0), (55.0, 70.0), (0.0, 200.0)]))
def test_gaussians_with_very_many_taps_in_blocks(data, wide):
    image = noise((420, 460), np.uint16, data.draw(st.integers(0, 99)))
    block = data.draw(st.tuples(st.integers(90, 420), st.integers(90, 460)))
    check(gaussian, image, block=block, extra=data.draw(st.integers(0, 3)), sigma=wide)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    truncate=st.sampled_from([0.5, 4.0, 6.0]),
    fn=st.sampled_from([gaussian, gradient_magnitude]),
)
def test_gaussians_that_reach_beyond_the_image(data, truncate, fn):
    image = noise(data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9))), np.float64, 1)
    sigma = data.draw(st.tuples(st.floats(0.1, 9), st.floats(5, 400)))
    theirs = {
        gaussian: scipy.ndimage.gaussian_filter,
        gradient_magnitude: scipy.ndimage.gaussian_gradient_magnitude,
    }[fn](image, sigma, truncate=truncate)
    assert_near(fn(image, sigma, truncate=truncate), theirs, image, scale=4)
    block = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    check(fn, image, block=block, ulps=0, sigma=sigma, truncate=truncate)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("truncate", [0.7, 1.5, 4.0, 1e6])
def test_very_many_turns_are_integrated(truncate, order, monkeypatch):
    # As many turns as are summed at most, and then the same from integrals.
    sigma, length = 1024 * 14 / min(truncate, 39), 7
    summed = gaussian_weights(sigma, truncate, order, length=length)
    monkeypatch.setattr("lepton_pipe.kernels.weights._SUMMED", 1)
    integrated = gaussian_weights(sigma, truncate, order, length=length)
    scale = 1 if order == 0 else 1 / sigma
    np.testing.assert_allclose(integrated, summed, rtol=0, atol=2e-7 * scale / (2 * length))


@pytest.mark.parametrize("sigma", [1e4, 1e9, 1e300, 1.7e308])
def test_gaussians_far_wider_than_the_image_average_it(sigma):
    image = noise((40, 30), np.uint16, 1)
    assert describe(gaussian, image, sigma=sigma)["gaussian"].depth == ((39, 39), (29, 29))
    mean = np.full(image.shape, image.mean(), np.float32)
    assert_near(gaussian(image, sigma), mean, image)
    assert_near(gradient_magnitude(image, sigma), 0 * mean, image)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.integers(1, 30), fn=st.sampled_from([minimum, maximum]))
def test_extremes_that_reach_beyond_the_image(data, size, fn):
    image = noise(data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9))), np.uint16, 1)
    theirs = getattr(scipy.ndimage, f"{fn.name}_filter")(image, size)
    assert_same(fn(image, size), theirs)
    check(fn, image, block=(2, 3), size=size)


def test_extremes_of_a_box_far_wider_than_the_image():
    image = noise((40, 30), np.uint16, 1)
    assert describe(minimum, image, size=10**30)["minimum"].depth == ((39, 39), (29, 29))
    assert (minimum(image, 10**30) == image.min()).all()
    assert (maximum(image, {"y": 10**9}) == image.max(axis=0)).all()


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.integers(1, 100))
def test_boxes_that_reach_beyond_the_image(shape, size):
    image = noise(shape, np.float64, 1)
    theirs = scipy.ndimage.uniform_filter(image, size)
    assert_near(uniform(image, size), theirs, image, scale=9)


def test_a_box_far_wider_than_the_image_averages_it():
    image = noise((40, 30), np.uint16, 1)
    assert describe(uniform, image, size=10**30)["uniform"].depth == ((39, 39), (29, 29))
    assert_near(uniform(image, 10**30), np.full(image.shape, image.mean(), np.float32), image)


def test_gaussian_weights_are_those_of_scipy():
    impulse = np.zeros(41)
    impulse[20] = 1
    for sigma, truncate in ((0.1, 4), (0.3, 4), (1, 4), (2.7, 3), (3, 1.5)):
        for order in (0, 1):
            theirs = scipy.ndimage.gaussian_filter1d(impulse, sigma, order=order, truncate=truncate)
            weights = gaussian_weights(sigma, truncate, order)
            ours = correlate_by_axes(impulse, [weights])
            np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-300)


def test_sobel_of_a_ramp():
    ramp = np.add.outer(np.arange(8), np.arange(9)).astype(np.uint8)
    np.testing.assert_allclose(sobel(ramp)[1:-1, 1:-1], 2, rtol=1e-6)


def test_unsigned_images_do_not_wrap():
    image = np.array([[0, 200, 0, 100, 0]], np.uint8)
    assert laplace(image)[0, 1] == -400
    assert sobel(image.repeat(3, axis=0)).max() > 0


def test_one_axis():
    row = noise((40,), np.int16, 1)
    np.testing.assert_array_equal(
        median(row, 5), scipy.ndimage.median_filter(row[None], size=(1, 5))[0]
    )
    np.testing.assert_array_equal(median(row[:2], 9), median(row[None, :2], (1, 9))[0])
    np.testing.assert_array_equal(minimum(row, 4), scipy.ndimage.minimum_filter(row, 4))


@pytest.mark.parametrize("fn", [gaussian, uniform, minimum, maximum, median, laplace, sobel])
def test_results_own_their_data(fn):
    image = noise((6, 7), np.float32, 1)
    params = {"sigma": 0} if fn is gaussian else {} if fn in (laplace, sobel) else {"size": 1}
    assert not np.shares_memory(fn(image, **params), image)


@pytest.mark.parametrize(
    "fn",
    [gaussian, difference_of_gaussians, gradient_magnitude, sobel, laplace, uniform, median],
    ids=lambda k: k.name,
)
def test_time_and_channel_are_left_alone(fn):
    image = noise((2, 3, 9, 10), np.uint16, 4)
    spec = describe(fn, image, axes="tcyx")
    assert spec[fn.name].depth[:2] == ((0, 0), (0, 0))
    each = np.array([[fn(plane) for plane in frame] for frame in image])
    assert_same(whole(spec, image), each)


def test_time_is_filtered_where_it_is_named():
    image = noise((9, 4, 5), np.uint8, 4)
    spec = describe(median, image, axes="tyx", size={"t": 3})
    assert spec["median"].depth == ((1, 1), (0, 0), (0, 0))
    theirs = scipy.ndimage.median_filter(image, (3, 1, 1))
    np.testing.assert_array_equal(whole(spec, image), theirs)


def test_depths():
    image = np.zeros((30, 30), np.uint8)

    def depth(fn, **params):
        return describe(fn, image, **params)[fn.name].depth

    assert depth(gaussian, sigma=(1.0, 2.0)) == ((4, 4), (8, 8))
    assert depth(difference_of_gaussians, low_sigma=1, high_sigma=2) == ((8, 8), (8, 8))
    assert depth(uniform, size=(4, 5)) == ((2, 1), (2, 2))
    assert depth(minimum, size=(1, 2)) == ((0, 0), (1, 0))
    assert depth(median, radius=1.9) == ((1, 1), (1, 1))


def test_nan_stays_near():
    image = np.zeros((1, 50), np.float32)
    image[0, 10] = np.nan
    for fn in (uniform, minimum, maximum):
        assert np.flatnonzero(np.isnan(fn(image, size={"x": 4}))).tolist() == [9, 10, 11, 12]


@pytest.mark.parametrize(
    ("fn", "params", "says"),
    [
        (gaussian, {"sigma": -1}, "sigma=-1 must be at least 0 and finite"),
        (gaussian, {"sigma": float("inf")}, "sigma=inf must be at least 0 and finite"),
        (gaussian, {"sigma": "wide"}, "sigma='wide' is not known before the run, or no number"),
        (gaussian, {"sigma": (1, 1, 1)}, "sigma has 3 values, but the image has axes yx"),
        (gaussian, {"sigma": {"q": 1}}, "there is no axis 'q'"),
        (gaussian, {"truncate": 0}, "truncate=0 must be positive"),
        (gradient_magnitude, {"sigma": 0}, "sigma=0 leaves no axis"),
        (difference_of_gaussians, {"low_sigma": 2, "high_sigma": 1}, "high_sigma=1 is below"),
        (difference_of_gaussians, {"low_sigma": -2}, "low_sigma=-2 must be at least 0"),
        (uniform, {"size": 0}, "size=0 must be made of whole numbers of at least 1"),
        (minimum, {"size": (3, 3, 3)}, "size has 3 values, but the image has axes yx"),
        (maximum, {"size": True}, "size=True must be made of whole numbers"),
        (median, {"size": -3}, "size=-3 must be made of whole numbers"),
        (median, {"footprint": np.ones(3)}, "the footprint has 1 axes"),
        (median, {"size": 10**9}, "size=1000000000 is a window of 1000000000 x 1000000000 voxels"),
        (median, {"radius": 1e9}, "radius=1000000000.0 is a window of 2000000001 x 2000000001"),
        (median, {"size": 3, "radius": 2}, "size=3 and radius=2 were given"),
    ],
)
def test_bad_parameters_are_refused(fn, params, says):
    image = np.zeros((8, 8), np.uint8)
    with pytest.raises((ValueError, UsageError), match=says):
        fn(image, **params)
    with pytest.raises(SpecError, match=f"{fn.name}: .*{says}") as caught:
        describe(fn, image, **params)
    assert len(caught.value.problems) == 1


def test_a_width_known_only_at_run_time_is_refused():
    image = np.zeros((8, 8), np.uint8)

    def fn(image):
        from lepton_pipe.kernels.flatfield import flat_level

        return gaussian(image, sigma=flat_level(image))

    with pytest.raises(SpecError, match="is not known before the run"):
        describe(fn, image)
