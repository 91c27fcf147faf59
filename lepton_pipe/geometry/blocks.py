"""A grid cut into blocks, numbered in the order in which they are run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lepton_pipe.geometry.region import Region


@dataclass(frozen=True, slots=True)
class Blocks:
    """An array of `shape` cut into blocks of shape `block`; the last along an axis is cut short.

    Attributes
    ----------
    order
        Axes from the slowest to the fastest in the numbering; empty for C order.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.block) or any(b < 1 for b in self.block):
            raise ValueError(f"blocks of {self.block} cannot tile an array of {self.shape}")
        if self.order and sorted(self.order) != list(range(len(self.shape))):
            raise ValueError(f"order {self.order} does not name each axis of {self.shape} once")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    @property
    def _axes(self) -> tuple[int, ...]:
        return self.order or tuple(range(len(self.shape)))

    def position(self, index: int) -> tuple[int, ...]:
        """Return the place of block `index` along each axis."""
        counts = self.counts
        place = [0] * len(counts)
        for axis in reversed(self._axes):
            index, place[axis] = divmod(index, counts[axis])
        return tuple(place)

    def index(self, position: tuple[int, ...]) -> int:
        """Return the number of the block at `position`; the inverse of `position`."""
        index, counts = 0, self.counts
        for axis in self._axes:
            index = index * counts[axis] + position[axis]
        return index

    def in_c_order(self, index: int) -> int:
        """Return the number that block `index` has in C order."""
        return Blocks(self.shape, self.block).index(self.position(index))

    def region(self, index: int) -> Region:
        """Return the write region of block `index`."""
        start = tuple(i * b for i, b in zip(self.position(index), self.block, strict=True))
        return Region(
            start,
            tuple(min(a + b, n) for a, b, n in zip(start, self.block, self.shape, strict=True)),
        )

    def __iter__(self) -> Iterator[Region]:
        return (self.region(i) for i in range(len(self)))
