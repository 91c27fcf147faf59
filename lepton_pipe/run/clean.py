"""Remove what a run that was stopped, and is not wanted any more, has left beside its output."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lepton_pipe.errors import RefusedError, RunError
from lepton_pipe.ledger.lock import OutputLock, lock_path
from lepton_pipe.report.plan_text import count, size
from lepton_pipe.run.hidden import HiddenFolder, remove_empty
from lepton_pipe.store.output import Output


@dataclass(frozen=True)
class Cleaned:
    """What `clean` did.

    Attributes
    ----------
    out
        The output; it was not touched.
    removed
        What was removed, and how many bytes that gave back.
    put_back
        Whether a kill had left the old version of the output out of its place.
    objects
        How many objects of an upload that did not end were removed from the output's URL.
    """

    out: Output
    removed: tuple[tuple[Path, int], ...] = ()
    put_back: bool = False
    objects: int = 0

    def __str__(self) -> str:
        lines = [f"removed {path} ({size(freed)})" for path, freed in self.removed]
        if self.put_back:
            lines.append(f"put the old version of {self.out} back in its place")
        if self.objects:
            lines.append(f"removed {count(self.objects, 'object')} at {self.out}")
        if not lines:
            return f"{self.out}: no run has left anything there; nothing was removed"
        total = sum(freed for _, freed in self.removed)
        return "\n".join([*lines, f"{size(total)} ({total} bytes) are free again"])


def clean(out: Path) -> Cleaned:
    """Remove staging, lock, and replaced versions that killed runs left; never the output.

    Raises
    ------
    LockedError
        When a live run writes this output; nothing was removed.
    RefusedError
        When what is there is not ours; nothing was removed.
    RunError
        When the system refuses to remove something; says what.
    """
    hidden = HiddenFolder(out)
    locks = _lock_files(out)
    if not (hidden.is_there() or locks):
        return Cleaned(out)
    removed = [(path, _bytes(path)) for path in locks]
    try:
        with OutputLock(out):
            put_back = hidden.put_back()
            if hidden.is_there():
                removed.insert(0, (hidden.path, _bytes(hidden.path)))
            made = hidden.made_for_it()
            hidden.remove()
            _check_gone(hidden.path)
            for path in locks:
                if path != lock_path(out):  # that one goes with the lock
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(
            f"cannot clean beside {out}: {error.strerror}: {error.filename}; correct the "
            "permissions and clean again"
        ) from error
    remove_empty(made)
    return Cleaned(out, tuple(removed), put_back)


def _lock_files(out: Path) -> list[Path]:
    """Return the lock file, and what a kill left of those under passing names."""
    lock = lock_path(out)
    ours = re.compile(rf"{re.escape(lock.name)}(\.[0-9a-f]{{8}})?")
    with suppress(OSError):
        return sorted(p for p in lock.parent.iterdir() if ours.fullmatch(p.name))
    return []


def _bytes(path: Path) -> int:
    """Return how many bytes are free when this is removed."""
    total = 0
    for folder, _, names in os.walk(path):
        total += sum(_freed(os.path.join(folder, name)) for name in names)  # noqa: PTH118
    return total if path.is_dir() else _freed(path)


def _freed(file: str | Path) -> int:
    """Return the size of a file; none of one that an output has too, under another name."""
    try:
        info = os.lstat(file)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 else 0


def _check_gone(path: Path) -> None:
    if not os.path.lexists(path):
        return
    left = next((p for p in sorted(path.rglob("*")) if not p.is_dir()), path)
    raise RunError(
        f"{left} could not be removed, and perhaps more in {path}; correct the permissions, or "
        "wait for the workers that still write there, and clean again"
    )
