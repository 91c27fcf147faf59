from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.geometry import Blocks, Grid, Layout, Region, no_depth, symmetric_depth

modest = settings(max_examples=60, deadline=None)
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def regions_in(draw, shape):
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return Region(tuple(a for a, _ in ends), tuple(b for _, b in ends))


@st.composite
def shape_and_regions(draw, count):
    shape = draw(shapes)
    return shape, [draw(regions_in(shape)) for _ in range(count)]


def painted(shape, *regions):
    """A boolean array that is True in all the regions."""
    array = np.zeros(shape, bool)
    for region in regions:
        array[region.slices] = True
    return array


@modest
@given(shape_and_regions(1))
def test_shape_size_and_slices_agree_with_numpy(case):
    shape, (region,) = case
    part = painted(shape)[region.slices]
    assert region.shape == part.shape
    assert region.size == part.size
    assert region.ndim == part.ndim


@modest
@given(shape_and_regions(1), st.data())
def test_grow_takes_in_just_the_voxels_within_depth_and_never_leaves_the_array(case, data):
    shape, (region,) = case
    depth = tuple(data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5))) for _ in shape)
    grown = region.grow(depth, shape)
    assert Region.whole(shape).contains(grown)
    assert grown.contains(region)
    for axis, (low, high) in enumerate(depth):
        near = [
            v
            for v in range(shape[axis])
            if region.start[axis] - low <= v < region.stop[axis] + high
        ]
        assert list(range(grown.start[axis], grown.stop[axis])) == near


@modest
@given(shape_and_regions(1), st.integers(0, 4), st.integers(0, 4))
def test_growing_twice_is_growing_by_the_sum(case, a, b):
    shape, (region,) = case
    once, twice = (symmetric_depth([n] * len(shape)) for n in (a + b, b))
    first = region.grow(symmetric_depth([a] * len(shape)), shape)
    assert first.grow(twice, shape) == region.grow(once, shape)


def test_no_depth_adds_nothing():
    region = Region((1, 2), (3, 4))
    assert region.grow(no_depth(2), (9, 9)) == region


@modest
@given(shape_and_regions(3))
def test_hull_is_the_smallest_region_that_contains_all(case):
    _, regions = case
    hull = Region.hull(regions)
    assert all(hull.contains(r) for r in regions)
    for axis in range(hull.ndim):
        assert hull.start[axis] == min(r.start[axis] for r in regions)
        assert hull.stop[axis] == max(r.stop[axis] for r in regions)


@modest
@given(shape_and_regions(2))
def test_intersect_is_the_voxels_in_both(case):
    shape, (a, b) = case
    both = painted(shape, a) & painted(shape, b)
    common = a.intersect(b)
    assert common.size == both.sum()
    if common.size:
        assert (painted(shape, common) == both).all()


def test_regions_that_do_not_touch_have_an_empty_intersection():
    common = Region((0, 0), (2, 9)).intersect(Region((5, 0), (7, 9)))
    assert (common.size, common.shape) == (0, (0, 9))


@modest
@given(shape_and_regions(2))
def test_contains_means_every_voxel(case):
    shape, (a, b) = case
    if b.size:
        assert a.contains(b) == bool((painted(shape, a) >= painted(shape, b)).all())


@modest
@given(shape_and_regions(2))
def test_inside_cuts_the_same_voxels_out_of_the_outer_array(case):
    shape, regions = case
    outer = Region.hull(regions)
    whole = np.arange(np.prod(shape)).reshape(shape)
    for inner in regions:
        cut = whole[outer.slices][inner.inside(outer)]
        np.testing.assert_array_equal(cut, whole[inner.slices])


@modest
@given(shape_and_regions(1), st.data())
def test_shift_there_and_back(case, data):
    shape, (region,) = case
    offset = tuple(data.draw(st.integers(-9, 9)) for _ in shape)
    moved = region.shift(offset)
    assert moved.shape == region.shape
    assert moved.shift(tuple(-o for o in offset)) == region


def test_regions_read_as_slices():
    assert str(Region((0, 3), (10, 7))) == "[0:10, 3:7]"


# -- blocks ---------------------------------------------------------------------------------


@modest
@given(shapes, st.data())
def test_blocks_tile_the_array_exactly(shape, data):
    blocks = Blocks(shape, tuple(data.draw(st.integers(1, 12)) for _ in shape))
    times = np.zeros(shape, int)
    for region in blocks:
        assert region.size > 0
        times[region.slices] += 1
    assert (times == 1).all()
    assert len(list(blocks)) == len(blocks)


@modest
@given(shapes, st.data())
def test_index_and_position_are_inverse_and_in_c_order(shape, data):
    blocks = Blocks(shape, tuple(data.draw(st.integers(1, 12)) for _ in shape))
    expected = list(np.ndindex(*blocks.counts))
    assert [blocks.position(i) for i in range(len(blocks))] == expected
    assert [blocks.index(p) for p in expected] == list(range(len(blocks)))


@pytest.mark.parametrize(
    ("shape", "block"), [((4, 4), (2,)), ((4,), (0,)), ((4, 4), (2, -1)), ((), (1,))]
)
def test_blocks_that_cannot_tile_are_refused(shape, block):
    with pytest.raises(ValueError, match="cannot tile"):
        Blocks(shape, block)


def test_the_unit_of_writing_is_the_shard_where_there_is_one():
    grid = Grid.of((64, 64))
    assert Layout(grid, (8, 8)).unit == (8, 8)
    assert Layout(grid, (8, 8), (32, 16)).unit == (32, 16)
