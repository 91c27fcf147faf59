"""What can be refused before a run starts, by looking at the places it would write to."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lepton_pipe.errors import LockedError, RefusedError, RunError, UsageError, without_secrets
from lepton_pipe.ledger.lock import holder, refuse_locked
from lepton_pipe.plan import Plan
from lepton_pipe.report.plan_text import size
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.publish import refuse_output
from lepton_pipe.run.remote_lock import refusal, refuse_locked_url
from lepton_pipe.run.upload import refuse_output_at
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import Output, RemoteOutput, local_of, output_at
from lepton_pipe.store.remote import FEW_TRIES, RemoteFolder
from lepton_pipe.store.source import Source
from lepton_pipe.store.urls import is_url

# How small results become when compressed: low guesses, so that no run that would fit is refused.
_COMPRESSED = {"image": 0.3, "mask": 0.005, "labels": 0.005}


def run_output(out: str | Path, staging: str | Path | None, *, scheduler: str | None) -> Output:
    """Return where a result goes, see `output_at`.

    Raises
    ------
    UsageError
        Where a cluster that is given could not see what is staged for a URL, too.
    """
    found = output_at(out, staging)
    if isinstance(found, RemoteOutput) and scheduler is not None and staging is None:
        raise UsageError(
            f"out={found} with scheduler={scheduler}: its workers write to a staging folder before "
            "the result is uploaded; name one that all of them see with staging="
        )
    return found


def refuse_places(out: Output, sources: Mapping[str, Source], *, overwrite: bool) -> None:
    """Raise if the output cannot be made where it should be; see `refuse_local_places`.

    Raises
    ------
    LockedError, OutputExistsError, RefusedError
        As for local outputs. Credentials that do not let us look are told as `RefusedError`.
    """
    if not isinstance(out, RemoteOutput):
        refuse_local_places(out, sources, overwrite=overwrite)
        return
    for name, source in sources.items():
        place = source.uri.rstrip("/")
        if is_url(place) and (
            f"{place}/".startswith(f"{out.url}/") or out.url.startswith(f"{place}/")
        ):
            raise RefusedError(
                f"output {out} and input {name} ({without_secrets(place)}) lie inside each other: "
                "publishing would change the input; choose an out= elsewhere"
            )
    if (found := holder(out.local)) is not None:
        raise LockedError(refusal(out, found))
    remote = RemoteFolder(out.url)
    remote.tries = FEW_TRIES
    try:
        refuse_output_at(out, remote)
        refuse_locked_url(out)
    except RunError as error:
        raise RefusedError(f"{error}; nothing was computed") from error


def staging_notes(out: Output, plan: Plan) -> list[str]:
    """Return what is to be known of the place where a result for a URL is made."""
    if not isinstance(out, RemoteOutput):
        return []
    return [
        f"the result is made in {out.staging}, where it takes {size(plan.bytes_stored)} before "
        f"compression, and uploaded to {out} when it is whole; say staging= for another place"
    ]


def refuse_local_places(out: Path, sources: Mapping[str, Source], *, overwrite: bool) -> None:
    """Raise if the output cannot be made where it should be.

    Raises
    ------
    LockedError
        When another run writes it; asked here, before the time that planning takes.
    OutputExistsError
        When something is there already.
    RefusedError
        When the output lies in an input, or an input in the output.
    """
    refuse_output(out, overwrite=overwrite)
    refuse_locked(out)
    resolved = out.resolve()
    above_out = {resolved, *resolved.parents}
    for name, source in sources.items():
        for path, place, inside in _places(source, resolved):
            if inside or place in above_out:
                raise RefusedError(
                    f"output {out} and input {name} ({path}) lie inside each other: publishing "
                    "would destroy or change the input; choose an out= elsewhere"
                )
    for above in resolved.parents:
        if (above / MARKER).is_file():
            raise RefusedError(
                f"output {out} would lie inside {above}, the result of another run, and be lost "
                "when that is overwritten; choose an out= elsewhere"
            )
    parent = next((p for p in resolved.parents if p.exists()), None)
    if parent is not None and not parent.is_dir():
        raise UsageError(f"out={out}: {parent} is a file, so nothing can be made in it")


def _places(source: Source, out: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Yield the paths of an input, where each is, and whether that lies in `out`.

    A folder that thousands of files are in is looked up once.
    """
    folders: dict[Path, tuple[Path, bool]] = {}
    for path in source.paths():
        if path.is_symlink() or path.name == "..":
            place = path.resolve()
            yield path, place, out in place.parents
            continue
        if path.parent not in folders:
            folder = path.parent.resolve()
            folders[path.parent] = folder, out in (folder, *folder.parents)
        folder, inside = folders[path.parent]
        yield path, folder / path.name, inside


def refuse_space(out: Output, plan: Plan) -> None:
    """Raise if nothing can be written where the results go, or the disk is too full for them.

    What a run that was stopped has written already is there, and needs no room once more.

    Raises
    ------
    RefusedError
        When nothing can be made there, or less is free than the results need even if they compress
        well.
    """
    parent = next(p for p in local_of(out).parents if p.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _unwritable(out, parent, "it is protected against writing")
    free = shutil.disk_usage(parent).free
    need = sum(
        int(a.nbytes * _COMPRESSED[a.type.kind])
        for a in plan.arrays.values()
        if a.place != "memory"
    )
    other = "a staging=" if isinstance(out, RemoteOutput) else "an out="
    if free < need and free + _held(HiddenFolder(local_of(out)).staged()) < need:
        _refuse_unwritable(out, parent)
        raise RefusedError(
            f"{parent} has {size(free)} free, but the results need at least "
            f"{size(need)}, compressed; make room, or choose {other} on another disk"
        )


def _refuse_unwritable(out: Output, parent: Path) -> None:
    """Raise if the system makes no folder in `parent`, for another reason than a full disk.

    Some places look writable and have no room whatever one removes, such as ``/proc``.
    """
    try:
        Path(tempfile.mkdtemp(prefix=".lepton.", dir=parent)).rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise _unwritable(out, parent, f"{error.strerror}") from error


def _unwritable(out: Output, parent: Path, why: str) -> RefusedError:
    other = "a staging=" if isinstance(out, RemoteOutput) else "an out="
    return RefusedError(
        f"cannot write beside the output {local_of(out)}: nothing can be made in {parent} ({why}); "
        f"correct the permissions there, or choose {other} elsewhere"
    )


def _held(staged: Path | None) -> int:
    """Return the bytes of the files in a folder."""
    if staged is None:
        return 0
    files = (Path(folder) / name for folder, _, names in os.walk(staged) for name in names)
    return sum(file.lstat().st_size for file in files)
