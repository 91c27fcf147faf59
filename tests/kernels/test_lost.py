"""What `astype` counts as lost, against sums in whole numbers of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled.separable import separable
from lepton_pipe.device import to_device, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.casts import astype
from lepton_pipe.spec import Lost, Place
from tests.compiled.test_separable import cases
from tests.fake_device import fake_cupy

SOURCES = ("int8", "uint16", "int64", "uint64", "float16", "float32", "float64", ">f4", ">i2")
TARGETS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
PAIRS = [(s, t) for s in SOURCES for t in TARGETS if not np.can_cast(s, t)]
PAIRS += [("float64", "float32"), ("float32", "float16"), ("float64", "float16")]


def limits(target):
    dtype = np.dtype(target)
    if dtype.kind == "f":
        return -math.inf, math.inf
    return (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def lost(image, target):
    """Count voxel by voxel, in Python."""
    (low, high), counts = limits(target), [0, 0, 0]
    for value in image.reshape(-1).tolist():
        if isinstance(value, float) and not math.isfinite(value):
            counts[0 if math.isnan(value) else 1] += 1
        elif np.dtype(target).kind == "f":
            with np.errstate(over="ignore"):
                counts[2] += bool(np.isinf(np.dtype(target).type(value)))
        else:
            counts[2] += not low <= round(value) <= high
    return Lost(*counts)


@st.composite
def images(draw):
    """Return an image with values at the limits of a target and far beyond, and the target."""
    source, target = draw(st.sampled_from(PAIRS))
    dtype = np.dtype(source)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(7,), (4, 5), (2, 3, 30)]))
    image = rng.integers(0, 2, shape).astype(dtype)
    low, high = limits("int8" if np.dtype(target).kind == "f" else target)
    near = [low, high, low - 0.5, low - 0.51, high + 0.5, high + 0.49, low - 1, high + 1, 1e6, -3e5]
    if dtype.kind == "f":
        near += [np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min]
    else:
        info = np.iinfo(dtype)
        near = [min(max(int(v), info.min), info.max) for v in [*near, -(2**70), 2**70]]
    at = rng.integers(0, image.size, draw(st.integers(0, 12)))
    with np.errstate(over="ignore"):
        image.reshape(-1)[at] = np.array([near[i] for i in rng.integers(0, len(near), at.size)])
    return image, target


def boxes_of(shape):
    """Cut all but the first voxel along the last axis in two."""
    n = shape[-1]
    rest = tuple(slice(0, m) for m in shape[:-1])
    return [(*rest, slice(1, n // 2)), (*rest, slice(n // 2, n))]


@settings(max_examples=300, deadline=None)
@given(images(), st.sampled_from(["clip", "wrap"]))
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_every_pair_of_dtypes_on_cpu_and_device(case, cast):
    image, target = case
    place = Place.whole(Grid.of(image.shape))
    boxes = boxes_of(image.shape)
    expected = lost(image[..., 1:], target)
    args = {"dtype": target, "cast": cast}
    made, counts = astype.counting({"image": image, **args}, place, boxes)
    np.testing.assert_array_equal(made, astype(image, target, cast=cast))
    assert counts == expected
    assert all(type(n) is int for n in counts)
    if image.dtype.isnative:
        with fake_cupy():
            there = to_device(image, "gpu")
            moved, counted = astype.counting({"image": there, **args}, place, boxes)
            np.testing.assert_array_equal(to_host(moved), made)
            assert counted == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_filter_counts_in_any_box_of_any_part(data):
    image, weights = data.draw(cases(dtypes=(np.uint16, np.float32, np.int32)))
    if image.dtype.kind == "f":
        image = image.copy()
        at = data.draw(st.lists(st.integers(0, image.size - 1), max_size=4))
        image.reshape(-1)[at] = [np.nan, np.inf, -np.inf, 1e9][: len(at)]
    dtype = data.draw(st.sampled_from([np.uint8, np.int16]))
    inner, box = [], []
    for n in image.shape:
        a, b = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        inner.append(slice(a, max(b, a + 1)))
        c, d = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        box.append(slice(c, d))
    inner = [
        slice(min(s.start, n - 1), min(s.stop, n)) for s, n in zip(inner, image.shape, strict=True)
    ]
    floats = separable(image, weights)
    both = tuple(
        slice(max(i.start, b.start), max(min(i.stop, b.stop), max(i.start, b.start)))
        for i, b in zip(inner, box, strict=True)
    )
    counts = np.zeros(3, np.int64)
    plain = separable(image, weights, out_dtype=dtype, inner=inner)
    made = separable(image, weights, out_dtype=dtype, inner=inner, tally=(counts, tuple(box)))
    np.testing.assert_array_equal(made, plain)
    assert Lost(*counts.tolist()) == lost(floats[both], dtype)
