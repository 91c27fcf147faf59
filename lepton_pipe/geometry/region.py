"""Boxes of voxels, in pure integers.

read region   +-------------------+
              |   depth           |
              |   +-----------+   |
              |   |  write    |   |      the write region is what a task alone owns;
              |   |  region   |   |      the read region adds the depth, cut at the
              |   +-----------+   |      array's edge so that kernels see the true edge
              +-------------------+
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

Depth = tuple[tuple[int, int], ...]
"""Overlap in voxels per axis, as ``(low side, high side)``."""


def no_depth(ndim: int) -> Depth:
    """Return a depth of zero on every side of `ndim` axes."""
    return ((0, 0),) * ndim


def symmetric_depth(voxels: Iterable[int]) -> Depth:
    """Return the depth with the same overlap on both sides of each axis."""
    return tuple((int(n), int(n)) for n in voxels)


@dataclass(frozen=True, slots=True)
class Region:
    """A half-open box ``start <= voxel < stop``, in voxels of one grid."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Region:
        """Return the region that covers an array of `shape`."""
        return cls((0,) * len(shape), tuple(shape))

    @classmethod
    def hull(cls, regions: Sequence[Region]) -> Region:
        """Return the smallest region that contains every one of `regions` (at least one)."""
        if len(regions) == 1:  # nearly always: an image that one step needs
            return regions[0]
        starts = zip(*(r.start for r in regions), strict=True)
        stops = zip(*(r.stop for r in regions), strict=True)
        return cls(tuple(map(min, starts)), tuple(map(max, stops)))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis; never negative."""
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The region as an index into the whole array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def grow(self, depth: Depth, shape: Sequence[int]) -> Region:
        """Return the region with `depth` added, cut at the edges of an array of `shape`."""
        return Region(
            tuple(max(0, a - lo) for a, (lo, _) in zip(self.start, depth, strict=True)),
            tuple(min(n, b + hi) for b, (_, hi), n in zip(self.stop, depth, shape, strict=True)),
        )

    def shift(self, offset: Sequence[int]) -> Region:
        """Return the region moved by `offset` voxels."""
        return Region(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def intersect(self, other: Region) -> Region:
        """Return the voxels in both regions; its shape has a zero where there are none."""
        return Region(
            tuple(map(max, self.start, other.start)), tuple(map(min, self.stop, other.stop))
        )

    def contains(self, other: Region) -> bool:
        """Tell whether every voxel of `other` lies in this region."""
        return all(map(int.__le__, self.start, other.start)) and all(
            map(int.__ge__, self.stop, other.stop)
        )

    def inside(self, outer: Region) -> tuple[slice, ...]:
        """Return the index that cuts this region out of an array covering `outer`."""
        return self.shift(tuple(-a for a in outer.start)).slices

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"
