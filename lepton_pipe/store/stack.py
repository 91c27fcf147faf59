"""A folder or glob of planes as one image."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import DamagedError, InputError
from lepton_pipe.geometry import CANONICAL_AXES, Grid, Region, check_axes
from lepton_pipe.spec import ImageType
from lepton_pipe.store.axes import Wanted, override
from lepton_pipe.store.chunked import ChunkedSource, Index
from lepton_pipe.store.file_digests import file_versions
from lepton_pipe.store.gaps import first_gap
from lepton_pipe.store.planes import PLANE_SUFFIXES, PlaneHeader, decode, read_header
from lepton_pipe.store.source import Source, file_stamp
from lepton_pipe.store.stamps import digest

_HEADER_THREADS = 8


@dataclass(frozen=True)
class StackSource(ChunkedSource):
    """Planes stacked along one axis; each file is a chunk.

    Attributes
    ----------
    folder
        Folder of all files.
    names
        The files in stacking order, relative to `folder`.
    header
        Shape and dtype of each plane.
    axis
        Position of the stacking axis in the grid; None for a single plane.
    broken
        What is wrong with files that cannot be planes of the stack, by their number.
    """

    folder: str
    names: tuple[str, ...]
    header: PlaneHeader
    axis: int | None
    broken: Mapping[int, str] = field(default_factory=dict)

    def _chunk(self, index: Index) -> NDArray[Any]:
        plane = self._plane(self._number(index))
        return plane if self.axis is None else np.expand_dims(plane, self.axis)

    def _stamp(self, index: Index) -> Hashable:
        name = self.names[self._number(index)]
        return name, file_stamp(Path(self.folder, name))

    def _number(self, index: Index) -> int:
        return 0 if self.axis is None else index[self.axis]

    def _plane(self, index: int) -> NDArray[Any]:
        """Return one plane, without the stacking axis."""
        path = Path(self.folder, self.names[index])
        if index in self.broken:
            raise DamagedError(self.broken[index])
        try:
            pixels = decode(path)
        except (DamagedError, OSError, MemoryError):
            raise
        except Exception as error:
            raise DamagedError(
                f"{path}: cannot be decoded ({error}); restore the file, or leave it out"
            ) from error
        if pixels.shape != self.header.shape or pixels.dtype != self.header.dtype:
            raise DamagedError(
                f"{path}: is {pixels.dtype} of {pixels.shape} now, but was {self.header} when the "
                "stack was opened; do not change inputs during a run"
            )
        return np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels

    @property
    def stamp_unit(self) -> tuple[int, ...]:
        """Shape of a plane."""
        return self.chunks

    def _form(self) -> tuple[Any, ...]:
        return (self.axis, str(self.header))

    def unit_stamps(self, units: Sequence[Index]) -> list[bytes]:
        """Return name and version of the file of each plane, or its bytes whatever the name."""
        names = [self.names[self._number(unit)] for unit in units]
        paths = [f"{self.folder}/{name}" for name in names]
        versions = file_versions(paths, by_bytes=self.by_bytes)
        if self.by_bytes:
            return versions
        return [digest([n, v.hex()]) for n, v in zip(names, versions, strict=True)]

    def file_of(self, region: Region) -> str:
        """Return the file of the first plane of a region."""
        return str(Path(self.folder, self.names[self._number(region.start)]))

    def notes(self) -> list[str]:
        """Return a note where numbers are missing among those of the files."""
        found = first_gap(self.names)
        if found is None:
            return []
        first, missing = found
        many = "is not there" if missing == 1 else f"and {missing - 1} more are not there"
        return [
            f"the numbers of its files have a gap: {first} {many}. Planes are stacked as if they "
            "followed each other, so positions after it are too low by as many: put what is "
            "missing in its place, if it was not left out on purpose"
        ]

    def identity(self) -> dict[str, Any]:
        """Return number, size and a digest of names, sizes and times of the files.

        Times are none of it where files are known by their bytes.
        """
        total, marks = 0, hashlib.blake2b(digest_size=16)
        for name in self.names:
            size, changed, *_ = file_stamp(Path(self.folder, name)) or (0, 0)
            total += size
            changed = 0 if self.by_bytes else changed
            marks.update(f"{name}\0{size}\0{changed}\n".encode())
        return {
            "uri": self.uri,
            "format": "stack",
            "shape": list(self.type.grid.shape),
            "dtype": self.type.dtype.str,
            "files": len(self.names),
            "bytes": total,
            "digest": marks.hexdigest(),
        }

    def stored_bytes(self) -> int | None:
        """Return the bytes of all files."""
        return sum((file_stamp(Path(self.folder, n)) or (0,))[0] for n in self.names)

    def paths(self) -> tuple[Path, ...]:
        """Return the folder where the stack is a whole folder, else each file."""
        whole = Path(self.uri)
        if whole.is_dir():
            return (whole,)
        return tuple(Path(self.folder, name) for name in self.names)


def natural_key(name: str) -> tuple[Any, ...]:
    """Return a sort key by which ``img2`` comes before ``img10``."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts)


def files_of_folder(folder: Path) -> list[Path]:
    """Return the planes in a folder.

    Raises
    ------
    InputError
        When there are none, or files of several kinds, so that it is not clear which are meant.
    """
    files = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in PLANE_SUFFIXES and not p.name.startswith(".")
    ]
    if not files:
        raise InputError(
            f"{folder}: is a folder without zarr metadata and without TIFF, PNG or JPEG files; "
            "check the path"
        )
    kinds = sorted({p.suffix.lower() for p in files})
    if len({"jpg" if k in {".jpg", ".jpeg"} else k[:4] for k in kinds}) > 1:
        raise InputError(
            f"{folder}: holds images of several kinds ({', '.join(kinds)}); say which are meant "
            f"by a pattern, such as {folder}/*{kinds[0]}"
        )
    return files


def open_plane(path: Path, wanted: Wanted) -> Source:
    """Open a single PNG or JPEG file as an image ``(y, x)`` or ``(c, y, x)``."""
    return _open(str(path), [path], wanted, single=True)


def open_stack(uri: str, files: Sequence[Path], wanted: Wanted) -> Source:
    """Open planes as one image, stacked along z unless the axes asked for say otherwise.

    Raises
    ------
    InputError
        When a file is no plane, or not all are of the same shape and dtype.
    """
    for path in files:
        if path.suffix.lower() not in PLANE_SUFFIXES:
            raise InputError(f"{path}: is not a TIFF, PNG or JPEG file; make the pattern narrower")
    return _open(uri, sorted(files, key=lambda p: natural_key(str(p))), wanted, single=False)


def _open(uri: str, files: Sequence[Path], wanted: Wanted, *, single: bool) -> Source:
    if wanted.level not in {None, 0}:
        raise InputError(f"{uri}: planes have no scale level {wanted.level}, only level 0")
    header, broken = _common_header(files, tolerant=wanted.tolerant)
    axes, axis = _axes(uri, header, wanted, single=single)
    plane = header.shape if len(header.shape) == 2 else (header.shape[2], *header.shape[:2])
    shape = list(plane)
    chunks = list(plane)
    if axis is not None:
        shape.insert(axis, len(files))
        chunks.insert(axis, 1)
    kind = ImageType(override(Grid.of(shape, axes), wanted), header.dtype)
    folder = Path(os.path.commonpath([p.parent for p in files]))
    names = tuple(str(p.relative_to(folder)) for p in files)
    return StackSource(uri, kind, tuple(chunks), str(folder), names, header, axis, broken)


def _common_header(
    files: Sequence[Path], *, tolerant: bool
) -> tuple[PlaneHeader, Mapping[int, str]]:
    """Return what all planes are like, and what is wrong with files that are not.

    With `tolerant`, most files say what planes are like; else the first does, and another one is
    refused.
    """
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        headers = pool.map(partial(_header, tolerant=tolerant), files)
        first = next(headers)
        if not tolerant:
            for path, header in zip(files[1:], headers, strict=True):
                if header != first:
                    raise InputError(_unlike(path, header, f"{files[0].name} is {first}"))
            assert isinstance(first, PlaneHeader)
            return first, {}
        return _most_common(files, [first, *headers])


def _header(path: Path, *, tolerant: bool) -> PlaneHeader | InputError:
    try:
        return read_header(path)
    except InputError as error:
        if not tolerant:
            raise
        return error


def _most_common(
    files: Sequence[Path], headers: Sequence[PlaneHeader | InputError]
) -> tuple[PlaneHeader, Mapping[int, str]]:
    counted = Counter(h for h in headers if isinstance(h, PlaneHeader))
    if not counted:
        assert isinstance(headers[0], InputError)
        raise headers[0]
    ((usual, _),) = counted.most_common(1)
    broken = {}
    for i, (path, header) in enumerate(zip(files, headers, strict=True)):
        if isinstance(header, InputError):
            broken[i] = str(header)
        elif header != usual:
            broken[i] = _unlike(path, header, f"most planes of the stack are {usual}")
    return usual, broken


def _unlike(path: Path, header: object, others: str) -> str:
    return (
        f"{path}: is {header}, but {others}; all planes of a stack must be alike: leave it out by "
        "a narrower pattern, or convert it"
    )


def _axes(
    uri: str, header: PlaneHeader, wanted: Wanted, *, single: bool
) -> tuple[tuple[str, ...], int | None]:
    """Return the axes of the whole and the position of the stacking axis."""
    plane = {"y", "x"} if len(header.shape) == 2 else {"c", "y", "x"}
    if single:
        asked = set(wanted.axes) if wanted.axes is not None else plane
        if asked != plane:
            raise InputError(
                f"{uri}: a plane of shape {header.shape} has axes {''.join(sorted(plane))}, not "
                f"{''.join(wanted.axes or '')}"
            )
        return tuple(a for a in CANONICAL_AXES if a in plane), None
    names = tuple(wanted.axes) if wanted.axes is not None else tuple({"z", *plane})
    stacking = set(names) - plane
    if len(stacking) != 1 or len(names) != len(plane) + 1 or not stacking <= set(CANONICAL_AXES):
        raise InputError(
            f"{uri}: axes {''.join(names)!r} do not fit planes of shape {header.shape}: name "
            f"{', '.join(sorted(plane))} and one axis to stack them along, such as 'tyx'"
        )
    axes = check_axes([a for a in CANONICAL_AXES if a in names], len(names))
    return axes, axes.index(stacking.pop())
