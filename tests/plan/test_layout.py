from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.geometry import Blocks, Grid
from lepton_pipe.plan.layout import CHUNK_VOXELS, choose_layout, pyramid, scale_factors

modest = settings(max_examples=100, deadline=None)


@st.composite
def grids(draw):
    axes = draw(st.sampled_from(["x", "yx", "zyx", "cyx", "tzyx", "tczyx", "tc"]))
    shape = [draw(st.integers(1, 4000) if a in "zyx" else st.integers(1, 9)) for a in axes]
    scale = [draw(st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 5.0])) for _ in axes]
    return Grid.of(shape, axes, scale)


@modest
@given(grids(), st.data())
def test_chunks_lie_inside_the_image_and_shards_are_whole_chunks(grid, data):
    hint = data.draw(
        st.none() | st.tuples(*(st.integers(1, 2 * n) for n in grid.shape)), label="hint"
    )
    layout = choose_layout(grid, hint)
    assert all(1 <= c <= n for c, n in zip(layout.chunks, grid.shape, strict=True))
    assert prod(layout.chunks) <= 2**23
    if layout.shards is not None:
        assert all(s % c == 0 for s, c in zip(layout.shards, layout.chunks, strict=True))
        assert layout.shards != layout.chunks
        assert prod(layout.shards) < 2 * CHUNK_VOXELS


@modest
@given(grids())
def test_chunks_are_never_cut_across_time_or_channels(grid):
    layout = choose_layout(grid)
    for axis, name in enumerate(grid.axes):
        if name in "tc":
            assert layout.chunks[axis] == 1


@pytest.mark.parametrize(
    ("shape", "chunks", "shards"),
    [
        ((512, 2048, 2048), (64, 128, 128), None),
        ((20_000, 20_000), (1024, 1024), None),
        ((3, 4, 100, 2000, 2000), (1, 1, 64, 128, 128), None),
        ((10, 10), (10, 10), None),
    ],
)
def test_chunks_without_a_hint(shape, chunks, shards):
    layout = choose_layout(Grid.of(shape))
    assert (layout.chunks, layout.shards) == (chunks, shards)


def test_small_images_have_enough_chunks_for_every_core():
    grid = Grid.of((2048, 2048))
    assert len(Blocks(grid.shape, choose_layout(grid).chunks)) >= 32


def test_the_chunks_of_the_input_are_kept_when_they_have_a_sensible_size():
    grid = Grid.of((300, 3000, 3000))
    assert choose_layout(grid, (30, 300, 300)).chunks == (30, 300, 300)
    for hint in [(1, 1, 3000), (300, 3000, 3000)]:
        assert choose_layout(grid, hint).chunks == choose_layout(grid).chunks


def test_chunks_so_small_that_they_would_be_many_files_are_sharded():
    grid = Grid.of((512, 2048, 2048))
    layout = choose_layout(grid, (32, 32, 32))
    assert layout.chunks == (32, 32, 32)
    assert layout.shards == layout.unit == (128, 128, 64)
    few = Grid.of((64, 128, 128))
    assert choose_layout(few, (32, 32, 32)).shards is None


def test_planes_so_small_that_they_would_be_many_files_share_shards():
    stack = Grid.of((2000, 512, 512), "tyx")
    assert choose_layout(stack, (1, 512, 512)).shards == (4, 512, 512)
    channels = Grid.of((500, 3, 512, 512), "tcyx")
    assert choose_layout(channels, (1, 1, 512, 512)).shards == (1, 4, 512, 512)
    assert choose_layout(Grid.of((900, 512, 512), "tyx"), (1, 512, 512)).shards is None


def test_tiling_is_taken_as_it_is_and_cut_to_the_image():
    layout = choose_layout(Grid.of((5, 90, 100)), (1, 2, 3), {"y": 7, "x": 1000})
    assert (layout.chunks, layout.shards) == ((5, 7, 100), None)


# -- scale levels ---------------------------------------------------------------------------


@modest
@given(grids())
def test_levels_end_when_the_image_fits_a_screen_and_only_space_is_halved(grid):
    levels = pyramid(grid)
    spatial = grid.spatial
    for finer, coarser in pairwise(levels):
        assert max((finer.grid.shape[i] for i in spatial), default=0) > 256
        for axis in range(grid.ndim):
            halved = -(-finer.grid.shape[axis] // 2)
            allowed = (
                (finer.grid.shape[axis], halved) if axis in spatial else grid.shape[axis : axis + 1]
            )
            assert coarser.grid.shape[axis] in allowed
    assert max((levels[-1].grid.shape[i] for i in spatial), default=0) <= 256
    assert levels[0] == choose_layout(grid)
    assert levels == pyramid(grid)


@modest
@given(grids())
def test_voxels_become_cubes_and_stay_so(grid):
    for factors in scale_factors(grid):
        long = [i for i in grid.spatial if grid.shape[i] > 1]
        before = max(grid.scale[i] for i in long) / min(grid.scale[i] for i in long)
        grid = grid.coarsen(factors)
        after = max(grid.scale[i] for i in long) / min(grid.scale[i] for i in long)
        assert after <= max(before, 2)


def test_factors_of_flat_voxels():
    grid = Grid.of((100, 2048, 2048), "zyx", (2.0, 0.5, 0.5))
    assert scale_factors(grid) == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert scale_factors(Grid.of((256, 256))) == ()
    assert scale_factors(Grid.of((257, 3))) == ((2, 2),)
    assert scale_factors(Grid.of((1, 1024))) == ((1, 2), (1, 2))
