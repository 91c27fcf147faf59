"""What flows along the edges of a pipeline: the types of images, values and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lepton_pipe.geometry import Grid, Region

ImageKind = Literal["image", "mask", "labels"]


@dataclass(frozen=True, slots=True)
class ImageType:
    """Grid, dtype and meaning of an image.

    ``kind`` is ``"labels"`` for integer objects, ``"mask"`` for booleans, else ``"image"``. It
    decides how scale levels are made (labels are never averaged) and what metadata is written.
    """

    grid: Grid
    dtype: np.dtype[Any]
    kind: ImageKind = "image"

    def to_json(self) -> dict[str, Any]:
        """Return the type as plain data."""
        return {"image": self.grid.to_json(), "dtype": self.dtype.str, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class ValueType:
    """A number or a small array, known only when its reduction has run.

    A scalar is a Python ``bool``, ``int`` or ``float`` when computed, so that it takes part in
    NumPy's promotion like a literal: ``uint8_image + minimum_of(image)`` stays ``uint8``.

    Attributes
    ----------
    dtype
        NumPy's name of the dtype.
    shape
        Empty for a scalar. A length that is known only at run time is given as 0.
    per_block
        True where every block has a part of its own (see `PerBlock`).
    """

    dtype: str = "float64"
    shape: tuple[int, ...] = ()
    per_block: bool = False

    def sample(self) -> Any:
        """Return a value of this type, to try promotion with."""
        if self.shape:
            return np.ones([1] * len(self.shape), self.dtype)
        return np.ones((), self.dtype).item()

    def to_json(self) -> dict[str, Any]:
        """Return the type as plain data."""
        return {"value": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class TableType:
    """A table of measurements: named columns of equal length."""

    def to_json(self) -> dict[str, Any]:
        """Return the type as plain data."""
        return {"table": True}


NodeType = ImageType | ValueType | TableType


class PerBlock:
    """A value made of one part for each block of the stage that it was reduced from.

    A stage that uses it runs over the same blocks, and each task is sent its own part alone.
    """

    def part(self, index: int) -> Any:
        """Return what block `index` needs."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Place:
    """Where the array handed to a kernel lies in the whole image.

    A kernel that has a parameter named ``place`` is given one.

    Attributes
    ----------
    read
        The region that the array covers.
    write
        The part of it that this block owns: a reduction counts these voxels alone, so that
        none is counted twice.
    grid
        Shape, axes and voxel size of the whole image.
    """

    read: Region
    write: Region
    grid: Grid

    @classmethod
    def whole(cls, grid: Grid) -> Place:
        """Return the place of an array that is the whole image."""
        return cls(grid.region, grid.region, grid)

    @property
    def inner(self) -> tuple[slice, ...]:
        """Index that cuts the owned voxels out of the array."""
        return self.write.inside(self.read)
