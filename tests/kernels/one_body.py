"""Kernels with parameters, run on a block as a worker does, on the host and on a device."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from lepton_pipe.device import to_device
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels import (
    casts,
    counts,
    edges,
    filters,
    histograms,
    morphology,
    peaks,
    pointwise,
    projection,
    ranks,
    reductions,
    regions,
    resample,
)
from lepton_pipe.kernels import labels as labelling
from lepton_pipe.kernels.flatfield import divide_shading, fit_shading, flat_level
from lepton_pipe.kernels.quantile import quantile_digits
from lepton_pipe.merge.moments import Moments
from lepton_pipe.spec import ImageType, Kernel, Place
from lepton_pipe.spec.rules import resolve_depth
from tests.fake_device import ndarray
from tests.kernels.blockwise import assert_same, frozen, noise

ALL = ("bool", "uint8", "int16", "uint16", "int32", "uint64", "int64", "float32", "float64")
REAL = ALL[1:]
INTEGERS = ("uint8", "int16", "uint32", "int64")
FLOATS = ("float16", "float32", "float64")
FEW = ("bool", "uint16", "float32")
CELLS = np.array([[[0, 1, 0]] * 3, [[1, 1, 1], [1, 1, 0], [0, 1, 0]], [[0, 0, 1]] * 3])
COEFFICIENTS = np.array([[1.0, 0.2, -0.1, 0.05, 0.02, -0.1]] * 2)
MORPHOLOGY = (
    morphology.erosion,
    morphology.dilation,
    morphology.opening,
    morphology.closing,
    morphology.white_tophat,
    morphology.black_tophat,
)
STATE_OF_16_BITS = np.array([0x4300, 0xC2F0, 3, 5], np.uint64)


# (kernel, parameters, dtypes of the image)
MAPS: list[tuple[Kernel, dict[str, Any], tuple[str, ...]]] = [
    (casts.astype, {"dtype": "float32"}, ALL),
    (casts.astype, {"dtype": "float32", "cast": "clip"}, ("float64",)),
    (casts.astype, {"dtype": "uint8", "cast": "clip"}, REAL),
    (casts.astype, {"dtype": "uint64", "cast": "clip"}, ("int64", "float32")),
    (casts.astype, {"dtype": "bool", "cast": "clip"}, ("int16", "float32")),
    (casts.astype, {"dtype": "int8", "cast": "wrap"}, REAL),
    (casts.astype, {"dtype": "bool", "cast": "wrap"}, ("uint8", "float32")),
    (filters.gaussian, {"sigma": 1.0, "truncate": 2.0}, (*ALL, "float16")),
    (filters.gaussian, {"sigma": 0.0}, FEW),
    (edges.difference_of_gaussians, {"low_sigma": 0.5, "truncate": 2.0}, FEW),
    (edges.gradient_magnitude, {"sigma": (0.5, 1, 0), "truncate": 2.0}, FEW),
    (edges.sobel, {}, (*FEW, "float16")),
    (edges.laplace, {}, FEW),
    (filters.uniform, {"size": (1, 2, 3)}, FEW),
    (filters.uniform, {"size": 1}, FEW),
    (ranks.minimum, {"size": 2}, ALL),
    (ranks.maximum, {"size": 3}, ALL),
    # The stand-in for CuPy finds medians with SciPy, which compares 64-bit integers as floats.
    (ranks.median, {"size": 3}, [t for t in ALL if t not in ("int64", "uint64")]),
    (ranks.median, {"radius": 1}, (*FEW, "float16")),
    *[(k, {"size": (1, 2, 3)}, ALL) for k in MORPHOLOGY],
    *[(k, {"footprint": CELLS}, FEW) for k in MORPHOLOGY],
    (pointwise.clip, {"low": 0.5, "high": 90}, ALL),
    (pointwise.clip, {"low": 1}, ALL),
    (pointwise.clip, {"high": -3}, ALL),
    (pointwise.rescale, {"low": -10, "high": 60.5}, ALL),
    (pointwise.rescale, {"low": 3, "high": 3, "dtype": "uint8", "out_range": (9, 200)}, FEW),
    (pointwise.rescale, {"high": 90, "dtype": "uint16", "out_range": (500, 2)}, REAL),
    (pointwise.where, {"condition": 1, "b": 3}, ("uint8", "float32")),
    (pointwise.where, {"condition": 0, "b": 2}, ("uint16",)),
    (divide_shading, {"dark": 3.0, "coefficients": COEFFICIENTS}, FEW),
    (labelling.label_apply, {"table": np.arange(10_000)}, ()),
]
REDUCTIONS: list[tuple[Kernel, dict[str, Any], tuple[str, ...]]] = [
    (reductions.moments, {}, ("int32", "uint32", "uint64", "int64", *FLOATS)),
    (histograms.histogram_counts, {"bins": 17, "low": -5.0, "high": 80.0}, ALL),
    (histograms.histogram_counts, {"bins": 300, "low": 0, "high": 300}, REAL),
    (histograms.histogram_counts, {"bins": 50, "low": -7, "high": 99, "of_image": True}, FLOATS),
    (histograms.histogram_counts, {"bins": 3, "low": 7, "high": 7}, FEW),
    (counts.integer_counts, {}, ("bool", "uint8", "int8", "uint16", "int16")),
    (counts.range_counts, {"low": -(2**63), "high": 2**63 - 1, "most": 99}, ("int64",)),
    (quantile_digits, {"q": (0.1, 0.5)}, (*ALL, "float16")),
    (quantile_digits, {"q": 0.5, "level": 1, "state": STATE_OF_16_BITS}, ("float32",)),
    (quantile_digits, {"q": 0.5, "level": 1, "state": np.empty(0)}, ("float32",)),
    (peaks.peaks_above, {"threshold": 1, "min_distance": 1}, ALL),
    (peaks.peaks_above, {"threshold": 0, "min_distance": (1, 2, 0), "exclude_border": 3}, FEW),
    (regions.regionprops, {}, INTEGERS),
    (regions.regionprops, {"intensity": 0}, INTEGERS),
    (flat_level, {"dark": 2.0}, FEW),
    (fit_shading, {}, ALL),
    (labelling.label_join, {}, ()),
]
RESAMPLES: list[tuple[Kernel, dict[str, Any], tuple[str, ...]]] = [
    (resample.crop, {"y": (1, 9), "x": (-12, None)}, FEW),
    *[
        (resample.downsample, {"factor": (1, 2, 3), "method": m}, ALL)
        for m in ("mean", "max", "min", "nearest")
    ],
    (resample.downsample, {"factor": 3}, ALL),
]
SWEEPS: list[tuple[Kernel, dict[str, Any], tuple[str, ...]]] = [
    (projection.project, {"axis": axis, "how": how}, ALL)
    for axis, how in (("z", "max"), ("y", "min"), ("x", "mean"), ("z", "sum"))
]
UFUNCS = [
    (np.sqrt, ()),
    (np.add, (3,)),
    (np.subtract, (1.5,)),
    (np.multiply, (2,)),
    (np.greater, (7,)),
    (np.not_equal, (0,)),
    (np.floor_divide, (3,)),
    (np.logical_not, ()),
    (np.absolute, ()),
]


def expand(cases):
    """Return a case for each dtype, with a name that says which."""
    return [
        pytest.param(kernel, params, dtype, id=f"{kernel.name}-{_said(params)}-{dtype}")
        for kernel, params, dtypes in cases
        for dtype in dtypes
    ]


def _said(params: dict[str, Any]) -> str:
    return ",".join(f"{n}={v}" for n, v in params.items() if not isinstance(v, np.ndarray))


def picture(shape, dtype: str) -> np.ndarray:
    """Return noise in which values repeat, and floats fall on the edges of bins."""
    image = noise(shape, dtype, 3)
    if image.dtype.kind == "f":
        image.reshape(-1)[::3] = np.rint(image.reshape(-1)[::3])
        return image
    image.reshape(-1)[::2] = (np.arange(image.size)[::2] % 91).astype(image.dtype)
    return image


GRID = Grid.of((6, 14, 17))
BLOCK = Region((2, 3, 4), (5, 11, 14))


def context_of(kernel: Kernel, params: dict[str, Any], image: np.ndarray, grid: Grid):
    first = next(iter(kernel.signature.parameters))
    names = {n: p.default for n, p in kernel.signature.parameters.items() if n != "place"}
    return {**names, **params, first: ImageType(grid, image.dtype), "grid": grid}


def arguments(kernel: Kernel, params: dict[str, Any], block: Any, device: str) -> dict[str, Any]:
    """Bind a block and parameters; where they name images, more of them are made of the block."""
    given = {n: p.default for n, p in kernel.signature.parameters.items() if n != "place"} | params
    if kernel is pointwise.where:
        given |= {"condition": block > params["condition"], "a": block}
    else:
        given[next(iter(given))] = block
    if params.get("intensity") == 0:
        given["intensity"] = block[::-1] > 3 if block.dtype == np.uint32 else block[::-1]
    return {n: on(device, a) for n, a in given.items()}


def on(device: str, value: Any) -> Any:
    """Return images on the device; small arrays among the parameters are values, on the host."""
    is_image = isinstance(value, np.ndarray) and value.ndim == GRID.ndim and value.size > 27
    return to_device(frozen(value), device) if is_image else value


def run(kernel: Kernel, params: dict[str, Any], image: np.ndarray, place: Place, device: str):
    block = image[place.read.slices]
    return kernel.run(arguments(kernel, params, block, device), place)


def both(kernel: Kernel, params: dict[str, Any], image: np.ndarray, place: Place):
    """Return what the kernel makes of a block on the device, and on the host."""
    return (
        run(kernel, params, image, place, "gpu"),
        run(kernel, params, image, place, "cpu"),
    )


def place_of(kernel: Kernel, params: dict[str, Any], image: np.ndarray) -> Place:
    context = context_of(kernel, params, image, GRID)
    depth = resolve_depth(kernel.depth, GRID, context)
    return Place(BLOCK.grow(depth, GRID.shape), BLOCK, GRID)


def assert_equal(got: Any, expected: Any) -> None:
    """Hold partials to be the same, whatever they are made of, and to lie on the host."""
    assert not isinstance(got, ndarray), "a partial must not hold arrays of the device"
    assert type(got) is type(expected)
    if isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_equal(a, b)
    elif isinstance(expected, dict):
        assert set(got) == set(expected)
        for name in expected:
            assert_equal(got[name], expected[name])
    elif isinstance(expected, Moments):
        # Sums of floats are exact on the host; a device has its own.
        assert (got.size, got.low, got.high, got.power) == (
            expected.size,
            expected.low,
            expected.high,
            expected.power,
        )
        assert got.sum == pytest.approx(expected.sum, rel=1e-12, nan_ok=True)
        assert got.std == pytest.approx(expected.std, rel=1e-9, nan_ok=True)
    elif dataclasses.is_dataclass(expected):
        assert_equal(vars(got), vars(expected))
    elif isinstance(expected, np.ndarray):
        assert_same(got, expected)
    else:
        assert got == pytest.approx(expected, rel=1e-12, nan_ok=True)


def assert_image(got: Any, expected: np.ndarray) -> None:
    assert isinstance(got, ndarray), "the result of a map must stay on the device"
    # Compiled filters sum in float32, those of the device in double precision.
    assert_same(got.get(), expected, ulps=16)
