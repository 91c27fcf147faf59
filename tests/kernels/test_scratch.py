"""No image kernel may need more memory than it tells the planner."""

from __future__ import annotations

import tracemalloc
from math import prod

import numpy as np
import pytest

from lepton_pipe.kernels.casts import astype
from lepton_pipe.kernels.filters import (
    difference_of_gaussians,
    gaussian,
    gradient_magnitude,
    laplace,
    sobel,
    uniform,
)
from lepton_pipe.kernels.flatfield import divide_flat, divide_shading, fit_shading, flat_level
from lepton_pipe.kernels.morphology import (
    black_tophat,
    closing,
    dilation,
    erosion,
    opening,
    white_tophat,
)
from lepton_pipe.kernels.pointwise import clip, rescale, where
from lepton_pipe.kernels.projection import project
from lepton_pipe.kernels.ranks import maximum, median, minimum
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.spec import ImageType, Place
from tests.kernels.blockwise import describe, frozen, noise

SLACK = 96 * 1024  # line buffers, small arrays, Python's own objects
COEFFICIENTS = np.array([[1.0, 0.1, 0.2, -0.1, 0.1, 0.1]])
CASES = [
    (gaussian, {"sigma": 2}),
    (difference_of_gaussians, {}),
    (gradient_magnitude, {}),
    (sobel, {}),
    (laplace, {}),
    (uniform, {"size": 5}),
    (minimum, {"size": 5}),
    (maximum, {"size": 4}),
    *[(k, {"size": 3}) for k in (erosion, dilation, opening, closing, white_tophat, black_tophat)],
    *[(k, {"radius": 3}) for k in (erosion, opening, white_tophat, black_tophat)],
    (clip, {"low": 3, "high": 90}),
    (rescale, {"low": 3, "high": 90}),
    (rescale, {"low": 3, "high": 90, "dtype": "uint8", "out_range": (0, 255)}),
    (rescale, {"low": 3, "high": 90, "dtype": "float64"}),
    *[(astype, {"dtype": t, "cast": "clip"}) for t in ("uint8", "int64", "float16", "bool")],
    *[(astype, {"dtype": t, "cast": "wrap"}) for t in ("int8", "uint64", "bool")],
    (crop, {"y": (3, 60)}),
    *[(downsample, {"factor": 2, "method": m}) for m in ("mean", "max", "nearest")],
    (downsample, {"factor": 3}),
    (downsample, {"factor": {"x": 2}, "method": "mean"}),
    (divide_shading, {"coefficients": COEFFICIENTS}),
    (flat_level, {}),
    (fit_shading, {}),
    *[(project, {"how": how, "axis": a}) for how in ("max", "mean", "sum") for a in "yx"],
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(48, 80, 80), (512, 512)])
@pytest.mark.parametrize(("kernel", "params"), CASES, ids=lambda c: getattr(c, "name", str(c)))
def test_scratch(kernel, params, shape, dtype):
    measure(kernel, [noise(shape, dtype, 1)], params)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_scratch_of_median(dtype):
    measure(median, [noise((8, 64, 64), dtype, 1)], {})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_scratch_with_several_images(dtype):
    image, mask = noise((16, 128, 128), dtype, 1), noise((16, 128, 128), bool, 2)
    measure(where, [mask, image, image], {})
    level = {"level": np.ones(1)}
    measure(divide_flat, [image, image], level)
    measure(divide_flat, [image, image[0]], level)
    measure(divide_flat, [image, image, image], level)


def measure(kernel, arrays, params):
    spec = describe(kernel, *arrays, **params)
    step = spec[kernel.name]
    args = {**step.args, **dict(zip(step.args, map(frozen, arrays), strict=False))}
    grid = spec.image_type("image0").grid
    place = Place.whole(grid)
    with np.errstate(all="ignore"):
        kernel.run(args, place)  # imports are made, caches are warm
        tracemalloc.start()
        result = kernel.run(args, place)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    voxels = prod(grid.shape)
    kept = result.nbytes if isinstance(step.type, ImageType) and kernel.role != "sweep" else 0
    if kernel.role == "sweep":
        kept = result.fold.nbytes
    scratch = (peak - kept - SLACK) / voxels
    assert scratch <= step.scratch, f"needs {scratch:.1f} bytes per voxel"
