"""What kernels that look around take to lie beyond the edge of the image, as their help says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe import kernels

# Wider than any of the windows reaches.
_BEYOND = 9
MIRRORED = {
    "gaussian": {"sigma": 1.0},
    "uniform": {"size": (3, 4)},
    "median": {"size": 3},
    "sobel": {},
    "laplace": {},
    "gradient_magnitude": {"sigma": 1.0},
    "difference_of_gaussians": {"low_sigma": 1.0},
    "minimum": {"size": (3, 4)},
    "maximum": {"size": (3, 4)},
}
# Not the same around its centre, so that to mirror the image would be something else.
WINDOW = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0]])
LEFT_OUT = {"erosion": 65535, "dilation": 0}
TWICE = {
    "opening": ("erosion", "dilation"),
    "closing": ("dilation", "erosion"),
}


def image_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 65536, rng.integers(10, 20, 2)).astype(np.uint16)


def inner(array: np.ndarray) -> np.ndarray:
    return array[_BEYOND:-_BEYOND, _BEYOND:-_BEYOND]


@pytest.mark.parametrize("name", MIRRORED)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_image_is_mirrored(name, seed):
    run, image = getattr(kernels, name), image_of(seed)
    around = inner(run(np.pad(image, _BEYOND, mode="symmetric"), **MIRRORED[name]))
    np.testing.assert_allclose(run(image, **MIRRORED[name]), around, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("name", LEFT_OUT)
@given(seed=st.integers(0, 2**32 - 1))
def test_voxels_beyond_are_left_out(name, seed):
    run, image = getattr(kernels, name), image_of(seed)
    never = np.pad(image, _BEYOND, constant_values=LEFT_OUT[name])
    np.testing.assert_array_equal(run(image, footprint=WINDOW), inner(run(never, footprint=WINDOW)))


@pytest.mark.parametrize("name", TWICE)
@given(seed=st.integers(0, 2**32 - 1))
def test_they_are_in_both_steps_of_what_is_made_of_two(name, seed):
    image = image_of(seed)
    first, second = (getattr(kernels, n) for n in TWICE[name])
    made = getattr(kernels, name)(image, footprint=WINDOW)
    np.testing.assert_array_equal(made, second(first(image, footprint=WINDOW), footprint=WINDOW))
    hat = "white_tophat" if name == "opening" else "black_tophat"
    left = image - made if name == "opening" else made - image
    np.testing.assert_array_equal(getattr(kernels, hat)(image, footprint=WINDOW), left)


def test_a_voxel_at_the_edge_can_be_a_peak():
    image = np.zeros((12, 12))
    image[0, 3] = image[11, 11] = 1
    assert kernels.find_peaks(image, min_distance=2)["x"].tolist() == [3, 11]


@pytest.mark.parametrize("name", [*MIRRORED, *LEFT_OUT, *TWICE, "white_tophat", "black_tophat"])
def test_help_says_what_lies_beyond(name):
    text = " ".join((getattr(kernels, name).__doc__ or "").split())
    assert ("the image is mirrored" if name in list(MIRRORED)[:7] else "are left out") in text
