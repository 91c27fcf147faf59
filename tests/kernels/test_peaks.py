from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.feature import peak_local_max

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.peaks import find_peaks, is_peak, peaks_above
from lepton_pipe.kernels.reductions import mean
from lepton_pipe.spec import Definition, Image, ImageType, Node, Place, evaluate
from tests.kernels.reduced import blocks_of, image, in_blocks, shapes

PEAK_DTYPES = ["uint8", "uint16", "int32", "float16", "float32", "bool", "int64"]


def expected(array, distance, threshold):
    """The rule of find_peaks, voxel by voxel."""
    found = []
    for voxel in np.ndindex(array.shape):
        value = array[voxel]
        if not value > threshold:
            continue
        box = itertools.product(
            *(
                range(max(0, v - d), min(n, v + d + 1))
                for v, d, n in zip(voxel, distance, array.shape, strict=True)
            )
        )
        if not any(array[o] > value or (array[o] == value and o < voxel) for o in box):
            found.append(voxel)
    return np.array(found).reshape(-1, array.ndim)


def voxels(table):
    names = [n for n in table if n in "tczyx"]
    return np.stack([table[n] for n in names], axis=1)


@st.composite
def cases(draw, longest=40):
    shape = draw(shapes(longest=longest))
    dtype = draw(st.sampled_from(PEAK_DTYPES))
    array = image(shape, dtype, draw(st.integers(0, 2**32)))
    if dtype != "bool" and draw(st.booleans()):  # plateaus
        levels = draw(st.integers(1, 4))
        array = (np.abs(array % np.array(levels, dtype)) // np.array(1, dtype)).astype(dtype)
    for axis in range(array.ndim):
        if draw(st.booleans()):
            array = np.repeat(array, 2, axis)[tuple(slice(0, n) for n in shape)]
    return array, draw(blocks_of(shape)), draw(st.integers(1, 4))


def equal(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], name)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_blocks_equal_the_whole(case):
    array, block, distance = case
    args = {"image": array, "threshold": array.min().item(), "min_distance": distance}
    whole = find_peaks(array, distance)
    equal(in_blocks(peaks_above, args, block), whole)
    values = array[tuple(voxels(whole).T)]
    np.testing.assert_array_equal(whole["value"], values)


@given(cases(longest=9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_rule_voxel_by_voxel(case, low):
    array, _, distance = case
    array = array[(0,) * max(0, array.ndim - 3)]
    array = array[tuple(slice(0, 9) for _ in array.shape)]
    threshold = array.min().item() if low else np.sort(array, axis=None)[array.size // 2].item()
    got = voxels(find_peaks(array, distance, threshold))
    np.testing.assert_array_equal(got, expected(array, (distance,) * array.ndim, threshold))


@given(cases(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_compiled_form_equals_operations_on_whole_arrays(case, special):
    array, _, distance = case
    if array.dtype.kind == "f" and special:
        array[array < np.median(array)] = np.nan
        array.flat[::7] = -np.inf
        array.flat[3::7] = np.inf
    reach = (distance,) * (array.ndim - 1) + (max(1, distance - 1),)
    lowest = -np.inf if array.dtype.kind == "f" else -(2**63)
    place = Place.whole(Grid.of(array.shape))
    ((found, values),) = peaks_above.run(
        {"image": array, "threshold": lowest, "min_distance": reach, "exclude_border": 0}, place
    )
    full = Grid.of(array.shape).per_axis(reach, "min_distance", elsewhere=0)
    numbers = array.view(np.uint8) if array.dtype == bool else array
    if array.dtype.kind == "f":
        numbers = np.where(np.isnan(array), -np.inf, array)
    where = np.argwhere(is_peak(numbers, full))
    np.testing.assert_array_equal(found, where)
    np.testing.assert_array_equal(values, array[tuple(where.T)])


def test_distance_per_axis_and_none_across_time_and_channels():
    array = np.random.default_rng(0).random((2, 2, 5, 6, 7))
    for distance in (2, (1, 2, 3), {"z": 1, "x": 2}, {"t": 1, "y": 1}):
        full = {2: (0, 0, 2, 2, 2), (1, 2, 3): (0, 0, 1, 2, 3)}.get(
            distance if not isinstance(distance, dict) else None
        ) or tuple(distance.get(a, 0) for a in "tczyx")
        table = find_peaks(array, distance, 0.2)
        np.testing.assert_array_equal(voxels(table), expected(array, full, 0.2))
        args = {"image": array, "min_distance": distance, "threshold": 0.2}
        equal(in_blocks(peaks_above, args, (1, 2, 2, 3, 3)), table)


def test_spots_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    array = rng.permutation(40 * 50).reshape(40, 50).astype(np.int32)  # no ties
    for distance in (1, 3):
        theirs = peak_local_max(array, min_distance=distance, exclude_border=False, p_norm=np.inf)
        ours = voxels(find_peaks(array, distance))
        assert set(map(tuple, theirs)) <= set(map(tuple, ours))
        # scikit-image keeps one of two peaks at exactly min_distance; ours are further apart.
        np.testing.assert_array_equal(ours, expected(array, (distance,) * 2, -1))


def test_no_two_peaks_are_within_the_distance():
    array = np.random.default_rng(0).integers(0, 50, (60, 60))
    found = voxels(find_peaks(array, 3))
    assert len(found) > 20
    apart = np.abs(found[:, None] - found[None]).max(-1)
    np.fill_diagonal(apart, 99)
    assert apart.min() > 3


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (10, 10)])
def test_a_plateau_gives_its_first_voxel(block):
    array = np.zeros((10, 10), np.uint8)
    array[2:6, 3:9] = 255
    args = {"image": array, "threshold": 0, "min_distance": 2}
    assert voxels(in_blocks(peaks_above, args, block)).tolist() == [[2, 3]]


def test_nothing_stands_out_of_a_constant_image():
    for dtype in ("uint8", "float32", "bool"):
        table = find_peaks(np.ones((5, 5), dtype))
        assert len(table["y"]) == 0
        assert table["value"].dtype == dtype
        assert table["y"].dtype == np.int64


def test_nan_is_no_peak_and_hides_none():
    array = np.zeros((7, 7), np.float32)
    array[2, 2], array[2, 3], array[5, 5] = 1, np.nan, np.nan
    assert voxels(find_peaks(array, 1, 0)).tolist() == [[2, 2]]
    with pytest.raises(ValueError, match="threshold is NaN"):
        find_peaks(array)


def test_64_bit_integers_are_told_apart():
    array = np.full((3, 5), 2**62, np.int64)
    array[1, 1] += 1
    array[1, 3] += 2
    assert voxels(find_peaks(array, 1)).tolist() == [[1, 1], [1, 3]]
    assert voxels(find_peaks(array, 2)).tolist() == [[1, 3]]


@pytest.mark.parametrize(("border", "width"), [(True, 2), (1, 1), (3, 3), (0, 0), (False, 0)])
def test_the_border_can_be_left_out(border, width):
    array = np.random.default_rng(0).random((12, 13))
    table = voxels(find_peaks(array, 2, 0.0, exclude_border=border))
    every = expected(array, (2, 2), 0.0)
    inside = ((every >= width) & (every < np.array(array.shape) - width)).all(1)
    np.testing.assert_array_equal(table, every[inside])
    args = {"image": array, "min_distance": 2, "threshold": 0.0, "exclude_border": border}
    np.testing.assert_array_equal(voxels(in_blocks(peaks_above, args, (5, 4))), table)


def test_world_positions_follow_the_grid():
    array = np.zeros((4, 5, 6))
    array[1, 2, 3] = 9
    grid = Grid.of(array.shape, "zyx", (2, 0.5, 0.25), "micrometer", translation=(10, 20, 30))
    args = {"image": array, "threshold": 0}
    table = in_blocks(peaks_above, args, (2, 2, 2), grid=grid)
    assert {n: c.tolist() for n, c in table.items()} == {
        "z": [1], "y": [2], "x": [3],
        "z_world": [12.0], "y_world": [21.0], "x_world": [30.75],
        "value": [9.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"min_distance": 0}, "at least 1"),
        ({"min_distance": -1}, "min_distance=-1"),
        ({"min_distance": 1.5}, "whole voxels"),
        ({"exclude_border": -2}, "exclude_border=-2"),
        ({"threshold": float("nan")}, "threshold is NaN"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        find_peaks(np.ones((3, 3)), **arguments)


def test_in_a_pipeline():
    def spots(raw: Image, *, distance: int = 2) -> dict[str, Node]:
        return {"spots": find_peaks(raw, distance, mean(raw)), "all": find_peaks(raw)}

    raw = image((20, 21), "uint16", 3)
    type_ = ImageType(Grid.of(raw.shape), raw.dtype)
    spec = Definition(spots).bind({"raw": type_}, {"distance": 2})
    assert spec["peaks_above"].depth == ((2, 2), (2, 2))
    result = evaluate(spec, {"raw": raw})
    equal(result["spots"], find_peaks(raw, 2, float(raw.mean())))
    equal(result["all"], find_peaks(raw))
    with pytest.raises(SpecError, match="at least 1"):
        Definition(spots).bind({"raw": type_}, {"distance": 0})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_scratch_is_honest(dtype):
    array = image((128, 128, 128), dtype, 0)
    args = {"image": array, "threshold": 0, "min_distance": 3, "exclude_border": False}
    scratch = peaks_above.scratch(ImageType(Grid.of(array.shape), array.dtype))
    tracemalloc.start()
    peaks_above.run(args, Place.whole(Grid.of(array.shape)))
    assert tracemalloc.get_traced_memory()[1] <= scratch * array.size
    tracemalloc.stop()
