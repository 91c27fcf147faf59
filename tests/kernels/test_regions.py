from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops_table

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.labels import label
from lepton_pipe.kernels.regions import PROPERTIES, regionprops
from lepton_pipe.spec import Definition, Image, ImageType, Node, Place, evaluate
from tests.kernels.reduced import blocks_of, image, in_blocks, shapes

DTYPES = ["uint8", "uint16", "int32", "float32", "float64", "bool", "uint64", "int64"]


@st.composite
def measurements(draw, dtypes=DTYPES, **limits):
    shape = draw(shapes(**limits))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([1, 5, 40]))
    labels = rng.integers(0, count + 1, shape) * (rng.random(shape) < draw(st.floats(0, 1)))
    for axis in range(len(shape)):
        if draw(st.booleans()):  # longer runs
            labels = np.repeat(labels, 3, axis)[tuple(slice(0, n) for n in shape)]
    dtype = draw(st.sampled_from(["uint8", "int32", "int64"]))
    intensity = image(shape, draw(st.sampled_from(dtypes)), draw(st.integers(0, 99)))
    return labels.astype(dtype), intensity, draw(blocks_of(shape))


def check(actual, expected):
    """Hold tables to the same bits."""
    assert list(actual) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], name, strict=True)


@given(measurements())
@settings(max_examples=80, deadline=None)
def test_blocks_equal_the_whole(case):
    labels, intensity, block = case
    result = in_blocks(regionprops, {"labels": labels, "intensity": intensity}, block)
    check(result, regionprops(labels, intensity))
    assert set(result) >= {"label", "area", "intensity_sum", "intensity_std"}


@given(measurements(["uint8", "uint16", "int32", "float32"], min_dims=2, max_dims=3))
@settings(max_examples=60, deadline=None)
def test_equals_scikit_image(case):
    labels, intensity, block = case
    result = in_blocks(regionprops, {"labels": labels, "intensity": intensity}, block)
    axes = "zyx"[-labels.ndim :]
    names = {"area": "area", "equivalent_diameter": "equivalent_diameter_area"}
    names |= {n: n for n in PROPERTIES if n.startswith("intensity") and "sum" not in n}
    expected = regionprops_table(
        labels.astype(np.int64),
        intensity.astype(float),
        properties=["label", *names.values(), "centroid", "bbox"],
    )
    np.testing.assert_array_equal(result["label"], expected["label"])
    for ours, theirs in names.items():
        scale = abs(intensity.astype(float)).max() if "std" in ours else 0
        np.testing.assert_allclose(
            result[ours], expected[theirs], rtol=1e-9, atol=1e-9 + 1e-12 * scale, err_msg=ours
        )
    for i, axis in enumerate(axes):
        np.testing.assert_allclose(result[f"centroid-{axis}"], expected[f"centroid-{i}"])
        np.testing.assert_array_equal(result[f"bbox_min-{axis}"], expected[f"bbox-{i}"])
        top = expected[f"bbox-{i + len(axes)}"]
        np.testing.assert_array_equal(result[f"bbox_max-{axis}"], top)


def test_world_units_follow_the_grid():
    labels = np.zeros((2, 4, 5, 6), np.uint8)
    labels[1, 1:3, 2:4, 3:5] = 7
    grid = Grid.of(
        labels.shape, "czyx", (1, 2, 0.5, 0.25), "micrometer", translation=(0, 10, 20, 30)
    )
    result = in_blocks(regionprops, {"labels": labels}, (1, 2, 3, 4), grid=grid)
    assert result["label"].tolist() == [7]
    assert result["area"].tolist() == [8]
    assert result["area_world"].tolist() == [8 * 2 * 0.5 * 0.25]
    assert result["centroid-c"].tolist() == [1]
    assert result["centroid-z"].tolist() == [1.5]
    assert result["centroid_world-z"].tolist() == [10 + 2 * 1.5]
    assert result["centroid_world-y"].tolist() == [20 + 0.5 * 2.5]
    assert result["bbox_max-x"].tolist() == [5]
    ball = result["equivalent_diameter_world"][0] ** 3 * np.pi / 6
    assert ball == pytest.approx(2.0)
    assert not any(n.startswith("intensity") for n in result)


def test_sums_of_large_integers_do_not_wrap():
    labels = np.ones((4, 70_000), np.uint8)
    top = np.full(labels.shape, np.iinfo(np.uint32).max, np.uint32)
    top[0] -= 1
    result = in_blocks(regionprops, {"labels": labels, "intensity": top}, (1, 999))
    assert result["intensity_sum"][0] == int(top.sum(dtype=np.uint64))
    assert result["intensity_std"][0] == pytest.approx(np.sqrt(3) / 4, rel=1e-15)
    huge = np.full(labels.shape, np.iinfo(np.uint64).max, np.uint64)
    huge[0] -= np.uint64(1)
    result = in_blocks(regionprops, {"labels": labels, "intensity": huge}, (1, 999))
    assert result["intensity_sum"][0] == pytest.approx(2.0**64 * huge.size)
    assert result["intensity_std"][0] == pytest.approx(np.sqrt(3) / 4, rel=1e-15)


def test_large_offsets_do_not_hurt_the_deviation_of_floats():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 4, (40, 50))
    values = rng.normal(1e6, 1e-2, labels.shape)
    result = in_blocks(regionprops, {"labels": labels, "intensity": values}, (7, 9))
    expected = [values[labels == i].std() for i in (1, 2, 3)]
    np.testing.assert_allclose(result["intensity_std"], expected, rtol=1e-6)


def test_a_deviation_of_a_few_steps_of_float64_is_not_lost():
    values = 1.7e9 + np.random.default_rng(0).normal(0, 1e-4, (50, 50))
    labels = np.ones(values.shape, int)
    result = in_blocks(regionprops, {"labels": labels, "intensity": values}, (7, 9))
    np.testing.assert_allclose(result["intensity_std"], values.std(), atol=4 * np.spacing(1.7e9))


@pytest.mark.filterwarnings("error")
def test_nan_stays_in_its_object():
    labels = np.array([[1, 1, 2], [1, 2, 2]])
    values = np.array([[1, np.nan, 3], [4, 5, 6]], np.float32)
    result = in_blocks(regionprops, {"labels": labels, "intensity": values}, (1, 2))
    for name in ("mean", "min", "max", "std", "sum"):
        assert np.isnan(result[f"intensity_{name}"]).tolist() == [True, False]


def test_no_objects_give_no_rows_but_all_columns():
    result = regionprops(np.zeros((3, 4), np.uint8), np.ones((3, 4), np.uint16))
    assert all(len(c) == 0 for c in result.values())
    assert result["intensity_max"].dtype == np.uint16
    assert regionprops(np.full((3, 4), -1))["label"].size == 0


def test_only_what_is_asked_for():
    labels = np.array([[1, 0, 2]])
    result = regionprops(labels, properties=("area", "centroid"))
    assert list(result) == ["label", "area", "centroid-y", "centroid-x"]
    result = regionprops(labels, labels, properties=["intensity_mean"])
    assert list(result) == ["label", "intensity_mean"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((np.ones((3, 3), bool),), "use label"),
        ((np.ones((3, 3)),), "told apart by integers"),
        ((np.ones((3, 3), int), np.ones((1, 3))), r"shape \(1, 3\)"),
        ((np.ones((3, 3), int), None, ("volume",)), "'volume'.*unknown"),
        ((np.ones((3, 3), int), None, ("intensity_mean",)), "give intensity="),
    ],
)
def test_arguments_without_meaning_are_refused(args, words):
    with pytest.raises(ValueError, match=words):
        regionprops(*args)


def test_labels_beyond_int64_are_refused():
    with pytest.raises(ValueError, match="renumber"):
        regionprops(np.array([[2**63 + 1]], np.uint64))


def test_in_a_pipeline():
    def measure(raw: Image) -> dict[str, Node]:
        labels = label(raw > 5)
        return {"cells": regionprops(labels, raw, ("area", "intensity_sum"))}

    raw = np.random.default_rng(0).integers(0, 9, (12, 13)).astype(np.uint8)
    spec = Definition(measure).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})
    result = evaluate(spec, {"raw": raw})["cells"]
    assert result["area"].sum() == (raw > 5).sum()
    assert result["intensity_sum"].sum() == raw[raw > 5].sum()

    def wrong(raw: Image) -> Node:
        return regionprops(raw > 5)

    with pytest.raises(SpecError, match="use label"):
        Definition(wrong).bind({"raw": ImageType(Grid.of(raw.shape), raw.dtype)}, {})


@pytest.mark.parametrize("noisy", [False, True])
def test_scratch_is_honest(noisy):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 200, (256, 64, 128)).astype(np.int32)
    if not noisy:
        labels = np.repeat(labels[..., ::16], 16, -1)
    args = {"labels": labels, "intensity": labels.astype(np.uint16), "properties": None}
    regionprops.run(args, Place.whole(Grid.of(labels.shape)))
    tracemalloc.start()
    regionprops.run(args, Place.whole(Grid.of(labels.shape)))
    assert tracemalloc.get_traced_memory()[1] <= regionprops.scratch * labels.size
    tracemalloc.stop()
