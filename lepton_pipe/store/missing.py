"""What it means that a chunk is not there: it was lost, nobody says why, or it is fill values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from lepton_pipe.errors import DamagedError, InputError
from lepton_pipe.geometry import Region

Missing = Literal["lost", "refused", "fill"]
"""Of an array's chunks that are not there: all were written, so it was lost (arrays of our own);
nobody has said what it means, so it is refused; the input is sparse, so it holds fill values."""

MARKER = "lepton.json"
"""File that makes a folder the result of a run."""

_HIGHEST_RESULT = 4
"""Folders from an array of a result up to the result itself: image, variant, folder, result."""

_LONGEST_RECORD = 64 << 20
_SPARSE = "give --sparse (in Python sparse=True)"


class Absent(NamedTuple):
    """Stored units (shards or chunks) of an array that are not there.

    Attributes
    ----------
    missing, units
        How many are not there, and how many there should be.
    first
        Name of the first one that is not there.
    """

    missing: int
    units: int
    first: str


def meaning(uri: str, *, sparse: bool) -> Missing:
    """Return what a chunk that is not there means in the array at `uri`.

    Parameters
    ----------
    sparse
        Whether the user says that missing chunks are meant to be. Of a result of our own nobody
        can say that: all its chunks were written.
    """
    if _is_result(uri):
        return "lost"
    return "fill" if sparse else "refused"


def _is_result(uri: str) -> bool:
    """Tell whether an array is one of a result, and none of its blocks was given up."""
    if "://" in uri:
        return False
    array = Path(uri)
    for folder in list(array.parents)[:_HIGHEST_RESULT]:
        if (folder / MARKER).is_file():
            record = _record(folder / MARKER)
            places = {folder / str(o.get("path")) for o in _outputs(record)}
            return bool(places & {array, *array.parents}) and not record.get("quarantined")
    return False


def images_of(result: Path) -> list[str]:
    """Return the paths of the images of a result; none where its record cannot be read."""
    outputs = _outputs(_record(result / MARKER))
    return [str(result / str(o.get("path"))) for o in outputs if "levels" in o]


def _record(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(_LONGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _outputs(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    measured = record.get("measured")
    outputs = measured.get("outputs") if isinstance(measured, Mapping) else None
    images = outputs.values() if isinstance(outputs, Mapping) else ()
    return [o for o in images if isinstance(o, Mapping)]


def refuse_missing(
    where: object, key: str, region: Region, missing: Missing, fill: Any
) -> NoReturn:
    """Raise `DamagedError` for a chunk that is not there.

    Parameters
    ----------
    key
        Name of its file.
    region
        The voxels that it holds, in the axes of the array.
    fill
        The value that zarr would make of it.
    """
    what = f"{where}: chunk {key} is missing (voxels {region})"
    if missing == "lost":
        raise DamagedError(
            f"{what}, though it was written; the store was changed or the disk lost it: run again "
            "to make it anew"
        )
    raise DamagedError(
        f"{what}. zarr leaves out chunks that hold the fill value alone: if this image was written "
        f"so, {_SPARSE}, and they read as {fill}; else a part of it was lost: restore it"
    )


def refuse_absent(where: object, found: Absent, missing: Missing, fill: Any) -> NoReturn:
    """Raise `InputError` for an array of which chunks are missing before anything was read."""
    some = f"{found.missing} of {found.units} chunk files are missing, such as {found.first}"
    if missing == "lost":
        raise InputError(
            f"{where}: {some}. All were written when this result was made: restore them, or make "
            "the result anew"
        )
    raise InputError(
        f"{where}: {some}. zarr leaves out chunks that hold the fill value alone: if this image "
        f"was written so, {_SPARSE}, and they read as {fill}; else it was not written to its end, "
        "or not copied whole: restore it"
    )
