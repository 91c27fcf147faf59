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
partial carries grows with its surface, not with the number of its blocks. Both blocks see the same
mask there, so what is kept of a plane is one label for each run of foreground, in order, and a
digest of where the runs lie.

When all is joined, a block is labelled once more, its owned voxels alone. Without the shell it may
fall into more components; ``Fragment.own`` says which of the labels above each of them is.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.geometry import Grid
from lepton_pipe.merge.slabs import row_index, runs, slabs
from lepton_pipe.spec.types import PerBlock, Place

Position = tuple[int, ...]
"""Where a block starts, in voxels: its name among blocks."""


class Fragment(NamedTuple):
    """The objects of one block.

    Attributes
    ----------
    start, shape
        The voxels it owns.
    size
        Number of owned voxels with each label; 0 for the background, 0, and for a label that lies
        in the shell alone.
    first
        The smallest index of them in the flattened block; anything where there are none.
    own
        For each label of the owned voxels by themselves, the label of the object.
    """

    start: Position
    shape: tuple[int, ...]
    size: NDArray[np.signedinteger[Any]]
    first: NDArray[np.signedinteger[Any]]
    own: NDArray[np.signedinteger[Any]]


class Face(NamedTuple):
    """One plane of a block's read region.

    Attributes
    ----------
    start
        Of the block.
    digest
        Of where the runs of foreground lie; empty where nothing is known of the block.
    labels
        Their labels, compressed.
    """

    start: Position
    digest: bytes
    labels: bytes


Faces = dict[tuple[int, Position], Face]
"""Planes by axis and by the start of the block on their high side."""


class Pairs(NamedTuple):
    """Labels of two blocks that stand for the same objects: ``(low, high)`` in each row."""

    low: Position
    high: Position
    labels: NDArray[np.uint32]


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
        Planes whose other side is not among `blocks` yet: seen from the low side (its shell), and
        from the high side.
    """

    blocks: list[Fragment] = field(default_factory=list)
    pairs: list[Pairs] = field(default_factory=list)
    above: Faces = field(default_factory=dict)
    below: Faces = field(default_factory=dict)


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


def describe(labels: NDArray[Any], own: NDArray[Any], place: Place) -> Fragments:
    """Return the partial of one block from images of its labels.

    Parameters
    ----------
    labels
        The block's labels of its read region: the write region and one voxel more on the high
        side of each spatial axis that does not end there. Integers from 1.
    own
        For each label of the write region by itself, from 0, the label in `labels`.
    """
    count = int(labels.max(initial=0))
    owned = labels[place.inner]
    size = np.zeros(count + 1, np.int64)
    first = np.full(count + 1, owned.size)
    for part in slabs(owned.shape):
        at, label, length = runs(np.ascontiguousarray(owned[part]))
        kept = np.flatnonzero(label)
        np.add.at(size, label[kept], length[kept])
        shape = tuple(s.stop - s.start for s in part)
        row, x = np.divmod(at[kept], shape[-1])
        index = row_index([s.start for s in part], shape, owned.shape)[row] + x
        np.minimum.at(first, label[kept], index)
    block = Fragment(place.write.start, place.write.shape, size, first, own)
    above, below = faces(place, lambda axis, index: np.take(labels, index, axis))
    return Fragments([block], [], above, below)


def faces(place: Place, plane: Callable[[int, int], NDArray[Any]]) -> tuple[Faces, Faces]:
    """Return the planes of a block that its neighbours label as well.

    Parameters
    ----------
    plane
        Called with a spatial axis and an index into the read region; returns the labels there.

    Returns
    -------
    above, below
        As in `Fragments`.
    """
    start = place.write.start
    # With one spatial axis, neighbours on a plane are not neighbours of any object.
    rows = len(place.grid.spatial) > 1
    return _faces(place, lambda axis, index: _face(start, plane(axis, index), rows))


def _faces(place: Place, face: Callable[[int, int], Face]) -> tuple[Faces, Faces]:
    above: Faces = {}
    below: Faces = {}
    start, stop = place.write.start, place.write.stop
    for axis in place.grid.spatial:
        if start[axis] > 0:
            below[axis, start] = face(axis, 0)
        if stop[axis] < place.grid.shape[axis]:
            beyond = (*start[:axis], stop[axis], *start[axis + 1 :])
            above[axis, beyond] = face(axis, stop[axis] - start[axis])
    return above, below


def _face(start: Position, plane: NDArray[Any], rows: bool) -> Face:
    at, label, length = runs(np.ascontiguousarray(plane if rows else plane[..., None]))
    kept = np.flatnonzero(label)
    where = np.stack([at[kept], length[kept]]).astype("<i8")
    digest = hashlib.blake2b(where.tobytes(), digest_size=16).digest()
    return Face(start, digest, zlib.compress(label[kept].astype("<u4").tobytes(), 1))


def absent(place: Place) -> Fragments:
    """Return the partial of a block of which nothing is known: it has no objects.

    Its neighbours' objects end at its faces, whatever they see of it.
    """
    none = np.zeros(1, np.int64)
    block = Fragment(place.write.start, place.write.shape, none, none, none)
    above, below = _faces(place, lambda _axis, _index: Face(place.write.start, b"", b""))
    return Fragments([block], [], above, below)


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
    if not (low.digest and high.digest):
        return Pairs(low.start, high.start, np.empty((0, 2), np.uint32))
    if low.digest != high.digest:
        raise ValueError(
            f"the blocks at {low.start} and {high.start} see different objects on the plane that "
            "both read: what the labels are made from depends on where blocks are cut, so they "
            "cannot be joined; check the depth= of the kernels before label"
        )
    a = np.frombuffer(zlib.decompress(low.labels), "<u4").astype(np.int64)
    b = np.frombuffer(zlib.decompress(high.labels), "<u4").astype(np.int64)
    pairs = a << 32 | b
    if pairs.size:
        # Neighbours along the plane mostly repeat the pair: drop these before sorting.
        pairs = np.unique(pairs[np.flatnonzero(np.diff(pairs, prepend=-1))])
    both = np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1).astype(np.uint32)
    return Pairs(low.start, high.start, both)


def join(fragments: Fragments, grid: Grid, min_size: int = 0) -> JoinedLabels:
    """Join the labels of all blocks.

    Objects of fewer than `min_size` voxels are dropped, the others numbered from 1 in the order
    of their first voxels, so that the numbers do not depend on how the image was cut. Takes
    about 70 bytes for each label of each block, for a moment.

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
    root = np.arange(offsets[-1])
    size = np.concatenate([b.size for b in blocks]).astype(np.int64)
    first = np.concatenate([_in_image(b, grid) for b in blocks])
    offset = {b.start: int(o) for b, o in zip(blocks, offsets, strict=False)}
    same = [p.labels + np.array([offset[p.low], offset[p.high]]) for p in fragments.pairs]
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
    own = np.concatenate([b.own + o for b, o in zip(blocks, offsets, strict=False)])
    parts = np.cumsum([0, *(b.own.size for b in blocks)], dtype=np.int64)
    return JoinedLabels(number[root[own]], parts, objects.size)


def _in_image(block: Fragment, grid: Grid) -> NDArray[np.int64]:
    """Return the smallest indices of the labels of a block in the flattened image."""
    rest = block.first.astype(np.int64)
    index, stride = np.zeros_like(rest), 1
    for a, n, whole in zip(*map(reversed, (block.start, block.shape, grid.shape)), strict=True):
        rest, at = np.divmod(rest, max(1, n))
        index += (at + a) * stride
        stride *= whole
    # A label of the shell alone must not lower what it is joined to.
    index[block.size == 0] = np.iinfo(np.int64).max
    return index


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
