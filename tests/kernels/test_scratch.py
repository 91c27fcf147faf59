"""No kernel may need more memory than it tells the planner."""

from __future__ import annotations

import importlib
import pkgutil
import tracemalloc
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_pipe import kernels
from lepton_pipe.kernels.casts import astype
from lepton_pipe.kernels.counts import integer_counts, range_counts
from lepton_pipe.kernels.edges import (
    difference_of_gaussians,
    gradient_magnitude,
    laplace,
    sobel,
)
from lepton_pipe.kernels.filters import gaussian, uniform
from lepton_pipe.kernels.flatfield import divide_flat, flat_level
from lepton_pipe.kernels.histograms import histogram_counts
from lepton_pipe.kernels.labels import label_apply, label_join, local_labels
from lepton_pipe.kernels.morphology import (
    black_tophat,
    closing,
    dilation,
    erosion,
    opening,
    white_tophat,
)
from lepton_pipe.kernels.peaks import peaks_above
from lepton_pipe.kernels.pointwise import clip, rescale, where
from lepton_pipe.kernels.projection import project
from lepton_pipe.kernels.quantile import quantile_digits
from lepton_pipe.kernels.ranks import maximum, median, minimum
from lepton_pipe.kernels.reductions import moments
from lepton_pipe.kernels.regions import regionprops
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.kernels.shading import divide_shading, fit_shading
from lepton_pipe.spec import ImageType, Kernel, Place
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH
from tests.kernels.blockwise import describe, frozen, noise

SLACK = 96 * 1024  # line buffers, small arrays, Python's own objects
# What the planner counts for each task beside its arrays: tables, and parts of an image of which
# there are as many bytes whatever its size.
TABLES = 2**20
COEFFICIENTS = np.array([[1.0, 0.1, 0.2, -0.1, 0.1, 0.1]])


@dataclass(frozen=True)
class Case:
    """A kernel with parameters; `images` of noise are made from a dtype."""

    kernel: Kernel
    params: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ("uint8", "uint16", "float32", "float64", "int64")
    shapes: tuple[tuple[int, ...], ...] = ((48, 80, 80), (512, 512))
    slack: int = SLACK

    def __str__(self) -> str:
        return f"{self.kernel.name}-{'-'.join(str(v) for v in self.params.values())}"


ODD = ("uint8", "float16", "int32", "bool")
LARGE = ((48, 128, 160),)
VIEW = (64, 160, 200)
CASES = [
    Case(gaussian, {"sigma": 2}),
    Case(gaussian, {"sigma": 2}, ODD),
    # Axis after axis: too wide for one pass.
    Case(gaussian, {"sigma": (0, 55)}, shapes=((512, 512),)),
    Case(gaussian, {"sigma": 55}, shapes=((512, 512), (4, 450, 460))),
    Case(gradient_magnitude, {"sigma": 55}, shapes=((512, 512),)),
    Case(difference_of_gaussians, {"low_sigma": 40}, shapes=((512, 512),)),
    Case(uniform, {"size": 500}, shapes=((512, 512),)),
    Case(difference_of_gaussians),
    Case(gradient_magnitude),
    Case(sobel),
    Case(laplace),
    Case(laplace, dtypes=ODD),
    Case(uniform, {"size": 5}),
    Case(minimum, {"size": 5}),
    Case(minimum, {"size": (1, 40, 40)}, shapes=LARGE),
    Case(maximum, {"size": 4}),
    *[
        Case(k, {"size": 3})
        for k in (erosion, dilation, opening, closing, white_tophat, black_tophat)
    ],
    *[Case(k, {"radius": 3}) for k in (erosion, opening, white_tophat, black_tophat)],
    Case(opening, {"size": 9}),
    # Programs and their rows take a megabyte or two, whatever the image.
    *[
        Case(median, params, shapes=LARGE, slack=SLACK + TABLES)
        for params in ({}, {"size": 5}, {"radius": 2}, {"size": (1, 7, 7)})
    ],
    Case(median, {"size": (1, 32, 32)}, ("uint8",), ((4, 64, 64),)),  # by sorting
    Case(median, {"size": {"c": 2, "z": 2, "y": 2}}, ("float32",), ((6, 7, 64, 64),)),
    Case(clip, {"low": 3, "high": 90}),
    Case(rescale, {"low": 3, "high": 90}),
    Case(rescale, {"low": 3, "high": 90, "dtype": "uint8", "out_range": (0, 255)}),
    Case(rescale, {"low": 3, "high": 90, "dtype": "float64"}),
    *[Case(astype, {"dtype": t, "cast": "clip"}) for t in ("uint8", "int64", "float16", "bool")],
    *[Case(astype, {"dtype": t, "cast": "wrap"}) for t in ("int8", "uint64", "bool")],
    Case(crop, {"y": (3, 60)}),
    *[Case(downsample, {"factor": 2, "method": m}) for m in ("mean", "max", "nearest")],
    Case(downsample, {"factor": 3}),
    Case(downsample, {"factor": {"x": 2}, "method": "mean"}),
    Case(divide_shading, {"coefficients": COEFFICIENTS}),
    *[Case(project, {"how": how, "axis": a}) for how in ("max", "mean", "sum") for a in "yx"],
    # Reductions: what they return is counted too.
    Case(flat_level),
    Case(fit_shading),
    Case(moments, dtypes=("float32", "float64", "int32", "int64")),
    Case(moments, dtypes=("float16",), slack=TABLES),
    Case(integer_counts, dtypes=("uint8", "uint16", "int16"), slack=TABLES),
    Case(
        range_counts,
        {"low": 0, "high": 60_000},
        ("uint16", "int32", "int64", "uint32"),
        slack=TABLES,
    ),
    Case(histogram_counts, {"bins": 256, "low": 0.0, "high": 90.0}, slack=TABLES),
    Case(
        histogram_counts,
        {"bins": 256, "low": 0.0, "high": 90.0},
        ("float16", "int32"),
        slack=TABLES,
    ),
    Case(
        quantile_digits,
        {"q": 0.5},
        ("uint8", "uint16", "int32", "float32", "float64"),
        slack=TABLES,
    ),
    Case(peaks_above, {"threshold": 90.0}, slack=TABLES),
    Case(peaks_above, {"threshold": 90.0, "min_distance": 4}, slack=TABLES),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scratch(case):
    for dtype in case.dtypes:
        for shape in case.shapes:
            measure(case.kernel, [image(shape, dtype, 0)], case.params, case.slack)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scratch_with_a_view(case):
    # Images are handed out as parts of larger ones. Some kernels copy those piece by piece.
    shape = VIEW if case.shapes[0] in (LARGE[0], (48, 80, 80)) else case.shapes[0]
    for dtype in case.dtypes[::2]:
        measure(case.kernel, [image(shape, dtype, 3)], case.params, max(TABLES, case.slack))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("padding", [0, 3], ids=["whole", "view"])
def test_scratch_with_several_images(dtype, padding):
    shape, slack = (VIEW, TABLES) if padding else ((16, 128, 128), SLACK)
    first, mask = (image(shape, t, padding) for t in (dtype, bool))
    measure(where, [mask, first, first], {}, slack)
    level = {"level": np.ones(1)}
    measure(divide_flat, [first, first], level, slack)
    measure(divide_flat, [first, first[0]], level, slack)
    measure(divide_flat, [first, first, first], level, slack)


@pytest.mark.parametrize("padding", [0, 1], ids=["whole", "view"])
@pytest.mark.parametrize("kind", ["blobs", "noise"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32"])
def test_scratch_of_labels(kind, dtype, padding):
    mask = objects((48, 128, 160), kind, padding).astype(dtype)
    measure(label_join, [mask], {}, TABLES)
    _, count = local_labels(mask, 3, 1)
    measure(label_apply, [mask], {"table": np.arange(count + 1)}, TABLES)


@pytest.mark.parametrize("padding", [0, 1], ids=["whole", "view"])
@pytest.mark.parametrize("dtype", [None, "uint8", "uint16", "float32", "float64", "int64"])
@pytest.mark.parametrize("labels", ["int32", "int64", "uint64"])
def test_scratch_of_regionprops(labels, dtype, padding):
    found, _ = local_labels(objects((48, 128, 160), "blobs", padding), 3, 1)
    images = [found.astype(labels)]
    if dtype is not None:
        images.append(image(found.shape, dtype, padding))
    measure(regionprops, images, {}, TABLES)


def test_every_kernel_of_images_is_measured():
    measured = {c.kernel.name for c in CASES}
    measured |= {k.name for k in (where, divide_flat, label_join, label_apply, regionprops)}
    known = [found for module in _modules() for found in vars(module).values()]
    # Kernels of values alone declare nothing, and are computed by the driver.
    images = [k for k in known if isinstance(k, Kernel) and k.scratch != UNDECLARED_SCRATCH]
    assert {k.name for k in images} == measured


def _modules():
    for found in pkgutil.iter_modules(kernels.__path__):
        yield importlib.import_module(f"{kernels.__name__}.{found.name}")


def test_compiled_loops_allocate_no_images_that_python_does_not_see():
    # What a compiled loop allocates by itself is not traced: look at the process.
    mask = objects((96, 256, 256), "noise", 0)
    labels, _ = local_labels(objects((96, 256, 256), "blobs", 0), 3, 1)
    grey = noise(mask.shape, np.uint16, 1)
    look_at_the_process(label_join, [mask], {})
    look_at_the_process(regionprops, [labels, grey], {})
    look_at_the_process(gaussian, [grey], {"sigma": 2})
    look_at_the_process(median, [grey], {})
    look_at_the_process(opening, [grey], {"size": 3})
    look_at_the_process(peaks_above, [grey], {"threshold": 90})
    look_at_the_process(downsample, [grey], {})
    look_at_the_process(quantile_digits, [grey], {"q": 0.5})
    look_at_the_process(astype, [grey], {"dtype": "uint8", "cast": "clip"})


# -- how it is measured -------------------------------------------------------------------------


def image(shape, dtype, padding):
    """Return noise, with `padding` as the inner part of a larger array, as a block often is."""
    larger = noise(tuple(n + 2 * padding for n in shape), np.dtype(dtype).type, 1)
    return larger[tuple(slice(padding, padding + n) for n in shape)]


def objects(shape, kind, padding):
    """Return a mask of balls, or one of noise, which has as many runs as can be."""
    larger = tuple(n + 2 * padding for n in shape)
    inner = tuple(slice(padding, padding + n) for n in shape)
    if kind == "noise":
        return (np.random.default_rng(1).random(larger) < 0.5)[inner]
    z, y, x = (np.abs(np.sin(np.arange(n) / 3)) for n in larger)
    return (z[:, None, None] * y[:, None] * x > 0.4)[inner]


def measure(kernel, arrays, params, slack=SLACK):
    """Assert that what a kernel takes for a moment is what it declares."""
    step, args, place = prepared(kernel, arrays, params)
    with np.errstate(all="ignore"):
        kernel.run(args, place)  # imports are made, caches are warm
        tracemalloc.start()
        result = kernel.run(args, place)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    scratch = (peak - kept(step, result) - slack) / place.grid.size
    told = f"{arrays[0].dtype} {arrays[0].shape}: needs {scratch:.2f} bytes per voxel"
    assert scratch <= step.scratch, f"{told}, declares {step.scratch}"


def prepared(kernel, arrays, params):
    spec = describe(kernel, *arrays, **params)
    step = spec[kernel.name]
    args = {**step.args, **dict(zip(step.args, map(frozen, arrays), strict=False))}
    grid = spec.image_type("image0").grid
    return step, args, Place.whole(grid)


def kept(step, result):
    """Return the bytes of a result that the planner counts apart from what it took to make it."""
    if step.kernel.role == "sweep":
        return result.fold.nbytes
    return result.nbytes if isinstance(step.type, ImageType) else 0


def look_at_the_process(kernel, arrays, params):
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("the system does not tell the most memory that a process has held")
    step, args, place = prepared(kernel, arrays, params)
    kernel.run(args, place)
    before = resident("VmRSS")
    clear.write_text("5")  # forget the most so far
    result = kernel.run(args, place)
    scratch = (resident("VmHWM") - before - kept(step, result) - 3 * TABLES) / prod(arrays[0].shape)
    assert scratch <= step.scratch, f"{kernel.name} needs {scratch:.2f} bytes per voxel"


def resident(name):
    status = Path("/proc/self/status").read_text()
    (line,) = (part for part in status.splitlines() if part.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
