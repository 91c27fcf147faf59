"""What is planned of a cache of decoded chunks, against a cache that is followed block by block."""

from __future__ import annotations

from collections import OrderedDict
from itertools import product
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.geometry import Grid
from lepton_pipe.plan import Stage
from lepton_pipe.plan.reuse import LOOK_AT, Touches, block_order, cache_sizes, touches


def stage_of(shape, block):
    grid = Grid.of(shape)
    order = block_order(grid, block)
    return Stage(0, "s", grid, block, (), (), (), (), (), order=order)


def decodes(stage, chunks, depth, capacity):
    """Count decodes with a cache that drops what was used least recently."""
    held, count = OrderedDict(), 0
    for block in stage.blocks:
        read = block.grow(tuple((d, d) for d in depth), stage.grid.shape)
        ranges = [
            range(a // c, -(-b // c)) for a, b, c in zip(read.start, read.stop, chunks, strict=True)
        ]
        # As they are read: those first that are held.
        for chunk in sorted(product(*ranges), key=lambda chunk: chunk not in held):
            if chunk not in held:
                count += 1
            held[chunk] = None
            held.move_to_end(chunk)
            while len(held) > capacity:
                held.popitem(last=False)
    return count


@st.composite
def stages(draw):
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 40)) for _ in range(ndim))
    block = tuple(draw(st.integers(1, n)) for n in shape)
    if prod(-(-n // b) for n, b in zip(shape, block, strict=True)) > 400:
        block = shape
    chunks = tuple(draw(st.integers(1, n)) for n in shape)
    depth = tuple(draw(st.integers(0, 6)) for _ in range(ndim))
    return stage_of(shape, block), chunks, depth


@settings(max_examples=60, deadline=None)
@given(stages())
def test_each_planned_size_of_cache_decodes_no_more_than_planned(case):
    stage, chunks, depth = case
    grow = tuple((d, d) for d in depth)
    shape = stage.grid.shape
    found = touches(stage, chunks, lambda b: b.grow(grow, shape), range(len(shape)))
    sampled = any(n > 2 * LOOK_AT for n in stage.blocks.counts)
    sizes = cache_sizes(stage.blocks.order, found)
    assert [s.decodes for s in sizes] == sorted({s.decodes for s in sizes}, reverse=True)
    assert sizes[-1].decodes == prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    for size in sizes[:1] if sampled else sizes:
        # A cache drops what was touched longest ago, also within one block.
        room = size.chunks + prod(t.most for t in found) if size.chunks else 0
        counted = decodes(stage, chunks, depth, room)
        assert counted <= size.decodes or sampled


def test_a_cache_as_large_as_planned_is_enough_for_filters_and_for_planes_of_bricks():
    cases = [
        (stage_of((256, 1408, 1536), (64, 256, 256)), (64, 256, 256), (4, 8, 8)),
        (stage_of((256, 1408, 1536), (64, 256, 256)), (64, 256, 256), (1, 1, 1)),
        (stage_of((256, 1408, 1536), (2, 1408, 1536)), (64, 256, 256), (0, 0, 0)),
        (stage_of((256, 1408, 1536), (128, 128, 256)), (64, 256, 256), (9, 9, 9)),
        (stage_of((4000, 5000), (512, 512)), (256, 256), (20, 20)),
    ]
    for stage, chunks, depth in cases:
        shape, grow = stage.grid.shape, tuple((d, d) for d in depth)
        found = touches(stage, chunks, lambda b, g=grow, s=shape: b.grow(g, s), range(len(shape)))
        for size in cache_sizes(stage.blocks.order, found)[1:]:
            assert decodes(stage, chunks, depth, size.chunks) <= size.decodes


def test_without_a_cache_what_blocks_share_is_decoded_by_each():
    stage = stage_of((64, 64), (16, 16))
    found = touches(stage, (16, 16), lambda b: b.grow(((1, 1), (1, 1)), (64, 64)), range(2))
    assert found == (Touches(every=10, once=4, most=3),) * 2
    assert [(s.chunks, s.decodes) for s in cache_sizes((0, 1), found)] == [
        (0, 100),
        (9, 40),
        (15, 16),
    ]


def test_the_axis_with_most_blocks_is_the_slowest_and_time_slower_still():
    grid = Grid.of((3, 40, 1000, 200), axes="tzyx")
    assert block_order(grid, (1, 10, 100, 100)) == (0, 2, 1, 3)


def test_every_block_has_one_number_in_any_order():
    stage = stage_of((50, 70, 30), (20, 10, 30))
    blocks = stage.blocks
    assert [blocks.index(blocks.position(i)) for i in range(len(blocks))] == list(
        range(len(blocks))
    )
    assert sorted(blocks.in_c_order(i) for i in range(len(blocks))) == list(range(len(blocks)))
    covered = np.zeros((50, 70, 30), int)
    for region in blocks:
        covered[region.slices] += 1
    assert (covered == 1).all()
