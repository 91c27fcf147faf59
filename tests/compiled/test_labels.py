"""Compiled labels equal those of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.compiled import labels as fast
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels.labels import _refine, label, label_join, local_labels
from lepton_pipe.merge.labels import describe
from lepton_pipe.spec import Place
from tests.kernels.reduced import shapes

DTYPES = ["bool", "uint8", "uint16", "float32"]


@st.composite
def masks(draw, **limits):
    """Noise, or noise made of longer runs; as it lies in memory, or not."""
    shape = draw(shapes(min_dims=1, **limits))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.31, 0.41, 0.59, 0.75, 0.98, 1.0]))
    mask = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < density
    if draw(st.booleans()):
        mask = np.repeat(mask, draw(st.integers(2, 20)), -1)[..., : shape[-1]]
    mask = mask.astype(draw(st.sampled_from(DTYPES)))
    how = draw(st.sampled_from(["C", "F", "strided", "reversed"]))
    if how == "strided":
        mask = np.repeat(mask, 2, -1)[..., ::2]
    mask = {"F": np.asfortranarray(mask), "reversed": mask[..., ::-1]}.get(how, mask)
    mask.flags.writeable = False
    return mask


@st.composite
def labellings(draw):
    mask = draw(masks())
    spatial = draw(st.integers(1, min(3, mask.ndim)))
    return mask, spatial, draw(st.integers(1, spatial))


def in_order(labels: np.ndarray) -> np.ndarray:
    """Number objects in the order of their first voxels."""
    values, first = np.unique(labels, return_index=True)
    order = [v for _, v in sorted(zip(first, values, strict=True)) if v]
    table = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    table[order] = np.arange(1, len(order) + 1)
    return table[labels]


@given(labellings())
@settings(max_examples=200, deadline=None)
def test_components_equal_scipy(case):
    mask, spatial, connectivity = case
    runs = fast.runs_of(mask, spatial)
    labels, count = fast.components(runs, spatial, connectivity)
    expected, expected_count = local_labels(mask, spatial, connectivity)
    assert count == expected_count
    image = fast.paint(runs, labels, np.arange(count + 1)).reshape(mask.shape)
    np.testing.assert_array_equal(image, in_order(expected))


@given(masks())
@settings(max_examples=60, deadline=None)
def test_runs_are_the_foreground(mask):
    runs = fast.runs_of(mask, 1)
    assert runs.rows[-1] == runs.edges.size // 2
    rows = mask.reshape(-1, mask.shape[-1]) != 0
    padded = np.pad(rows, ((0, 0), (1, 1))).astype(np.int8)
    where, edges = np.nonzero(np.diff(padded, axis=-1))
    np.testing.assert_array_equal(runs.edges, edges)
    np.testing.assert_array_equal(np.diff(runs.rows), np.bincount(where, minlength=len(rows)) // 2)


def test_any_byte_but_zero_is_foreground():
    mask = np.array([[0, 2, 255, 0] * 20, [255] * 80], np.uint8).view(bool)
    runs = fast.runs_of(mask, 2)
    labels, count = fast.components(runs, 2, 1)
    image = fast.paint(runs, labels, np.arange(count + 1))
    np.testing.assert_array_equal(image.reshape(mask.shape), mask.view(np.uint8) != 0)


@st.composite
def blocks(draw):
    """A block somewhere in an image, with one voxel more on the high sides that have a voxel."""
    mask = draw(masks(longest=12))
    spatial = draw(st.integers(max(1, mask.ndim - 2), min(3, mask.ndim)))
    axes = "tc"[2 - mask.ndim + spatial :] + "zyx"[3 - spatial :]
    grown = [
        i >= mask.ndim - spatial and n > 1 and draw(st.booleans()) for i, n in enumerate(mask.shape)
    ]
    start = [draw(st.sampled_from([0, 5])) if a in "zyx" else 0 for a in axes]
    write = Region(
        tuple(start),
        tuple(a + n - g for a, n, g in zip(start, mask.shape, grown, strict=True)),
    )
    read = Region(write.start, tuple(a + n for a, n in zip(start, mask.shape, strict=True)))
    grid = Grid.of([b + (3 if g else 0) for b, g in zip(read.stop, grown, strict=True)], axes)
    return mask, Place(read, write, grid), draw(st.integers(1, spatial))


@given(blocks())
@settings(max_examples=150, deadline=None)
def test_blocks_are_described_as_from_images_of_labels(case):
    mask, place, connectivity = case
    spatial = len(place.grid.spatial)
    (got,) = label_join.run(
        {"mask": mask, "connectivity": connectivity, "min_size": 0}, place
    ).blocks
    labels = in_order(local_labels(mask, spatial, connectivity)[0])
    parts, count = local_labels(mask[place.inner], spatial, connectivity)
    parts = in_order(parts)
    expected = describe(labels, _refine(labels[place.inner], parts, count), place)
    assert (got.start, got.shape) == expected.blocks[0][:2]
    owned = expected.blocks[0].size > 0
    for name in ("size", "own"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected.blocks[0], name), name)
    np.testing.assert_array_equal(got.first[owned], expected.blocks[0].first[owned])


@given(blocks())
@settings(max_examples=60, deadline=None)
def test_planes_are_seen_as_in_images_of_labels(case):
    mask, place, connectivity = case
    spatial = len(place.grid.spatial)
    got = label_join.run({"mask": mask, "connectivity": connectivity, "min_size": 0}, place)
    labels = in_order(local_labels(mask, spatial, connectivity)[0])
    expected = describe(labels, np.zeros(1, np.int64), place)
    assert got.above == expected.above
    assert got.below == expected.below


@pytest.mark.parametrize("value", [0, 1])
def test_images_of_one_value(value):
    for shape in ((1,), (16,), (17,), (3, 32), (2, 3, 31), (1, 1, 1, 1)):
        mask = np.full(shape, value, bool)
        np.testing.assert_array_equal(label(mask).ravel() > 0, mask.ravel())
