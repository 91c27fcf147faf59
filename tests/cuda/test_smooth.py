"""The fused separable filter: equal to the filter in array operations, around it NumPy's bits."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.cuda import compiled
from lepton_pipe.device import to_device, to_host
from lepton_pipe.device.traced import UntraceableError, as_input, computed
from lepton_pipe.geometry import Region
from lepton_pipe.kernels import (
    astype,
    difference_of_gaussians,
    flatfield,
    gaussian,
    gradient_magnitude,
    laplace,
    sobel,
    uniform,
)
from lepton_pipe.kernels.correlation import correlate, correlate_by_axes
from lepton_pipe.kernels.weights import gaussian_weights
from lepton_pipe.spec import Lost
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.kernels import one_body
from tests.kernels.blockwise import noise
from tests.kernels.test_blocks_on_device import Run, picture

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")


@pytest.fixture(autouse=True)
def gpu():
    with fake_cupy(kernels=True) as traffic:
        yield traffic


def smoothed(image, weights, inner, before=lambda a: a, after=lambda a: a):

    made = after(correlate(before(as_input(to_device(image, "gpu"))), weights, inner))
    shape = tuple(len(range(n)[s]) for n, s in zip(image.shape, inner, strict=True))
    return to_host(computed({"it": made}, shape, sys.modules["cupy"].empty)["it"])


CASES = [
    # (shape, dtype, weights along the axes, voxels around the ones that are wanted)
    ((20, 37, 70), "uint16", (1, 2, 2), 3),
    ((7, 5, 3), "float32", (2, 2, 2), 0),
    ((1, 1, 1), "uint8", (1, 1, 1), 0),
    ((9, 40, 130), "uint8", (0, 1, 3), 2),
    ((40, 9, 65), "int16", (1.5, 0, 0), 1),
    ((33, 67), "bool", (1, 1), 2),
    ((90,), "float32", (2,), 5),
    ((2, 3, 12, 20, 21), "uint16", (0, 0, 1, 1, 1), 0),
]


@pytest.mark.parametrize(("shape", "dtype", "sigmas", "around"), CASES)
def test_a_gaussian_is_that_of_the_array_operations(shape, dtype, sigmas, around):
    image = noise(shape, dtype, 1)
    weights = [gaussian_weights(s, 4.0) for s in sigmas]
    lead = len(shape) - min(3, len(shape))
    inner = tuple(
        slice(0, n) if i < lead else slice(around, n - around) for i, n in enumerate(shape)
    )
    expected = correlate_by_axes(image, weights)[inner]
    got = smoothed(image, weights, inner)
    assert got.dtype == np.float32
    scale = float(np.abs(expected).max()) or 1.0
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6 * scale)


@pytest.mark.parametrize("taps", [(2, 3, 4), (1, 2, 1), (33, 1, 1), (1, 40, 40)])
def test_windows_of_even_and_large_sizes(taps):
    image = noise((40, 50, 90), "uint16", 2)
    weights = [np.arange(1, n + 1) / n**2 if n > 1 else None for n in taps]
    inner = tuple(slice(0, n) for n in image.shape)
    expected = correlate_by_axes(image, weights)
    np.testing.assert_allclose(smoothed(image, weights, inner), expected, rtol=1e-5)


def test_what_reaches_too_far_or_computes_in_double_precision_is_left_to_cupy():
    inner = (slice(None),) * 3
    for weights in ([[1.0] * 99, None, None], [None, [1.0] * 999, None]):
        with pytest.raises(UntraceableError, match="too far"):
            smoothed(np.zeros((4, 4, 4), np.uint8), weights, inner)
    with pytest.raises(UntraceableError, match="double"):
        smoothed(np.zeros((4, 4, 4)), [None, [1.0], None], inner)
    four = np.zeros((2, 4, 4, 4), np.uint8)
    with pytest.raises(UntraceableError, match="time or channels"):
        smoothed(four, [[1.0], None, None, None], (slice(None),) * 4)


SLOPES = [
    (gaussian, {"sigma": 1.2}),
    (difference_of_gaussians, {"low_sigma": 0.7}),
    (gradient_magnitude, {"sigma": (0.5, 1, 0)}),
    (sobel, {}),
    (laplace, {}),
    (uniform, {"size": (2, 1, 4)}),
]


@pytest.mark.parametrize(("kernel", "params"), SLOPES, ids=lambda p: getattr(p, "name", ""))
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_filter_by_itself_is_a_kernel_of_our_own(kernel, params, dtype, monkeypatch):
    image = noise((13, 24, 70), dtype, 7)
    place = one_body.place_of(kernel, params, image)
    expected = one_body.run(kernel, params, image, place, "cpu")
    monkeypatch.setattr("lepton_pipe.kernels.correlation.correlate_by_axes", None)
    got = to_host(one_body.run(kernel, params, image, place, "gpu"))
    assert got.dtype == expected.dtype
    scale = float(np.abs(image).max())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6 * scale)


def test_what_has_no_kernel_of_its_own_runs_axis_by_axis():
    image = noise((5, 20, 30), "float64", 7)
    inner = tuple(slice(0, n) for n in image.shape)
    weights = [None, np.ones(3), np.ones(2)]
    got = to_host(correlate(to_device(image, "gpu"), weights, inner))
    np.testing.assert_array_equal(got, correlate_by_axes(image, weights))
    image = noise((4, 20, 30), "uint8", 7)
    weights = [[1.0] * 99, None, None]
    got = to_host(correlate(to_device(image, "gpu"), weights, inner=(slice(1, 3), *inner[1:])))
    np.testing.assert_array_equal(got, correlate_by_axes(image, weights)[1:3])


def test_nan_spreads_as_far_as_the_weights_reach_and_no_further():
    image = noise((20, 40, 80), "float32", 1)
    image[10, 20, 40] = np.nan
    inner = tuple(slice(0, n) for n in image.shape)
    weights = [gaussian_weights(0.5, 4.0)] * 3
    got = np.isnan(smoothed(image, weights, inner))
    assert np.argwhere(got).min(axis=0).tolist() == [8, 18, 38]
    assert got.sum() == 5**3


def test_a_result_does_not_depend_on_where_tiles_and_pieces_begin():
    image = noise((70, 50, 150), "uint16", 3)
    weights = [gaussian_weights(s, 3.0) for s in (1, 1.5, 2)]
    whole = smoothed(image, weights, tuple(slice(6, n - 6) for n in image.shape))
    part = smoothed(image[5:60, 3:, 11:], weights, (slice(6, 40), slice(7, 30), slice(8, 99)))
    np.testing.assert_array_equal(part, whole[5:39, 4:27, 13:104])


def test_what_is_around_the_filter_is_done_in_the_same_kernel():
    image = noise((12, 30, 70), "uint16", 4)
    plane = to_device(noise((30, 70), "float32", 5) + 300, "gpu")
    inner = (slice(2, 10), slice(3, 27), slice(0, 70))
    weights = [gaussian_weights(1, 2.0)] * 3
    light = (image - np.float32(3)) * plane.get()
    expected = correlate_by_axes(light, weights)[inner]
    level = float(np.median(expected))

    def before(a):
        return (a - np.float32(3)) * as_input(plane)

    got, expected = smoothed(image, weights, inner, before, lambda a: a > level), expected > level
    assert got.dtype == np.bool_
    assert (got != expected).mean() < 1e-3


@lp.pipeline
def segmented(raw: lp.Image, flat: lp.Image):
    """Correct, smooth and threshold in one kernel; what a box differs by in another."""
    smooth = gaussian(flatfield(raw, flat), sigma=(0.8, 1, 1))
    return {"mask": smooth > 20_000, "box": uniform(raw, size=3) - raw}


def test_a_pipeline_on_the_device_is_that_of_the_cores(monkeypatch):
    images = {"raw": picture(), "flat": picture("float32", 2)[:1] + 5}
    expected = Run(segmented, "cpu", **images).all()
    names = []

    monkeypatch.setattr(
        "lepton_pipe.cuda.smooth.compiled", lambda s, n: names.append(s) or compiled(s, n)
    )
    made = Run(segmented, "gpu", **images).all()
    fused = [source for source in names if "filtered > n" in source]
    assert fused, "the threshold is in the filter's kernel"
    assert all("- n0)" in s and "* here1)" in s for s in fused), "so is the flat-field"
    assert not any("/ b" in s for s in fused), "but its divisions, made once for all planes"
    assert any("filtered - v" in source for source in names), "and so is the difference"
    assert 0.05 < expected["mask"].mean() < 0.95
    assert (made["mask"] != expected["mask"]).mean() < 1e-3
    np.testing.assert_allclose(made["box"], expected["box"], rtol=1e-5, atol=0.05)


def test_voxels_that_do_not_depend_on_bad_ones_have_the_same_bits():
    # Where some of a block is bad, steps run one by one.
    images = {"raw": picture(), "flat": picture("float32", 2)[:1] + 5}
    golden = Run(segmented, "gpu", **images).all()
    run = Run(segmented, "gpu", **images)
    bad = Region((0, 0, 0), (1, 2, 2))
    lacking = 0
    for stage, program in run.stages():
        more = {"on_error": "skip", "bad": {"raw": [bad]}}
        for index in range(len(stage.blocks)):
            result = run.block(stage, dataclasses.replace(program, **more), index)
            lacking += result.lack is not None
    assert lacking
    for name in ("mask", "box"):
        same = run.arrays[name, 0].array == golden[name]
        assert same[6:].all()
        assert same[:, 10:].all()
        assert same[:, :, 10:].all()
    assert np.isnan(run.arrays["box", 0].array[:2, :3, :3]).all()


@lp.pipeline
def rounded(raw: lp.Image):
    """Filter, and convert in two ways that lose values, which is counted."""
    light = gaussian(raw, sigma=(0.5, 1, 1)) * 3
    return {"low": astype(light, "uint8", cast="clip"), "high": astype(light, "int16", cast="wrap")}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_what_conversions_lose_is_counted_by_the_same_kernel(dtype, monkeypatch):
    image = picture(dtype)
    if dtype == "float32":
        image[2, 5, 5], image[7, 20:23, 20] = np.inf, np.nan
    sources = []
    monkeypatch.setattr(
        "lepton_pipe.cuda.smooth.compiled", lambda s, n: sources.append(s) or compiled(s, n)
    )
    lost = {}
    for device in ("cpu", "gpu"):
        run = Run(rounded, device, raw=image)
        stages = [(stage, len(stage.blocks)) for stage in run.plan.stages]
        assert sum(len(stage.counts) for stage, _ in stages) == 2
        run.all()
        totals = [Lost(), Lost()]
        for result in run.results:
            for at, count in enumerate(dict(sorted(result.counts.items())).values()):
                totals[at] = totals[at].add(count)
        lost[device] = totals
    assert lost["gpu"] == lost["cpu"]
    assert min(count.out_of_range for count in lost["cpu"]) > 0
    if dtype == "float32":
        assert lost["cpu"][0].nan > 3
        assert lost["cpu"][0].infinite > 1
    assert any("out1" in source for source in sources)
