"""Objects that were measured on a device: from columns of sums to those of a table.

What the sums are is said in `lepton_pipe.cuda.regions`. Columns are those that the compiled form,
`lepton_pipe.compiled.regions.Objects`, gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.cuda.regions import Rows
from lepton_pipe.device import load
from lepton_pipe.merge.pairs import Floats

_IS_NAN, _IS_INF, _IS_MINUS_INF = 1, 2, 4
_BEFORE_LIMBS = 3


class Objects:
    """What is known of the objects of a block; columns come in the order of their labels.

    Parameters
    ----------
    rows
        Of the objects of a block.
    corner
        The first voxel of the block.
    dtype
        Of the values; None where only the objects' places count.
    """

    def __init__(self, rows: Rows, corner: Sequence[int], dtype: np.dtype[Any] | None) -> None:
        self._labels, self._columns = rows.labels, rows.sums
        self._of_values = self._columns[1 + 3 * len(corner) :]
        self._value_limbs, self._base = rows.value_limbs, rows.base
        # Half floats were made float32 before they were added up.
        self._wide = dtype == np.float64
        self._signed = dtype is not None and dtype.kind == "i"
        self._corner = corner

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of the objects."""
        return self._labels

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of voxels of each object."""
        sizes: NDArray[np.int64] = self._columns[0]
        return sizes

    def positions(self, axis: int) -> NDArray[np.int64]:
        """Return the sum of the positions of an object's voxels along an axis, -1 for the last."""
        sums: NDArray[np.int64] = self._along(axis, 0) + self._corner[axis] * self.sizes()
        return sums

    def extents(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and the last position along an axis, -1 for the last."""
        first, last = (self._along(axis, k) + self._corner[axis] for k in (1, 2))
        return first, last

    def _along(self, axis: int, what: int) -> NDArray[np.int64]:
        ndim = len(self._corner)
        column: NDArray[np.int64] = self._columns[1 + what * ndim + axis % ndim]
        return column

    def integers(
        self,
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], NDArray[Any], NDArray[Any]]:
        """Return sums of integers and of their squares in limbs, the smallest and the largest."""
        _, least, most = self._extremes()
        if self._signed:
            low, high = ((k ^ np.uint64(1 << 63)).view(np.int64) for k in (least, most))
            return *self._limbs(), low, high
        return *self._limbs(), least, most

    def floats(self) -> tuple[Floats, Floats, Floats, Floats, NDArray[Any], NDArray[Any]]:
        """Return pairs for sums of floats and of their squares, the smallest and the largest."""
        odd, least, most = self._extremes()
        unit = self._base - (1075 if self._wide else 150)
        pairs, limbs = load("lepton_pipe.compiled.pairs"), self._of_values[_BEFORE_LIMBS:]
        total, rest = pairs.nearest_pairs(limbs[: self._value_limbs], unit)
        square, more = pairs.nearest_pairs(limbs[self._value_limbs :], 2 * unit)
        nan, above, below = ((odd & k) > 0 for k in (_IS_NAN, _IS_INF, _IS_MINUS_INF))
        for flagged, to_total, to_square in (
            (above, np.inf, np.inf),
            (below, -np.inf, np.inf),
            (nan | (above & below), np.nan, np.inf),
            (nan, np.nan, np.nan),
        ):
            total[flagged], square[flagged] = to_total, to_square
            rest[flagged] = more[flagged] = np.nan
        low, high = (np.where(nan, np.nan, self._floats_of(k)) for k in (least, most))
        return total, rest, square, more, low, high

    def _extremes(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
        odd, least, most = self._of_values[:_BEFORE_LIMBS]
        return odd, least.view(np.uint64), most.view(np.uint64)

    def _limbs(self) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        limbs = list(self._of_values[_BEFORE_LIMBS:])
        return limbs[: self._value_limbs], limbs[self._value_limbs :]

    def _floats_of(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return the floats whose order is that of keys."""
        bits = 64 if self._wide else 32
        sign = np.uint64(1 << (bits - 1))
        plain = np.where(keys & sign, keys ^ sign, ~keys & np.uint64(2**bits - 1))
        if bits == 64:
            return plain.view(np.float64)
        return plain.astype(np.uint32).view(np.float32)
