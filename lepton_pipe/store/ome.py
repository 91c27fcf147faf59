"""Write the metadata of OME-Zarr 0.5 images and of intermediate arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

from lepton_pipe.geometry import SPATIAL_AXES, Grid
from lepton_pipe.geometry.layout import Layout
from lepton_pipe.spec import ImageType
from lepton_pipe.store.packbits import PackBits
from lepton_pipe.store.zarr_input import OWN_KEY

OME_VERSION = "0.5"
BLOSC_BLOCK = 1 << 20
"""Bytes that Blosc compresses at a time: 1 MiB encodes half as fast again as its own choice."""


def create_image(
    path: Path,
    name: str,
    type: ImageType,  # noqa: A002
    levels: Sequence[Layout],
    codecs: Mapping[int, Sequence[BytesBytesCodec]] | None = None,
) -> None:
    """Lay out an OME-Zarr 0.5 image without voxels: a group with the arrays "0", "1", ...

    Parameters
    ----------
    path
        Where the group is made; must not hold a group yet.
    name
        Name of the image in its metadata.
    type
        dtype and kind of the image; ``"labels"`` are marked as such.
    levels
        One layout for each scale level, the finest first; the grids carry their voxel sizes.
    codecs
        Codecs of levels whose chunks are copied from an input; the others have our own.

    Raises
    ------
    OSError
        When the place cannot be written.
    ValueError
        When shards are not whole multiples of chunks, or levels differ in their axes.
    """
    axes = levels[0].grid.axes
    if any(level.grid.axes != axes for level in levels):
        raise ValueError(f"levels of one image must have the same axes, {''.join(axes)}")
    for level in levels:
        _check_tiles(level)
    group = zarr.create_group(
        LocalStore(path), zarr_format=3, attributes={"ome": image_metadata(name, type, levels)}
    )
    for index, level in enumerate(levels):
        group.create_array(
            str(index),
            shape=level.grid.shape,
            chunks=level.chunks,
            shards=level.shards,
            dtype=type.dtype,
            fill_value=0,
            compressors=(codecs or {}).get(index, result_codecs(type.dtype)),
            dimension_names=level.grid.axes,
        )


def _check_tiles(level: Layout) -> None:
    unit, chunks = level.unit, level.chunks
    fits = len(unit) == len(chunks) == level.grid.ndim and min(chunks) > 0
    if not fits or any(s % c or s < c for s, c in zip(unit, chunks, strict=True)):
        raise ValueError(
            f"chunks {chunks} and shards {level.shards} do not tile an array of "
            f"{level.grid.shape}: shards must be whole multiples of chunks along each axis"
        )


def create_scratch(path: Path, type: ImageType, chunks: tuple[int, ...]) -> None:  # noqa: A002
    """Lay out an intermediate array without voxels, quick to encode, its grid in attributes."""
    serializer, *compressors = scratch_codecs(type)
    zarr.create_array(
        LocalStore(path),
        shape=type.grid.shape,
        chunks=chunks,
        dtype=type.dtype,
        zarr_format=3,
        fill_value=0,
        serializer=serializer,
        compressors=compressors,
        dimension_names=type.grid.axes,
        attributes={OWN_KEY: type.to_json()},
    )


def result_codecs(dtype: np.dtype[Any]) -> tuple[BloscCodec, Crc32cCodec]:
    """Return Zstd at level 1, then a checksum over what is stored, so that no flip passes."""
    shuffle = "shuffle" if dtype.itemsize > 1 else "bitshuffle"
    return _blosc("zstd", shuffle, dtype), Crc32cCodec()


def scratch_codecs(
    type: ImageType,  # noqa: A002
) -> tuple[ArrayBytesCodec, BloscCodec, Crc32cCodec]:
    """Return LZ4 over bits packed, or bytes or bits shuffled, then a checksum.

    Labels and floats are packed twice as fast over shuffled bytes, and labels smaller; whole
    numbers get smaller over shuffled bits: tests/benchmarks/results/tiers.md.
    """
    if type.dtype == np.bool_:
        return PackBits(), _blosc("lz4", "noshuffle", type.dtype), Crc32cCodec()
    by_bytes = type.dtype.itemsize > 1 and (type.kind == "labels" or type.dtype.kind == "f")
    shuffle = "shuffle" if by_bytes else "bitshuffle"
    return BytesCodec(), _blosc("lz4", shuffle, type.dtype), Crc32cCodec()


def _blosc(cname: Any, shuffle: Any, dtype: np.dtype[Any]) -> BloscCodec:
    return BloscCodec(
        typesize=dtype.itemsize, cname=cname, clevel=1, shuffle=shuffle, blocksize=BLOSC_BLOCK
    )


def image_metadata(name: str, type: ImageType, levels: Sequence[Layout]) -> dict[str, Any]:  # noqa: A002
    """Return the ``ome`` attribute of an image, as OME-Zarr 0.5 asks for."""
    multiscale = {
        "name": name,
        "axes": _axes(levels[0].grid),
        "datasets": [_dataset(index, level.grid) for index, level in enumerate(levels)],
    }
    ome: dict[str, Any] = {"version": OME_VERSION, "multiscales": [multiscale]}
    if type.kind == "labels":
        ome["image-label"] = {"version": OME_VERSION}
    return ome


def _axes(grid: Grid) -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"} | dict.fromkeys(SPATIAL_AXES, "space")
    axes = []
    for name, unit in zip(grid.axes, grid.unit, strict=True):
        entry = {"name": name, "type": kinds[name]}
        if unit is not None:
            entry["unit"] = unit
        axes.append(entry)
    return axes


def _dataset(index: int, grid: Grid) -> dict[str, Any]:
    return {
        "path": str(index),
        "coordinateTransformations": [
            {"type": "scale", "scale": list(grid.scale)},
            {"type": "translation", "translation": list(grid.translation)},
        ],
    }
