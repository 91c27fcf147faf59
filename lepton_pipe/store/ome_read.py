"""Read OME-Zarr metadata: which array is which level, with which axes and voxel size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_pipe.errors import InputError
from lepton_pipe.spec.types import ImageKind


@dataclass(frozen=True)
class OmeLevel:
    """One scale level; axes and numbers in the order of the array."""

    path: str
    axes: tuple[str, ...] | None
    scale: tuple[float, ...] | None
    translation: tuple[float, ...] | None
    unit: tuple[str | None, ...] | None


@dataclass(frozen=True)
class OmeImage:
    """The levels of one image, the finest first."""

    levels: tuple[OmeLevel, ...]
    kind: ImageKind | None


def ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the OME metadata of a group: under ``ome`` since 0.5, else at the top."""
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def read_image(attributes: Mapping[str, Any], where: str) -> OmeImage | None:
    """Return the image that a group's attributes describe; None when they describe none.

    Raises
    ------
    InputError
        When there is a description but it is broken.
    """
    ome = ome_attributes(attributes)
    multiscales = ome.get("multiscales")
    if not multiscales:
        return None
    try:
        first = multiscales[0]
        levels = tuple(_level(dataset, first) for dataset in first["datasets"])
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where}: the OME-Zarr metadata cannot be understood ({error!r} in multiscales); "
            "repair it, or name an array inside, such as .../0"
        ) from error
    if not levels:
        raise InputError(f"{where}: the OME-Zarr metadata lists no scale levels")
    return OmeImage(levels, "labels" if "image-label" in ome else None)


def _level(dataset: Mapping[str, Any], image: Mapping[str, Any]) -> OmeLevel:
    axes = image.get("axes")
    names = units = None
    if axes is not None:
        names = tuple(_axis_name(a) for a in axes)
        units = tuple(a.get("unit") if isinstance(a, Mapping) else None for a in axes)
    scale, shift = _compose(
        [
            *dataset.get("coordinateTransformations", ()),
            *image.get("coordinateTransformations", ()),
        ]
    )
    return OmeLevel(str(dataset["path"]), names, scale, shift, units)


def _axis_name(axis: Any) -> str:
    if not isinstance(axis, Mapping):
        return str(axis)
    kind = axis.get("type")
    return {"time": "t", "channel": "c"}.get(str(kind), str(axis["name"]))


def _compose(
    steps: Sequence[Mapping[str, Any]],
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Fold scale and translation steps, applied one after the other, into one of each."""
    scale: tuple[float, ...] | None = None
    shift: tuple[float, ...] | None = None
    for step in steps:
        if "scale" in step:
            by = tuple(map(float, step["scale"]))
            scale = by if scale is None else tuple(a * b for a, b in zip(scale, by, strict=True))
            shift = shift and tuple(a * b for a, b in zip(shift, by, strict=True))
        if "translation" in step:
            by = tuple(map(float, step["translation"]))
            shift = by if shift is None else tuple(a + b for a, b in zip(shift, by, strict=True))
    return scale, shift


def refuse_collection(attributes: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` for a plate, a well or a group of labels, naming images inside."""
    ome = ome_attributes(attributes)
    if "plate" in ome:
        wells = [str(w.get("path")) for w in ome["plate"].get("wells", ())]
        some = ", ".join(f"{where}/{w}/0" for w in wells[:3]) or "none listed"
        raise InputError(
            f"{where}: is a plate of {len(wells)} wells; name one image in it, such as {some}"
        )
    if "well" in ome:
        images = [f"{where}/{i.get('path')}" for i in ome["well"].get("images", ())]
        raise InputError(f"{where}: is a well; name one field of it: {', '.join(images[:5])}")
    if "labels" in ome:
        inside = ", ".join(f"{where}/{name}" for name in ome["labels"])
        raise InputError(f"{where}: is a group of label images; name one of them: {inside}")
