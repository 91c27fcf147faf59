"""The grid an image lives on: shape, named axes, voxel size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

from lepton_pipe.errors import UsageError
from lepton_pipe.geometry.region import Region

SPATIAL_AXES = ("z", "y", "x")
CANONICAL_AXES = ("t", "c", "z", "y", "x")
_DEFAULT_AXES = {1: "x", 2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}


def default_axes(ndim: int) -> tuple[str, ...]:
    """Return the axes assumed for a bare array: the last `ndim` of t, c, z, y, x."""
    if ndim not in _DEFAULT_AXES:
        raise UsageError(
            f"an array with {ndim} axes cannot be an image: between 1 and 5 of t, c, z, y, x "
            "are understood; index or reshape it first"
        )
    return tuple(_DEFAULT_AXES[ndim])


def check_axes(axes: Sequence[str], ndim: int) -> tuple[str, ...]:
    """Return `axes` as a tuple if they name `ndim` axes in the order t, c, z, y, x.

    Raises
    ------
    UsageError
        When an axis is unknown, repeated, out of order, or when the number does not fit.
    """
    names = tuple(axes)
    if len(names) != ndim:
        raise UsageError(
            f"axes {''.join(names)!r} name {len(names)} axes, but the image has {ndim}; "
            "give one letter for each axis"
        )
    order = [CANONICAL_AXES.index(n) if n in CANONICAL_AXES else -1 for n in names]
    if -1 in order or any(a >= b for a, b in itertools.pairwise(order)):
        raise UsageError(
            f"axes {''.join(names)!r} are not understood: use letters of 'tczyx', each at most "
            "once and in that order (transpose the array where needed)"
        )
    return names


@dataclass(frozen=True, slots=True)
class Grid:
    """Shape, axes and voxel size of an image, as in OME-Zarr.

    Attributes
    ----------
    shape
        Voxels along each axis.
    axes
        Axis names, in the order t, c, z, y, x.
    scale
        Size of a voxel along each axis, in `unit`.
    unit
        Unit of each axis (``"micrometer"``, ``"second"``), or None where unknown.
    translation
        World position of the centre of the first voxel, in `unit`.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    scale: tuple[float, ...]
    unit: tuple[str | None, ...]
    translation: tuple[float, ...]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        axes: Sequence[str] | None = None,
        scale: Sequence[float] | None = None,
        unit: Sequence[str | None] | str | None = None,
        translation: Sequence[float] | None = None,
    ) -> Grid:
        """Build a grid, filling in what is not given; a single `unit` is for all spatial axes."""
        n = len(shape)
        names = check_axes(axes, n) if axes is not None else default_axes(n)
        if unit is None or isinstance(unit, str):
            unit = tuple(unit if a in SPATIAL_AXES else None for a in names)
        grid = cls(
            tuple(int(s) for s in shape),
            names,
            tuple(float(s) for s in scale) if scale is not None else (1.0,) * n,
            tuple(unit),
            tuple(float(s) for s in translation) if translation is not None else (0.0,) * n,
        )
        for what in ("scale", "unit", "translation"):
            value = getattr(grid, what)
            if len(value) != n:
                raise UsageError(f"{what} {value} has {len(value)} entries for {n} axes")
        if any(not 0 < s < inf for s in grid.scale):
            raise UsageError(
                f"scale {grid.scale} must be positive and finite: it is the size of a voxel"
            )
        if not all(map(isfinite, grid.translation)):
            raise UsageError(f"translation {grid.translation} must be finite: it is a position")
        return grid

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.region.size

    @property
    def rank(self) -> tuple[int, int]:
        """What decides which of several images the others are broadcast to: axes, then voxels."""
        return self.ndim, self.size

    @property
    def region(self) -> Region:
        """The region that covers the whole grid."""
        return Region.whole(self.shape)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Positions of the axes z, y and x, as far as present."""
        return tuple(i for i, a in enumerate(self.axes) if a in SPATIAL_AXES)

    def axis(self, name: str) -> int:
        """Return the position of axis `name`; raise `UsageError` when there is none."""
        if name not in self.axes:
            raise UsageError(f"there is no axis {name!r}; the image has axes {''.join(self.axes)}")
        return self.axes.index(name)

    def per_axis(self, value: Any, what: str, *, elsewhere: Any) -> tuple[Any, ...]:
        """Spread a parameter over the axes.

        Parameters
        ----------
        value
            One value for all spatial axes, one for each spatial axis, one for each axis, or a
            mapping from axis names.
        what
            Name of the parameter, for the error.
        elsewhere
            The value of axes that `value` does not speak of.

        Raises
        ------
        UsageError
            When the number of values fits neither the spatial axes nor all axes.
        """
        result = [elsewhere] * self.ndim
        if isinstance(value, Mapping):
            for name, entry in value.items():
                result[self.axis(name)] = entry
        elif isinstance(value, Sequence) and not isinstance(value, str):
            where = range(self.ndim) if len(value) == self.ndim else self.spatial
            if len(value) != len(where):
                raise UsageError(
                    f"{what} has {len(value)} values, but the image has axes "
                    f"{''.join(self.axes)}: give one value, one for each spatial axis "
                    f"({len(self.spatial)}), one for each axis ({self.ndim}), or a mapping "
                    "such as {'z': 1, 'y': 2}"
                )
            for i, entry in zip(where, value, strict=True):
                result[i] = entry
        else:
            for i in self.spatial:
                result[i] = value
        return tuple(result)

    def drop(self, axis: int) -> Grid:
        """Return the grid without one axis."""

        def cut(seq: tuple[Any, ...]) -> tuple[Any, ...]:
            return seq[:axis] + seq[axis + 1 :]

        return Grid(
            cut(self.shape), cut(self.axes), cut(self.scale), cut(self.unit), cut(self.translation)
        )

    def flatten(self, axis: int) -> Grid:
        """Return the grid with one axis reduced to a single voxel as long as the whole axis."""
        shape = tuple(1 if i == axis else n for i, n in enumerate(self.shape))
        factors = tuple(n if i == axis else 1 for i, n in enumerate(self.shape))
        return replace(self.coarsen(factors), shape=shape)

    def crop(self, region: Region) -> Grid:
        """Return the grid of a part of the image; world positions are kept."""
        moved = tuple(
            t + a * s for t, a, s in zip(self.translation, region.start, self.scale, strict=True)
        )
        return replace(self, shape=region.shape, translation=moved)

    def coarsen(self, factors: Sequence[int]) -> Grid:
        """Return the grid with `factors` voxels of each axis made into one, the last cut short.

        The new voxel's centre lies in the middle of those it was made of.
        """
        return replace(
            self,
            shape=tuple(-(-n // f) for n, f in zip(self.shape, factors, strict=True)),
            scale=tuple(s * f for s, f in zip(self.scale, factors, strict=True)),
            translation=tuple(
                t + s * (f - 1) / 2
                for t, s, f in zip(self.translation, self.scale, factors, strict=True)
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the grid as plain data."""
        return {
            "shape": list(self.shape),
            "axes": list(self.axes),
            "scale": list(self.scale),
            "unit": list(self.unit),
            "translation": list(self.translation),
        }
