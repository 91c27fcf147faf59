"""Counts that travel: without the zeros at either end, in as few bytes as hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tally:
    """A row of counts.

    The counts of a block of 8 million voxels over 65536 numbers take 512 KiB as they are; those of
    a usual image, whose values lie close together, take a few.

    Attributes
    ----------
    size
        Length of the whole row.
    first
        Where `counts` begin in it; all others are 0.
    counts
        Of the smallest unsigned dtype that holds them.
    """

    size: int
    first: int
    counts: NDArray[Any]

    @classmethod
    def of(cls, counts: NDArray[Any], first: int = 0, size: int | None = None) -> Tally:
        """Return the tally of counts that begin at `first` of a row of `size`."""
        found = counts != 0
        low = high = 0
        if found.any():
            low, high = int(found.argmax()), counts.size - int(found[::-1].argmax())
        kept = counts[low:high]
        dtype = np.min_scalar_type(int(kept.max(initial=0)))
        return cls(counts.size if size is None else size, first + low, kept.astype(dtype))

    def __add__(self, other: Tally) -> Tally:
        """Return the sum of two rows of one size."""
        first = min(self.first, other.first)
        stop = max(self._stop, other._stop)
        total = np.zeros(stop - first, np.int64)
        for tally in (self, other):
            total[tally.first - first : tally._stop - first] += tally.counts.astype(np.int64)
        return Tally.of(total, first, self.size)

    @property
    def _stop(self) -> int:
        return self.first + self.counts.size

    def whole(self) -> NDArray[np.int64]:
        """Return the whole row."""
        row = np.zeros(self.size, np.int64)
        row[self.first : self._stop] = self.counts
        return row
