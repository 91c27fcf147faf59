"""From the axes of a file to t, c, z, y, x and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import InputError, UsageError
from lepton_pipe.geometry import CANONICAL_AXES, Grid, Region, default_axes
from lepton_pipe.spec import ImageType
from lepton_pipe.spec.types import ImageKind
from lepton_pipe.store.unit_names import checked_unit

_NAMES = {
    "time": "t",
    "frame": "t",
    "channel": "c",
    "channels": "c",
    "band": "c",
    "depth": "z",
    "height": "y",
    "row": "y",
    "lat": "y",
    "latitude": "y",
    "width": "x",
    "column": "x",
    "lon": "x",
    "longitude": "x",
}
_UNITS = {
    "um": "micrometer",
    "µm": "micrometer",  # micro sign
    "μm": "micrometer",  # Greek mu
    "micron": "micrometer",
    "microns": "micrometer",
    "micrometre": "micrometer",
    "nm": "nanometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "km": "kilometer",
    "pm": "picometer",
    "å": "angstrom",
    "inch": "inch",
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "us": "microsecond",
    "µs": "microsecond",
    "min": "minute",
    "h": "hour",
}


def canonical_unit(unit: object) -> str | None:
    """Return the OME-Zarr name of a unit; None for pixels, empty, or what is not text."""
    if not isinstance(unit, str):
        return None
    name = unit.replace("\\u00B5", "µ").strip()
    if name.lower() in {"", "pixel", "pixels", "px", "none", "null", "reference frame"}:
        return None
    return _UNITS.get(name.lower(), name)


def canonical_name(name: object) -> str:
    """Return the letter of an axis name, or the name in lower case where none fits."""
    text = str(name).lower()
    return text if text in CANONICAL_AXES else _NAMES.get(text, text)


@dataclass(frozen=True)
class AxisMap:
    """Where the canonical axes of an image lie in its file.

    Attributes
    ----------
    order
        For each canonical axis, its position in the file.
    ndim
        Axes in the file; those not in `order` have length 1 and are dropped.
    """

    order: tuple[int, ...]
    ndim: int

    @classmethod
    def of(cls, names: Sequence[str], shape: Sequence[int], where: str) -> AxisMap:
        """Sort axes into the canonical order and drop unknown ones of length 1.

        Raises
        ------
        InputError
            When an axis longer than 1 has an unknown or repeated name.
        """
        if len(names) != len(shape):
            raise InputError(
                f"{where}: axes {''.join(names)!r} name {len(names)} axes, but the data has "
                f"{len(shape)} (shape {tuple(shape)}); give one letter for each axis"
            )
        kept: dict[str, int] = {}
        for i, name in enumerate(names):
            if name in CANONICAL_AXES and (name not in kept or shape[kept[name]] == 1):
                kept[name] = i
            elif shape[i] != 1:
                raise InputError(
                    f"{where}: cannot place axis {name!r} of length {shape[i]} among t, c, z, y, "
                    f"x (axes {list(names)}, shape {tuple(shape)}); name the axes in the order "
                    "they are stored, such as axes='zyx'"
                )
        if not kept:
            raise InputError(f"{where}: holds a single number, not an image")
        return cls(tuple(kept[a] for a in CANONICAL_AXES if a in kept), len(shape))

    def pick(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return per-axis values of the file in canonical order."""
        return tuple(values[i] for i in self.order)

    def selection(self, region: Region) -> tuple[slice, ...]:
        """Return the index of `region` into the file's array, dropped axes kept with length 1."""
        index = [slice(0, 1)] * self.ndim
        for i, part in zip(self.order, region.slices, strict=True):
            index[i] = part
        return tuple(index)

    def position(self, index: Sequence[int]) -> tuple[int, ...]:
        """Return the position of a chunk in the file's array, 0 along dropped axes."""
        position = [0] * self.ndim
        for i, value in zip(self.order, index, strict=True):
            position[i] = value
        return tuple(position)

    def canonical_chunk(self, chunk: NDArray[Any]) -> NDArray[Any]:
        """Return a chunk as one of canonical axes; what it stores beyond dropped axes goes."""
        kept = tuple(slice(None) if i in self.order else slice(1) for i in range(self.ndim))
        return self.canonical(chunk[kept])

    def canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the file's axes as one of canonical axes (a view)."""
        dropped = tuple(i for i in range(self.ndim) if i not in self.order)
        view = array.transpose(self.order + dropped)
        return view.reshape(view.shape[: len(self.order)])


@dataclass(frozen=True)
class Found:
    """What a file says about itself, axis by axis in the order they are stored."""

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[str, ...] | None = None
    scale: tuple[float, ...] | None = None
    unit: tuple[str | None, ...] | None = None
    translation: tuple[float, ...] | None = None
    kind: ImageKind | None = None


@dataclass(frozen=True)
class Wanted:
    """What the user says about an input, which goes before what the file says.

    ``tolerant`` allows some of the files of a stack to be unreadable.
    """

    level: int | None = None
    axes: str | Sequence[str] | None = None
    scale: Any = None
    unit: Any = None
    tolerant: bool = False
    sparse: bool = False


def resolve(found: Found, wanted: Wanted) -> tuple[ImageType, AxisMap]:
    """Return the canonical type of an input, and how to get there from what is stored.

    Raises
    ------
    InputError
        When the dtype or the axes cannot be those of an image.
    """
    if found.dtype.kind not in "buif":
        raise InputError(
            f"{found.where}: dtype {found.dtype} is not one of an image (booleans, integers, "
            "floats); convert it first"
        )
    if 0 in found.shape:
        raise InputError(f"{found.where}: is empty (shape {found.shape})")
    if wanted.axes is not None:
        names = tuple(wanted.axes)
    elif found.axes is not None:
        names = found.axes
    else:
        names = _default_axes(found)
    axis_map = AxisMap.of(tuple(map(canonical_name, names)), found.shape, found.where)
    letters = axis_map.pick(tuple(map(canonical_name, names)))
    grid = Grid.of(axis_map.pick(found.shape), letters)
    if found.scale is not None:
        grid = replace(grid, scale=tuple(_voxel(s) for s in axis_map.pick(found.scale)))
    if found.unit is not None:
        grid = replace(grid, unit=tuple(map(canonical_unit, axis_map.pick(found.unit))))
    if found.translation is not None:
        grid = replace(grid, translation=tuple(map(float, axis_map.pick(found.translation))))
    # By its text: some platforms have several integer types of one size, and zarr knows one.
    dtype = np.dtype(found.dtype.newbyteorder("=").str)
    kind: ImageKind = "mask" if dtype.kind == "b" else found.kind or "image"
    if kind == "labels" and dtype.kind not in "iu":
        kind = "image"
    return ImageType(override(grid, wanted), dtype, kind), axis_map


def _default_axes(found: Found) -> tuple[str, ...]:
    try:
        return default_axes(len(found.shape))
    except UsageError as error:
        raise InputError(f"{found.where}: {error}") from error


def _voxel(size: float) -> float:
    """Return a voxel size, with 1 for what files write when they do not know (0, negative)."""
    return float(size) if size > 0 else 1.0


def override(grid: Grid, wanted: Wanted) -> Grid:
    """Return `grid` with the voxel size and units that the user gave."""
    if wanted.scale is not None:
        given = grid.per_axis(wanted.scale, "scale", elsewhere=None)
        scale = tuple(s if g is None else g for g, s in zip(given, grid.scale, strict=True))
        grid = Grid.of(grid.shape, grid.axes, scale, grid.unit, grid.translation)
    if wanted.unit is not None:
        whole = isinstance(wanted.unit, str | Mapping) or not isinstance(wanted.unit, Iterable)
        unit = wanted.unit if whole else list(wanted.unit)
        given = grid.per_axis(unit, "unit", elsewhere=None)
        named = (_given_unit(g, a) for g, a in zip(given, grid.axes, strict=True))
        grid = replace(grid, unit=tuple(n or u for n, u in zip(named, grid.unit, strict=True)))
    return grid


def _given_unit(unit: object, axis: str) -> str | None:
    """Return the unit that a user gave to an axis; None for none."""
    if unit is not None and not isinstance(unit, str):
        raise UsageError(f"unit {unit!r} of axis {axis} is no name; give one such as 'micrometer'")
    name = canonical_unit(unit)
    return None if name is None else checked_unit(name, axis)
