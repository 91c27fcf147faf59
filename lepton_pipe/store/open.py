"""Open whatever a user hands over as an image."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_pipe.errors import InputError
from lepton_pipe.store.arrays import open_array, open_npy
from lepton_pipe.store.axes import Wanted
from lepton_pipe.store.missing import MARKER, images_of
from lepton_pipe.store.planes import PLANE_SUFFIXES
from lepton_pipe.store.source import Source
from lepton_pipe.store.stack import files_of_folder, open_plane, open_stack
from lepton_pipe.store.tiff import open_tiff
from lepton_pipe.store.tiff_cut import open_cut
from lepton_pipe.store.urls import check_url, is_url, local_path
from lepton_pipe.store.zarr_input import is_zarr, open_zarr

__all__ = ["MARKER", "open_source"]

# Folders of a result above one that holds images.
_HIGHEST_RESULT = 2
_SHOWN = 10
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".lsm", ".ndpi", ".scn", ".qptiff")
# Files that are mapped or decoded as a whole.
_FROM_PATHS = (".npy", *(s for s in PLANE_SUFFIXES if s not in TIFF_SUFFIXES))


def open_source(
    what: Any,
    *,
    level: int | None = None,
    axes: str | Sequence[str] | None = None,
    scale: Any = None,
    unit: Any = None,
    tolerant: bool = False,
    sparse: bool = False,
) -> Source:
    """Open an image.

    Parameters
    ----------
    what
        A path (zarr, OME-Zarr, TIFF, .npy, PNG, JPEG), a folder or glob of planes, a URL, a NumPy
        array, or a source, which is returned as it is.
    level
        Scale level of a pyramid, 0 (the finest) unless given.
    axes
        Names of the axes in the order in which they are stored, where the file does not say or
        says it wrong; for a stack of planes, the axes of the whole, such as ``"tyx"``.
    scale
        Voxel size: one number for z, y and x, one for each spatial axis, one for each axis in
        the order t, c, z, y, x, or a mapping such as ``{"z": 2.0}``.
    unit
        Unit of the spatial axes, or a mapping such as ``{"t": "second"}``: a name that OME-Zarr
        knows, or usual short for it (``"um"``), or an angle.
    tolerant
        Whether a stack of planes is opened although some of its files cannot be read; reading
        those raises, then.
    sparse
        Whether stored chunks that are missing hold fill values, as zarr takes it; else they are
        an error.

    Raises
    ------
    InputError
        When there is no image to be read from it; the message says why and what to do.
    UsageError
        When a URL is of a scheme that is not opened, or a unit is not known.
    """
    wanted = Wanted(level, axes, scale, unit, tolerant=tolerant, sparse=sparse)
    if isinstance(what, Source):
        return what.as_sparse() if sparse else what
    if isinstance(what, str | os.PathLike):
        return _open_address(os.fspath(what), wanted)
    if isinstance(what, np.ndarray) or hasattr(what, "__array__"):
        return open_array(np.asarray(what), wanted)
    raise InputError(
        f"{type(what).__name__}: not an image; give a path, a URL, a NumPy array or a source"
    )


def _open_address(address: str, wanted: Wanted) -> Source:
    if not address:
        raise InputError("the path of an input is empty")
    if is_url(address):
        check_url(address)
        path = local_path(address)
        return _open_url(address, wanted) if path is None else _open_path(path, wanted)
    path = Path(address).expanduser()
    if not path.exists() and glob.has_magic(address):
        return _open_glob(address, wanted)
    return _open_path(path, wanted)


def _open_url(url: str, wanted: Wanted) -> Source:
    path = url.lower().split("?")[0].rstrip("/")
    if path.endswith(TIFF_SUFFIXES):
        return open_tiff(url, wanted)
    kind = next((s for s in _FROM_PATHS if path.endswith(s)), None)
    if kind is not None:
        raise InputError(
            f"{url}: {kind} files are not read from a URL, where zarr, OME-Zarr and TIFF are; "
            "download it and give its path, or store it as zarr"
        )
    return open_zarr(url.rstrip("/"), wanted)


def _open_glob(pattern: str, wanted: Wanted) -> Source:
    files = [Path(name).absolute() for name in glob.glob(str(Path(pattern).expanduser()))]  # noqa: PTH207
    if not files:
        raise InputError(f"{pattern}: no file matches; check the pattern and the folder")
    if len(files) == 1:
        return _open_path(files[0], wanted)
    return open_stack(str(Path(pattern).expanduser().absolute()), files, wanted)


def _open_path(path: Path, wanted: Wanted) -> Source:
    path = path.absolute()
    if not path.exists():
        raise InputError(f"{path}: does not exist; check the path")
    if path.is_dir():
        return _open_folder(path, wanted)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return open_npy(path, wanted)
    if suffix in TIFF_SUFFIXES:
        return _open_tiff(path, wanted)
    if suffix in PLANE_SUFFIXES:
        return open_plane(path, wanted)
    raise InputError(
        f"{path}: files of this kind are not understood; give zarr, TIFF, .npy, PNG or JPEG, or "
        "read it yourself and hand over the array"
    )


def _open_tiff(path: Path, wanted: Wanted) -> Source:
    try:
        return open_tiff(str(path), wanted)
    except InputError:
        found = open_cut(str(path), wanted) if wanted.tolerant else None
        if found is None:
            raise
        return found


def _open_folder(path: Path, wanted: Wanted) -> Source:
    if is_zarr(path):
        return open_zarr(str(path), wanted)
    for result in (path, *path.parents[:_HIGHEST_RESULT]):
        if (result / MARKER).is_file():
            images = [i for i in images_of(result) if Path(i).is_relative_to(path)]
            more = ["..."] if len(images) > _SHOWN else []
            raise InputError(
                f"{path}: is {'' if result == path else 'part of '}the result of a run; name one "
                f"of its images: {', '.join([*images[:_SHOWN], *more]) or '(it has none)'}"
            )
    return open_stack(str(path), files_of_folder(path), wanted)
