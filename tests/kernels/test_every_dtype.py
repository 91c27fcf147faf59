"""Every kernel of the catalogue takes every dtype that an image may have."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_pipe import kernels
from lepton_pipe.spec import evaluate
from tests.kernels.blockwise import describe, noise

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
# What each needs besides its image.
PARAMETERS = {
    "astype": {"dtype": "float64", "cast": "clip"},
    "clip": {"low": 0},
    "crop": {"y": (1, 9)},
    "downsample": {"factor": 2},
    "histogram": {"bins": 8},
    "project": {"axis": "y"},
    "quantile": {"q": 0.3},
    "rescale": {"low": 0, "high": 3},
}
TWO_IMAGES = {"flatfield", "where"}
OBJECTS = {"label", "regionprops"}
ONE_IMAGE = [n for n in kernels.__all__ if n not in TWO_IMAGES | OBJECTS]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel(dtype):
    image = noise((11, 13), np.dtype(dtype), 1)
    if dtype == "f2":
        image = np.clip(image, -99, 99)
    for name in ONE_IMAGE:
        kernel = getattr(kernels, name)
        spec = describe(kernel, image, **PARAMETERS.get(name, {}))
        made = evaluate(spec, {"image0": image})["out"]
        assert made is not None, name
    flat = kernels.flatfield(image, image)
    assert flat.shape == image.shape
    labels = kernels.label(image > 0)
    assert len(kernels.regionprops(labels, image)["label"]) == labels.max()
    np.testing.assert_array_equal(kernels.where(image > 0, image, image), image)
