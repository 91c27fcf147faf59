from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.geometry import Blocks, Grid
from lepton_pipe.merge.labels import connect, describe, gather, join
from lepton_pipe.spec import Place


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_connect_gives_the_smallest_node_of_each_component(edges):
    root = {n: n for pair in edges for n in pair}
    for _ in root:
        for a, b in edges:
            root[a] = root[b] = min(root[a], root[b])
    nodes, roots = connect(np.array(edges))
    assert nodes.tolist() == sorted(root)
    assert roots.tolist() == [root[n] for n in sorted(root)]


def test_connect_takes_node_numbers_beyond_32_bits():
    nodes, roots = connect(np.array([[2**40, 2**41], [2**41, 7]]))
    assert nodes.tolist() == [7, 2**40, 2**41]
    assert roots.tolist() == [7, 7, 7]


def parts(labels, block):
    """Partials of blocks that were all labelled alike: their numbers are those of the image."""
    grid = Grid.of(labels.shape)
    result = []
    for write in Blocks(labels.shape, block):
        place = Place(write.grow(((0, 1),) * labels.ndim, labels.shape), write, grid)
        block = labels[place.read.slices]
        result.append(describe(block, np.arange(block.max() + 1), place))
    return result


LABELS = np.array(
    [
        [0, 3, 3, 3, 0, 0],
        [0, 0, 0, 3, 0, 2],
        [1, 1, 0, 0, 2, 2],
        [0, 1, 0, 0, 0, 2],
    ],
    np.uint32,
)
GRID = Grid.of(LABELS.shape)


def test_objects_are_numbered_by_their_first_voxels():
    joined = join(functools.reduce(gather, parts(LABELS, (2, 2))), GRID)
    assert joined.count == 3
    assert len(joined) == 6
    # Block 1 holds a part of object 3 of the image, the first in C order.
    assert joined.part(1)[3] == 1
    assert joined.part(2)[2] == 2
    assert joined.part(3)[1] == 3


def test_sizes_count_every_voxel_once():
    fragments = parts(LABELS, (2, 2))
    size = [np.pad(f.blocks[0].size, (0, 4 - len(f.blocks[0].size))) for f in fragments]
    assert sum(size)[1:].tolist() == [3, 4, 4]
    assert join(functools.reduce(gather, parts(LABELS, (2, 2))), GRID, min_size=4).count == 2
    assert join(functools.reduce(gather, parts(LABELS, (2, 2))), GRID, min_size=5).count == 0


def test_any_tree_and_order_of_combining_gives_the_same_tables():
    expected = join(functools.reduce(gather, parts(LABELS, (2, 2))), GRID)
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 37):
        blocks = parts(LABELS, (2, 2))
        left = functools.reduce(gather, [blocks[i] for i in order[:3]])
        right = functools.reduce(gather, [blocks[i] for i in order[3:]])
        joined = join(gather(left, right), GRID)
        for i in range(6):
            np.testing.assert_array_equal(joined.part(i), expected.part(i))


def test_planes_that_nobody_answered_are_noticed():
    with pytest.raises(ValueError, match=r"beside \(0, 2\)"):
        join(parts(LABELS, (4, 2))[0], GRID)
