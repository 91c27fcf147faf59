"""Measurements of labelled objects, merged across blocks."""

from __future__ import annotations

from collections.abc import Sequence
from math import gamma, pi, prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.device import loops, own_kernels, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.merge import exact, pairs
from lepton_pipe.merge.device_rows import Objects
from lepton_pipe.merge.slabs import runs, slabs
from lepton_pipe.merge.tables import Columns, Pile, fold, group, pile_up, push
from lepton_pipe.spec import ImageType, Place, kernel

SHAPE_PROPERTIES = (
    "area",
    "area_world",
    "centroid",
    "centroid_world",
    "bbox",
    "equivalent_diameter",
    "equivalent_diameter_world",
)
INTENSITY_PROPERTIES = (
    "intensity_mean",
    "intensity_min",
    "intensity_max",
    "intensity_std",
    "intensity_sum",
)
_OF_VALUES = {"sum", "range", "spread"}
_SLAB = 1 << 14
PROPERTIES = ("label", *SHAPE_PROPERTIES, *INTENSITY_PROPERTIES)


def _check_regions(
    labels: ImageType, intensity: ImageType | None, properties: Sequence[str] | None
) -> None:
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels has dtype {labels.dtype}, but objects are told apart by integers; use "
            "label(mask) to number the objects of a mask"
        )
    if intensity is not None and intensity.grid.shape != labels.grid.shape:
        raise ValueError(
            f"intensity has shape {intensity.grid.shape} and labels {labels.grid.shape}: every "
            "voxel of an object needs a value; crop or downsample both alike"
        )
    if intensity is not None and intensity.dtype.kind not in "biuf":
        raise ValueError(f"intensity has dtype {intensity.dtype}; use astype to make it real")
    if isinstance(properties, str):
        raise TypeError(f"properties={properties!r} must be a sequence: ({properties!r},)")
    unknown = [p for p in properties or () if p not in PROPERTIES]
    if unknown:
        raise ValueError(f"properties {unknown} are unknown; there are {', '.join(PROPERTIES)}")
    wanted = [p for p in properties or () if p in INTENSITY_PROPERTIES]
    if wanted and intensity is None:
        raise ValueError(f"{wanted[0]} needs an image to measure; give intensity=")


def _wanted(properties: Sequence[str] | None, with_intensity: bool) -> tuple[str, ...]:
    """Return the properties to measure: all that can be, when none are named."""
    if properties is not None:
        return tuple(properties)
    return PROPERTIES if with_intensity else ("label", *SHAPE_PROPERTIES)


def _finish(pile: Pile, properties: Sequence[str] | None, grid: Grid) -> Columns:
    table = fold(pile)
    columns: Columns = {"label": table["label"]}
    for name in _wanted(properties, "min:value" in table):
        if name in INTENSITY_PROPERTIES:
            columns[name] = _intensity_column(name, table)
        elif name != "label":
            columns |= _shape_columns(name, table, grid)
    return columns


def _device_bytes(labels: ImageType, intensity: ImageType | None) -> float:
    """Return bytes per voxel: tables of objects, and copies of what is not in one piece."""
    copied = 0 if intensity is None else intensity.dtype.itemsize
    return 16.0 + labels.dtype.itemsize + copied


@kernel(
    combine=pile_up,
    finalize=_finish,
    returns="table",
    check=_check_regions,
    scratch=4.0,
    device_scratch=_device_bytes,
    cost=lambda intensity: 1.2 if intensity is None else 2.2,
)
def regionprops(
    labels: Any,
    intensity: Any = None,
    properties: Sequence[str] | None = None,
    *,
    place: Place,
) -> Pile:
    """Measure every object of a label image.

    Parameters
    ----------
    labels
        Integers; 0 (and what is negative) is background.
    intensity
        Image of the same shape to measure in each object.
    properties
        Some of the names below; by default all of them. ``label`` always comes first.

    Returns
    -------
    table
        One row for each object, in the order of labels. Per axis ``z``, ``y``, ``x`` (and ``t``,
        ``c`` where the image has them), ``world`` in the units of the image's scale::

            label                          int64
            area, area_world               voxels; area or volume of its spatial axes
            centroid-z, ...                mean position in voxels
            centroid_world-z, ...          mean position in the world
            bbox_min-z, bbox_max-z, ...    first voxel, and one past the last
            equivalent_diameter(_world)    of the circle or ball of the same area
            intensity_mean, _std           float64; std is that of the population
            intensity_min, _max            dtype of the intensity; uint8 of a mask
            intensity_sum                  int64 for integers up to 32 bits, else float64

        All come from exact sums that are rounded once, so they do not depend on how the image is
        cut. (Sums of floats are exact to 106 bits, see `lepton_pipe.merge.pairs`.) NaN in an
        object's intensity makes its intensity columns NaN, as in NumPy.

    Notes
    -----
    On a GPU objects are measured there, and their table alone is copied to the host; where it would
    take more than 8 bytes for each voxel, labels and intensity are copied and measured on the host.
    There, a block takes about 500 bytes for each of its objects for a moment, which the declared
    scratch holds for objects of a hundred voxels and more; what a block returns takes about 150.
    """
    needs = _needs(_wanted(properties, intensity is not None))
    values = intensity if needs & _OF_VALUES else None
    if labels.dtype == np.uint64 and labels.size:
        most = int(labels.max())
        if most > np.iinfo(np.int64).max:
            raise ValueError(f"label {most} is above 2**63 - 1; renumber the objects")
    there = own_kernels("regions", *(a for a in (labels, values) if a is not None))
    if there is not None and there.fits(labels, values):
        rows = there.measured(labels, values)
        if rows is not None:
            dtype = None if values is None else values.dtype
            objects = Objects(rows, place.write.start, dtype)
            return [_columns(objects, labels.ndim, dtype, needs)]
    labels, values = to_host(labels), None if values is None else to_host(values)
    fast = loops("regions", labels)
    if fast is not None and fast.fits(labels, values):
        return [_measure_compiled(fast, labels, values, place.write.start, needs)]
    return [measure_by_part(labels, values, place.write.start, needs)]


def _needs(properties: Sequence[str]) -> frozenset[str]:
    """Return what has to be gathered voxel by voxel for these properties."""
    gathered = {
        "centroid": "position",
        "centroid_world": "position",
        "bbox": "bbox",
        "intensity_mean": "sum",
        "intensity_sum": "sum",
        "intensity_min": "range",
        "intensity_max": "range",
        "intensity_std": "spread",
    }
    return frozenset(gathered[p] for p in properties if p in gathered)


def _measure_compiled(
    fast: ModuleType,
    labels: NDArray[Any],
    values: NDArray[Any] | None,
    corner: Sequence[int],
    needs: frozenset[str],
) -> Columns:
    """Measure the objects of a block by compiled loops."""
    objects = fast.Objects(None if values is None else values.dtype)
    for part in slabs(labels.shape, max(fast.LEAST, min(fast.PART, labels.size // 8))):
        start = [a + s.start for a, s in zip(corner, part, strict=True)]
        objects.add(labels[part], None if values is None else values[part], start)
    return _columns(objects, labels.ndim, None if values is None else values.dtype, needs)


def _columns(
    objects: Any, ndim: int, dtype: np.dtype[Any] | None, needs: frozenset[str]
) -> Columns:
    """Return the table of objects that were measured, by compiled loops or on a device."""
    columns: Columns = {"label": objects.labels(), "count": objects.sizes()}
    for i in range(ndim):
        if "position" in needs:
            columns[f"position{i}"] = objects.positions(i - ndim)
        if "bbox" in needs:
            columns[f"min:{i}"], columns[f"max:{i}"] = objects.extents(i - ndim)
    if dtype is not None:
        columns |= _sums(objects, dtype, needs)
    return columns


def _sums(objects: Any, dtype: np.dtype[Any], needs: frozenset[str]) -> Columns:
    """Return columns of what was added up of the values of objects."""
    columns: Columns = {}
    if dtype.kind == "f":
        *found, low, high = objects.floats()
        sums, squares = _pair("value", *found[:2]), _pair("square", *found[2:])
    else:
        found, square, low, high = objects.integers()
        count = exact.limb_count(dtype)
        sums = _named("value", exact.carry(found, count))
        squares = _named("square", exact.carry(square, count))
    if needs & {"sum", "spread"}:
        columns |= sums
    if "spread" in needs:
        columns |= squares
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    columns["min:value"] = low.astype(dtype)
    if "range" in needs:
        columns["max:value"] = high.astype(dtype)
    return columns


def _named(name: str, limbs: list[NDArray[np.int64]]) -> Columns:
    return {f"{name}.{i}": limb for i, limb in enumerate(limbs)}


def measure_by_part(
    labels: NDArray[Any],
    values: NDArray[Any] | None,
    corner: Sequence[int],
    needs: frozenset[str],
) -> Columns:
    """Measure the objects of a block by NumPy, part by part, each giving a table to fold.

    Parameters
    ----------
    labels, values
        Of the same shape.
    corner
        The first voxel of the block.
    needs
        What is gathered: ``position``, ``bbox``, ``sum``, ``range``, ``spread``.
    """
    none = np.ones((1,) * labels.ndim, labels.dtype)
    empty = _measure(none, None if values is None else none.astype(values.dtype), corner, needs)
    pile: Pile = [{n: c[:0] for n, c in empty.items()}]
    for part in slabs(labels.shape, _SLAB):
        if labels[part].any():
            start = [a + s.start for a, s in zip(corner, part, strict=True)]
            some = None if values is None else np.ascontiguousarray(values[part])
            push(pile, _measure(np.ascontiguousarray(labels[part]), some, start, needs))
    return fold(pile)


def _measure(
    labels: NDArray[Any],
    values: NDArray[Any] | None,
    start: Sequence[int],
    needs: frozenset[str],
) -> Columns:
    """Measure the objects of a small box in C order that starts at the voxel `start`."""
    at, label, length = runs(labels)
    objects = np.flatnonzero(label > 0)
    label = label[objects]
    columns: Columns = {"label": label.astype(np.int64), "count": length[objects]}
    if needs & {"position", "bbox"}:
        columns |= _positions(at[objects], length[objects], labels.shape, start, needs)
    if values is not None:
        flat = values.reshape(-1)
        columns |= {n: c[objects] for n, c in _intensities(flat, at, needs).items()}
    return group(columns)


def _positions(
    at: NDArray[np.intp],
    length: NDArray[np.intp],
    shape: Sequence[int],
    start: Sequence[int],
    needs: frozenset[str],
) -> Columns:
    """Return sums and extents of the positions of runs along the last axis."""
    columns: Columns = {}
    for i, index in enumerate(np.unravel_index(at, tuple(shape))):
        first = index + start[i]
        more = length - 1 if i == len(shape) - 1 else 0
        if "position" in needs:
            columns[f"position{i}"] = (2 * first + more) * length // 2
        if "bbox" in needs:
            columns[f"min:{i}"], columns[f"max:{i}"] = first, first + more
    return columns


def _intensities(values: NDArray[Any], at: NDArray[np.intp], needs: frozenset[str]) -> Columns:
    """Return sums and extremes of the values of runs."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    columns: Columns = {"min:value": np.minimum.reduceat(values, at)}
    if "range" in needs:
        columns["max:value"] = np.maximum.reduceat(values, at)
    if values.dtype.kind == "f":
        return columns | _float_sums(values.astype(np.float64), at, needs)
    count = exact.limb_count(values.dtype)
    for name, limbs, wanted in (
        ("value", exact.value_limbs, needs & {"sum", "spread"}),
        ("square", exact.square_limbs, needs & {"spread"}),
    ):
        if wanted:
            sums = [np.add.reduceat(limb, at) for limb in limbs(values)]
            columns |= _named(name, exact.carry(sums, count))
    return columns


def _float_sums(
    values: NDArray[np.float64], at: NDArray[np.intp], needs: frozenset[str]
) -> Columns:
    columns: Columns = {}
    with np.errstate(invalid="ignore", over="ignore"):
        if needs & {"sum", "spread"}:
            columns |= _pair("value", *pairs.reduceat(values, np.zeros(values.size), at))
        if "spread" in needs:
            columns |= _pair("square", *pairs.reduceat(*pairs.product(values, values), at))
    return columns


def _pair(name: str, total: NDArray[np.float64], rest: NDArray[np.float64]) -> Columns:
    return {f"total:{name}": total, f"rest:{name}": rest}


def _limbs(table: Columns, name: str) -> list[NDArray[np.int64]]:
    return [table[n] for n in table if n.startswith(f"{name}.")]


def _intensity_column(name: str, table: Columns) -> NDArray[Any]:
    if name in ("intensity_min", "intensity_max"):
        return table[f"{name[-3:]}:value"]
    if "total:value" in table:
        return _of_floats(name, table)
    count, limbs = table["count"], _limbs(table, "value")
    if name == "intensity_sum":
        # As many limbs as 64-bit integers take: their sums may fit nothing but a float.
        return exact.to_int64(limbs) if len(limbs) < 5 else exact.to_float(limbs)
    if name == "intensity_mean":
        return exact.to_float(limbs) / count
    return np.sqrt(exact.variance(count, limbs, _limbs(table, "square")))


def _of_floats(name: str, table: Columns) -> NDArray[np.float64]:
    sums = table["total:value"], table["rest:value"]
    with np.errstate(invalid="ignore", over="ignore"):
        total, _ = pairs.rounded(*sums)
        if name == "intensity_sum":
            return total
        if name == "intensity_mean":
            return total / table["count"]
        squares = table["total:square"], table["rest:square"]
        return np.sqrt(pairs.variance(table["count"], sums, squares))


def _shape_columns(name: str, table: Columns, grid: Grid) -> Columns:
    count = table["count"]
    size = prod(grid.scale[i] for i in grid.spatial)
    if name == "area":
        return {name: count}
    if name == "area_world":
        return {name: count * size}
    if name == "equivalent_diameter":
        return {name: _diameter(count, len(grid.spatial))}
    if name == "equivalent_diameter_world":
        return {name: _diameter(count * size, len(grid.spatial))}
    columns: Columns = {}
    for i, axis in enumerate(grid.axes):
        if name == "bbox":
            columns[f"bbox_min-{axis}"] = table[f"min:{i}"]
            columns[f"bbox_max-{axis}"] = table[f"max:{i}"] + 1
            continue
        mean = table[f"position{i}"] / count
        if name == "centroid_world":
            mean = mean * grid.scale[i] + grid.translation[i]
        columns[f"{name}-{axis}"] = mean
    return columns


def _diameter(area: NDArray[Any], ndim: int) -> NDArray[np.float64]:
    """Return the diameter of the ball of this area (length, area or volume) in `ndim` axes."""
    ball = pi ** (ndim / 2) / gamma(ndim / 2 + 1)
    result: NDArray[np.float64] = 2 * (area / ball) ** (1 / max(1, ndim))
    return result
