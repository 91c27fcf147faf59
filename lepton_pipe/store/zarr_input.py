"""Find the image that a zarr path means: an array, an OME-Zarr group, or an array inside one."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lepton_pipe.errors import InputError, LeptonError
from lepton_pipe.store.axes import Found, Wanted, resolve
from lepton_pipe.store.codecs import check_codecs
from lepton_pipe.store.inside import check_name, inside
from lepton_pipe.store.missing import meaning
from lepton_pipe.store.ome_read import (
    OmeImage,
    OmeLevel,
    ome_attributes,
    read_image,
    refuse_collection,
)
from lepton_pipe.store.source import Source, file_stamp
from lepton_pipe.store.stores import METADATA_KEYS, store_at
from lepton_pipe.store.urls import is_url
from lepton_pipe.store.zarr_source import ZarrSource, digest

_HIGHEST_PARENT = 3
OWN_KEY = "lepton"
"""Attribute of arrays of our own that carries their grid."""

Array = zarr.Array[Any]


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is the root of a zarr array or group."""
    return any((path / name).is_file() for name in METADATA_KEYS)


def open_zarr(uri: str, wanted: Wanted, *, ours: bool = False) -> Source:
    """Open a zarr array, or one level of an OME-Zarr image, at a path or URL.

    Parameters
    ----------
    ours
        Whether it is an array of our own, all chunks of which were written.

    Raises
    ------
    InputError
        When there is no image, the level does not exist, or the metadata cannot be understood.
    """
    node = _open_node(uri)
    if isinstance(node, zarr.Array):
        return _array_source(uri, node, wanted, ours=ours)
    return _group_source(uri, node, wanted, ours=ours)


def _open_node(uri: str) -> Array | zarr.Group:
    try:
        node = zarr.open(store=store_at(uri), mode="r")
    except (LeptonError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no zarr array or group is there; check the address") from error
    except Exception as error:
        raise InputError(f"{uri}: cannot be opened as zarr ({error})") from error
    if isinstance(node, zarr.Array):
        check_codecs(node.metadata.to_dict(), uri)
    return node


def _group_source(uri: str, group: zarr.Group, wanted: Wanted, *, ours: bool) -> Source:
    attributes = group.attrs.asdict()
    image = read_image(attributes, uri)
    if image is not None:
        return _level_source(uri, image, wanted, ours=ours)
    refuse_collection(attributes, uri)
    inside = _children(group)
    if "bioformats2raw.layout" in {**attributes, **ome_attributes(attributes)}:
        series = [name for name in inside if name.isdigit()] or ["0"]
        if len(series) == 1:
            return open_zarr(_inner(uri, series[0]), wanted, ours=ours)
        names = ", ".join(_join(uri, s) for s in series[:5])
        raise InputError(f"{uri}: holds {len(series)} images; name one of them: {names}")
    names = ", ".join(_join(uri, n) for n in inside[:5]) or "it is empty"
    raise InputError(
        f"{uri}: is a zarr group without OME-Zarr image metadata; name an array in it ({names})"
    )


def _children(group: zarr.Group) -> list[str]:
    try:
        return sorted(group.keys())
    except (NotImplementedError, OSError):
        # plain http servers cannot list
        return []


def _level_source(uri: str, image: OmeImage, wanted: Wanted, *, ours: bool) -> Source:
    index = 0 if wanted.level is None else wanted.level
    count = len(image.levels)
    if not 0 <= index < count:
        raise InputError(f"{uri}: there is no scale level {index}; levels are 0 to {count - 1}")
    level = image.levels[index]
    array_uri = _inner(uri, level.path)
    array = _open_node(array_uri)
    if not isinstance(array, zarr.Array):
        raise InputError(f"{array_uri}: should be the array of level {index}, but is a group")
    found = _with_level(_bare(array_uri, array), level, image)
    return _source(array_uri, array, found, wanted, index, ours=ours)


def _array_source(uri: str, array: Array, wanted: Wanted, *, ours: bool) -> Source:
    found, index = _bare(uri, array), None
    own = array.attrs.asdict().get(OWN_KEY)
    if isinstance(own, Mapping):
        found = _own(found, own)
    else:
        image, index = _image_around(uri)
        if image is not None and index is not None:
            found = _with_level(found, image.levels[index], image)
    if wanted.level not in {None, index if index is not None else 0}:
        raise InputError(f"{uri}: is a single array and has no scale level {wanted.level}")
    return _source(uri, array, found, wanted, index, ours=ours)


def _image_around(uri: str) -> tuple[OmeImage | None, int | None]:
    """Return the OME-Zarr image that an array is a level of, and which."""
    for parent, inner in _parents(uri):
        if not is_url(uri) and not is_zarr(Path(parent)):
            continue
        try:
            image = read_image(zarr.open_group(store_at(parent), mode="r").attrs.asdict(), parent)
        except Exception:  # noqa: BLE001, S112  (what lies around an array may be anything)
            continue
        for index, level in enumerate(image.levels if image else ()):
            if level.path.strip("/") == inner:
                return image, index
    return None, None


def _parents(uri: str) -> list[tuple[str, str]]:
    found, inner = [], ""
    for _ in range(_HIGHEST_PARENT):
        uri, name = posixpath.split(uri.rstrip("/"))
        if not uri or uri.endswith((":", ":/")) or not name:
            break
        inner = posixpath.join(name, inner).rstrip("/")
        found.append((uri, inner))
    return found


def _bare(uri: str, array: Array) -> Found:
    """Return what the array says of itself."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    named = isinstance(names, list | tuple) and all(names) and len(names) == array.ndim
    dtype = np.dtype(array.dtype)
    axes = tuple(map(str, names)) if named and isinstance(names, list | tuple) else None
    return Found(uri, tuple(array.shape), dtype, axes=axes)


def _with_level(found: Found, level: OmeLevel, image: OmeImage) -> Found:
    n = len(found.shape)
    for what, values in (
        ("axes", level.axes),
        ("scale", level.scale),
        ("shift", level.translation),
    ):
        if values is not None and len(values) != n:
            raise InputError(
                f"{found.where}: the OME-Zarr metadata gives {what} for {len(values)} axes, "
                f"but the array has {n} (shape {found.shape})"
            )
    axes = level.axes or (found.axes if found.axes else None)
    return replace(
        found,
        axes=axes,
        scale=level.scale,
        unit=level.unit,
        translation=level.translation,
        kind=image.kind,
    )


def _own(found: Found, own: Mapping[str, Any]) -> Found:
    grid = own["image"]
    return replace(
        found,
        axes=tuple(grid["axes"]),
        scale=tuple(grid["scale"]),
        unit=tuple(grid["unit"]),
        translation=tuple(grid["translation"]),
        kind=own["kind"],
    )


def _source(
    uri: str, array: Array, found: Found, wanted: Wanted, level: int | None, *, ours: bool
) -> Source:
    image_type, axis_map = resolve(found, wanted)
    stamps = () if is_url(uri) else tuple(file_stamp(Path(uri) / name) for name in METADATA_KEYS)
    return ZarrSource(
        uri=uri,
        type=image_type,
        chunks=axis_map.pick(array.chunks),
        axis_map=axis_map,
        metadata=digest(array.metadata.to_dict()),
        level=level,
        missing="lost" if ours else meaning(uri, sparse=wanted.sparse),
        stamp=sum(stamps, ()),
    )


def _inner(uri: str, name: str) -> str:
    """Return the address of what an image names as a part of itself; it must lie inside."""
    who = f"{uri}: the OME-Zarr metadata"
    if is_url(uri):
        check_name(name, who)
    else:
        inside(Path(uri), name, who)
    return _join(uri, name)


def _join(uri: str, inner: str) -> str:
    return posixpath.join(uri, inner)
