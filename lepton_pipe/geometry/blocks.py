"""A grid cut into blocks, numbered in C order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lepton_pipe.geometry.region import Region


@dataclass(frozen=True, slots=True)
class Blocks:
    """An array of `shape` cut into blocks of shape `block`; the last along an axis is cut short."""

    shape: tuple[int, ...]
    block: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.block) or any(b < 1 for b in self.block):
            raise ValueError(f"blocks of {self.block} cannot tile an array of {self.shape}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    def position(self, index: int) -> tuple[int, ...]:
        """Return the place of block `index` along each axis."""
        place = []
        for count in reversed(self.counts):
            index, i = divmod(index, count)
            place.append(i)
        return tuple(reversed(place))

    def index(self, position: tuple[int, ...]) -> int:
        """Return the number of the block at `position`; the inverse of `position`."""
        index = 0
        for i, count in zip(position, self.counts, strict=True):
            index = index * count + i
        return index

    def region(self, index: int) -> Region:
        """Return the write region of block `index`."""
        start = tuple(i * b for i, b in zip(self.position(index), self.block, strict=True))
        return Region(
            start,
            tuple(min(a + b, n) for a, b, n in zip(start, self.block, self.shape, strict=True)),
        )

    def __iter__(self) -> Iterator[Region]:
        return (self.region(i) for i in range(len(self)))
