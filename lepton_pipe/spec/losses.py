"""What conversions lose on request, and floats that are no numbers: counted for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lepton_pipe.spec.types import Place

Box = tuple[slice, ...]


class Lost(NamedTuple):
    """How many voxels were NaN, infinite, or finite and out of range, before a conversion."""

    nan: int = 0
    infinite: int = 0
    out_of_range: int = 0

    def add(self, other: Lost) -> Lost:
        """Return the counts of both together."""
        return Lost(*(a + b for a, b in zip(self, other, strict=True)))


class NotFinite(NamedTuple):
    """How many voxels of an image of floats are NaN, and how many infinite."""

    nan: int = 0
    infinite: int = 0

    def add(self, other: NotFinite) -> NotFinite:
        """Return the counts of both together."""
        return NotFinite(self.nan + other.nan, self.infinite + other.infinite)


@dataclass(frozen=True, slots=True)
class Counting:
    """A kernel of one image that can count what it loses.

    Attributes
    ----------
    applies
        A rule that tells whether there is something to count.
    run
        Called as the kernel is, with `boxes` besides: the parts of the image to count in, which do
        not overlap. Returns what the kernel returns, and `Lost`.
    masks
        Called as the kernel is; returns masks of what is NaN, infinite, and out of range. None
        where that cannot be said voxel by voxel.
    """

    applies: Callable[..., bool]
    run: Callable[..., tuple[Any, Lost]]
    masks: Callable[..., tuple[Any, Any, Any]] | None = None

    def __call__(
        self, args: Mapping[str, Any], place: Place, boxes: Sequence[Box]
    ) -> tuple[Any, Lost]:
        """Convert an array, and count."""
        return self.run(**args, place=place, boxes=boxes)
