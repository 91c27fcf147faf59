"""Joining the labels of blocks into the labels of the image, exactly.

Every block labels the voxels that it owns *and* a shell of one voxel on the high side of each
axis. The shell's voxels are labelled again by the blocks that own them, so one voxel carries a
label from each of several blocks; these labels belong to one object. Nothing else is needed::

      block A           block B            A labels the columns 0..4, of which it owns 0..3;
    +---------+                            B owns 4.. and labels column 4 as well.
    | . a a a | a       b b . . |          The voxel at column 4 is `a` to A and `b` to B:
    | . . . . | .       . c . . |          the object a of A is the object b of B.
    +---------+
      0 1 2 3   4       4 5 6 7

Why this is all of it, for every connectivity: let p and q be neighbours in different blocks, and
take the block A at the lower end on every axis, that is the one that holds the smaller coordinate
of p and q on each axis. Both coordinates differ by at most one, so p and q both lie in A or in its
shell, and A gives them the same label. And A's label of p is joined to that of p's owner by going
from A to the owner one axis at a time: two blocks that are neighbours along one axis both label
the plane between them, shell voxels on the other axes included. So comparing planes along single
axes covers edges and corners too.

Planes are compared as soon as two partials that hold both are combined, and then dropped: what a
partial carries grows with its surface, not with the number of its blocks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.merge.slabs import row_index, runs, slabs
from lepton_pipe.spec.types import PerBlock, Place

Position = tuple[int, ...]
"""Where a block starts, in voxels: its name among blocks."""


class Fragment(NamedTuple):
    """The objects of one block.

    ``size[i]`` is the number of owned voxels with label `i`, and ``first[i]`` the smallest index
    of them in the flattened image; the entry 0 is the background's. A label that lies in the
    shell alone has size 0.
    """

    start: Position
    size: NDArray[np.int64]
    first: NDArray[np.int64]


class Face(NamedTuple):
    """The labels of one plane of a block's read region, compressed."""

    start: Position
    labels: bytes


class Pairs(NamedTuple):
    """Labels of two blocks that stand for the same objects: ``(low, high)`` in each row."""

    low: Position
    high: Position
    labels: NDArray[np.int64]


@dataclass(slots=True)
class Fragments:
    """A partial of labelling: what is known of some of the blocks.

    Attributes
    ----------
    blocks
        The objects of each block.
    pairs
        The labels already known to be the same.
    above, below
        Planes whose other side is not among `blocks` yet, by axis and by the start of the block
        on the high side: seen from the low side (its shell), and from the high side.
    """

    blocks: list[Fragment] = field(default_factory=list)
    pairs: list[Pairs] = field(default_factory=list)
    above: dict[tuple[int, Position], Face] = field(default_factory=dict)
    below: dict[tuple[int, Position], Face] = field(default_factory=dict)


class JoinedLabels(PerBlock):
    """For every block, a table from its own labels to the labels of the whole image.

    Attributes
    ----------
    count
        Number of objects in the image; they are numbered 1 to `count`.
    """

    def __init__(self, tables: NDArray[np.int64], offsets: NDArray[np.int64], count: int) -> None:
        self._tables = tables
        self._offsets = offsets
        self.count = count

    def __repr__(self) -> str:
        return f"<{self.count} objects in {len(self._offsets) - 1} blocks>"

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def part(self, index: int) -> NDArray[np.int64]:
        """Return the table of block `index`, with 0 for the background and dropped objects."""
        return self._tables[self._offsets[index] : self._offsets[index + 1]]

    def summary(self) -> dict[str, Any]:
        """Return what a report says of this value."""
        return {"count": self.count}


def describe(labels: NDArray[np.uint32], count: int, place: Place) -> Fragments:
    """Return the partial of one block.

    Parameters
    ----------
    labels
        The block's own labels, 1 to `count`, of its read region: the write region and one voxel
        more on the high side of each spatial axis that does not end there.
    count
        Number of labels.
    """
    start = place.write.start
    size = np.zeros(count + 1, np.int64)
    first = np.full(count + 1, np.iinfo(np.int64).max)
    owned = labels[place.inner]
    for part in slabs(owned.shape):
        _measure(np.ascontiguousarray(owned[part]), start, part, place, size, first)
    result = Fragments([Fragment(start, size, first)])
    for axis in place.grid.spatial:
        if start[axis] > 0:
            result.below[axis, start] = Face(start, _pack(labels, axis, 0))
        stop = place.write.stop[axis]
        if stop < place.grid.shape[axis]:
            above = (*start[:axis], stop, *start[axis + 1 :])
            result.above[axis, above] = Face(start, _pack(labels, axis, stop - start[axis]))
    return result


def _measure(
    labels: NDArray[np.uint32],
    start: Position,
    part: tuple[slice, ...],
    place: Place,
    size: NDArray[np.int64],
    first: NDArray[np.int64],
) -> None:
    corner = [a + s.start for a, s in zip(start, part, strict=True)]
    at, label, length = runs(labels)
    kept = np.flatnonzero(label)
    at, label, length = at[kept], label[kept].astype(np.intp), length[kept]
    row, x = np.divmod(at, labels.shape[-1])
    index = row_index(corner, labels.shape, place.grid.shape)[row] + x
    np.add.at(size, label, length)
    np.minimum.at(first, label, index)


def _pack(labels: NDArray[np.uint32], axis: int, index: int) -> bytes:
    return zlib.compress(np.take(labels, index, axis).astype("<u4").tobytes(), 1)


def gather(a: Fragments, b: Fragments) -> Fragments:
    """Put two partials together, into `a`; compare the planes between them."""
    for above, below in ((a.above, b.below), (b.above, a.below)):
        for key in sorted(above.keys() & below.keys()):
            a.pairs.append(_compare(above.pop(key), below.pop(key)))
    a.blocks += b.blocks
    a.pairs += b.pairs
    a.above |= b.above
    a.below |= b.below
    return a


def _compare(low: Face, high: Face) -> Pairs:
    a = np.frombuffer(zlib.decompress(low.labels), "<u4").astype(np.int64)
    b = np.frombuffer(zlib.decompress(high.labels), "<u4").astype(np.int64)
    if a.shape != b.shape or not np.array_equal(a > 0, b > 0):
        raise ValueError(
            f"the blocks at {low.start} and {high.start} see different objects on the plane that "
            "both read: what the labels are made from depends on where blocks are cut, so they "
            "cannot be joined; check the depth= of the kernels before label"
        )
    pairs = (a << 32 | b)[a > 0]
    if pairs.size:
        # Neighbours along the plane mostly repeat the pair: drop these before sorting.
        pairs = np.unique(pairs[np.flatnonzero(np.diff(pairs, prepend=-1))])
    return Pairs(low.start, high.start, np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1))


def join(fragments: Fragments, min_size: int = 0) -> JoinedLabels:
    """Join the labels of all blocks.

    Objects of fewer than `min_size` voxels are dropped, the others numbered from 1 in the order
    of their first voxels, so that the numbers do not depend on how the image was cut. Takes
    about 50 bytes for each label of each block, for a moment.

    Raises
    ------
    ValueError
        When a block is missing.
    """
    if fragments.above or fragments.below:
        missing = sorted(fragments.above | fragments.below)[0][1]
        raise ValueError(f"a block at or beside {missing} gave no labels; objects cannot be joined")
    blocks = sorted(fragments.blocks, key=lambda b: b.start)
    offsets = np.cumsum([0, *(b.size.size for b in blocks)], dtype=np.int64)
    offset = {b.start: int(o) for b, o in zip(blocks, offsets, strict=False)}
    size = np.concatenate([b.size for b in blocks])
    first = np.concatenate([b.first for b in blocks])
    same = [p.labels + np.array([offset[p.low], offset[p.high]]) for p in fragments.pairs]
    root = np.arange(size.size)
    if same:
        nodes, roots = connect(np.concatenate(same))
        root[nodes] = roots
        moved = nodes != roots
        np.add.at(size, roots[moved], size[nodes[moved]])
        np.minimum.at(first, roots[moved], first[nodes[moved]])
    objects = np.flatnonzero((size >= max(1, min_size)) & (root == np.arange(root.size)))
    objects = objects[np.argsort(first[objects])]
    number = np.zeros(root.size, np.int64)
    number[objects] = np.arange(1, objects.size + 1)
    return JoinedLabels(number[root], offsets, objects.size)


def connect(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the connected components of a graph.

    Parameters
    ----------
    pairs
        Edges between nodes, ``(n, 2)``; any integers >= 0.

    Returns
    -------
    nodes, roots
        Every node that has an edge, in order, and the smallest node of its component.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(pairs.shape)
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (nodes.size,) * 2)
    count, component = connected_components(graph, directed=False)
    smallest = np.empty(count, np.int64)
    smallest[component[::-1]] = nodes[::-1]
    return nodes, smallest[component]
