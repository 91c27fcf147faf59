"""Names that a file gives of others: they must stay below the folder they are relative to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lepton_pipe.errors import InputError


def inside(folder: Path, name: str, who: str) -> Path:
    """Return the path that `name` means below `folder`.

    Parameters
    ----------
    who
        What names it, for messages.

    Raises
    ------
    InputError
        When it is absolute, climbs with ``..``, or leads elsewhere by a symbolic link.
    """
    check_name(name, who)
    path = folder / name
    if path.exists() and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{who} names {name!r}, a symbolic link to {path.resolve()}, outside {folder}; what "
            "lies elsewhere is not read in its name: open it by its own path"
        )
    return path


def check_name(name: str, who: str) -> None:
    """Raise `InputError` when a relative name would lead outside, whatever lies there."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or "://" in name or name[1:2] == ":":
        raise InputError(
            f"{who} names {name!r}, which is outside its own folder; what lies elsewhere is not "
            "read in its name: open it by its own path"
        )
