from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import UsageError
from lepton_pipe.geometry import CANONICAL_AXES, Grid, Region, check_axes, default_axes

modest = settings(max_examples=60, deadline=None)


@st.composite
def grids(draw):
    axes = draw(st.lists(st.sampled_from(CANONICAL_AXES), min_size=1, unique=True))
    names = [a for a in CANONICAL_AXES if a in axes]
    shape = [draw(st.integers(1, 20)) for _ in names]
    scale = [draw(st.floats(0.01, 100)) for _ in names]
    return Grid.of(shape, names, scale, "micrometer", [draw(st.floats(-99, 99)) for _ in names])


def centre(grid, voxel):
    """World position of the centre of a voxel."""
    return [t + s * v for t, s, v in zip(grid.translation, grid.scale, voxel, strict=True)]


@pytest.mark.parametrize(
    ("ndim", "axes"), [(1, "x"), (2, "yx"), (3, "zyx"), (4, "czyx"), (5, "tczyx")]
)
def test_a_bare_array_has_the_last_axes(ndim, axes):
    assert "".join(default_axes(ndim)) == axes


@pytest.mark.parametrize("ndim", [0, 6])
def test_too_many_axes_or_none_are_refused(ndim):
    with pytest.raises(UsageError, match=f"{ndim} axes cannot be an image.*reshape"):
        default_axes(ndim)


@pytest.mark.parametrize("axes", ["xy", "zz", "yxq", "xyz"])
def test_axes_out_of_order_repeated_or_unknown_are_refused(axes):
    with pytest.raises(UsageError, match=f"axes '{axes}' are not understood.*'tczyx'"):
        check_axes(axes, len(axes))


def test_the_number_of_axes_must_fit():
    with pytest.raises(UsageError, match="'zyx' name 3 axes, but the image has 2"):
        check_axes("zyx", 2)


@modest
@given(st.sets(st.sampled_from(CANONICAL_AXES), min_size=1))
def test_every_subset_in_order_is_understood(names):
    axes = [a for a in CANONICAL_AXES if a in names]
    assert check_axes("".join(axes), len(axes)) == tuple(axes)


def test_what_is_not_given_is_filled_in():
    grid = Grid.of((2, 3, 4), unit="micrometer", axes="cyx")
    assert grid.unit == (None, "micrometer", "micrometer")
    assert grid.scale == (1.0, 1.0, 1.0)
    assert grid.translation == (0.0, 0.0, 0.0)
    assert (grid.ndim, grid.size, grid.spatial) == (3, 24, (1, 2))
    assert grid.region == Region((0, 0, 0), (2, 3, 4))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"scale": (1.0,)}, r"scale \(1.0,\) has 1 entries for 2 axes"),
        ({"unit": ("mm",)}, r"unit \('mm',\) has 1 entries for 2 axes"),
        ({"translation": (1, 2, 3)}, r"translation \(1.0, 2.0, 3.0\) has 3 entries for 2 axes"),
        ({"scale": (1.0, 0.0)}, "must be positive"),
        ({"scale": (1.0, -2.0)}, "must be positive"),
        ({"scale": (1.0, math.nan)}, "must be positive"),
        ({"scale": (1.0, math.inf)}, "must be positive"),
        ({"translation": (0.0, math.nan)}, "must be finite"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(given_, message):
    with pytest.raises(UsageError, match=message):
        Grid.of((4, 5), **given_)


def test_an_axis_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="no axis 'z'; the image has axes yx"):
        Grid.of((4, 5)).axis("z")


# -- parameters per axis --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, (0, 3, 3)),
        ((1, 2), (0, 1, 2)),
        ([1, 2], (0, 1, 2)),
        ((9, 1, 2), (9, 1, 2)),
        ({"x": 5}, (0, 0, 5)),
        ({"c": 1, "y": 2}, (1, 2, 0)),
        ({}, (0, 0, 0)),
    ],
)
def test_a_parameter_is_spread_over_the_axes(value, expected):
    grid = Grid.of((2, 3, 4), "cyx")
    assert grid.per_axis(value, "sigma", elsewhere=0) == expected


def test_a_text_is_one_value_not_a_sequence():
    assert Grid.of((2, 3), "yx").per_axis("ab", "mode", elsewhere="") == ("ab", "ab")


@pytest.mark.parametrize("value", [(1,), (1, 2, 3, 4), ()])
def test_a_number_of_values_that_fits_nothing_is_refused(value):
    grid = Grid.of((2, 3, 4), "cyx")
    with pytest.raises(UsageError, match=f"sigma has {len(value)} values.*cyx.*axis.*mapping"):
        grid.per_axis(value, "sigma", elsewhere=0)


def test_a_mapping_with_an_axis_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="no axis 'z'"):
        Grid.of((3, 4)).per_axis({"z": 1}, "sigma", elsewhere=0)


# -- other grids ----------------------------------------------------------------------------


@modest
@given(grids(), st.data())
def test_crop_keeps_world_positions(grid, data):
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True))
    part = grid.crop(Region(start, stop))
    assert part.shape == Region(start, stop).shape
    assert (part.axes, part.scale, part.unit) == (grid.axes, grid.scale, grid.unit)
    np.testing.assert_allclose(centre(part, [0] * grid.ndim), centre(grid, start), atol=1e-9)


@modest
@given(grids(), st.data())
def test_a_coarse_voxel_lies_in_the_middle_of_those_it_was_made_of(grid, data):
    factors = tuple(data.draw(st.integers(1, 5)) for _ in grid.shape)
    coarse = grid.coarsen(factors)
    assert coarse.shape == tuple(math.ceil(n / f) for n, f in zip(grid.shape, factors, strict=True))
    cells = tuple(n // f for n, f in zip(grid.shape, factors, strict=True))
    voxel = [max(0, c - 1) for c in cells]
    fine = [np.mean([v * f, v * f + f - 1]) for v, f in zip(voxel, factors, strict=True)]
    np.testing.assert_allclose(centre(coarse, voxel), centre(grid, fine), atol=1e-6)


@modest
@given(grids(), st.data())
def test_coarsening_twice_is_coarsening_by_the_product(grid, data):
    first, second = (tuple(data.draw(st.integers(1, 4)) for _ in grid.shape) for _ in range(2))
    twice = grid.coarsen(first).coarsen(second)
    once = grid.coarsen([a * b for a, b in zip(first, second, strict=True)])
    assert twice.shape == once.shape
    np.testing.assert_allclose(twice.scale, once.scale)
    np.testing.assert_allclose(twice.translation, once.translation, atol=1e-6)


@modest
@given(grids(), st.data())
def test_flatten_keeps_the_extent_and_drop_forgets_the_axis(grid, data):
    axis = data.draw(st.integers(0, grid.ndim - 1))
    flat = grid.flatten(axis)
    assert flat.shape[axis] == 1
    assert flat.scale[axis] == pytest.approx(grid.scale[axis] * grid.shape[axis])
    ends = [centre(grid, [v] * grid.ndim)[axis] for v in (0, grid.shape[axis] - 1)]
    assert flat.translation[axis] == pytest.approx(sum(ends) / 2, abs=1e-6)
    dropped = grid.drop(axis)
    assert dropped.axes == grid.axes[:axis] + grid.axes[axis + 1 :]
    for left in range(dropped.ndim):
        kept = left + (left >= axis)
        assert dropped.shape[left] == grid.shape[kept] == flat.shape[kept]
        assert dropped.translation[left] == grid.translation[kept] == flat.translation[kept]


@modest
@given(grids())
def test_a_grid_survives_json(grid):
    data = json.loads(json.dumps(grid.to_json()))
    assert Grid.of(**data) == grid
