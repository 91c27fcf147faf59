"""Staging and publishing: everything is written aside and becomes visible in one rename."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from lepton_pipe.errors import OutputExistsError, RefusedError, RunError, UsageError
from lepton_pipe.run.interrupts import signals_held
from lepton_pipe.store.durable import remove_partials, sync_path, sync_tree
from lepton_pipe.store.open import MARKER

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Staging:
    """A private directory beside the output; `publish` makes it the output.

    After a failure at any point the output is what it was before: absent, or its old version.
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        self.out = out
        self.token = secrets.token_hex(4)
        self.path = out.parent / f".{out.name}.lepton-{self.token}"
        self._overwrite = overwrite
        refuse_output(out, overwrite=overwrite)
        self._made = [p for p in out.parents if not p.exists()]
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise RefusedError(
                f"cannot write beside the output {out}: {error.strerror}; choose another out= or "
                "correct the permissions"
            ) from error

    def publish(self) -> None:
        """Make the staged directory the output, after everything in it is on disk."""
        remove_partials(self.path)
        sync_tree(self.path)
        self.path.chmod(0o777 & ~_umask())
        refuse_output(self.out, overwrite=self._overwrite)
        # From here to the end nothing interrupts: who is told of an interrupt is told that the
        # output is what it was before.
        with signals_held(deliver=False):
            if self.out.exists():
                _exchange(self.path, self.out)
            else:
                self.path.rename(self.out)
            try:
                sync_path(self.out.parent)
            except OSError as error:
                raise RunError(
                    f"{self.out} is published and whole, but {self.out.parent} could not be "
                    f"flushed to disk ({error.strerror}): a power cut now could bring the old "
                    "version back; look at the disk"
                ) from error
            # The old version, if there was one. The new one is published, whatever becomes of it.
            shutil.rmtree(self.path, ignore_errors=True)

    def leftovers(self) -> list[Path]:
        """Return what earlier runs on this output left when they were killed."""
        beside = self.out.parent.glob(f".{glob.escape(self.out.name)}.lepton-*")
        return sorted(p for p in beside if p != self.path)

    def discard(self) -> None:
        """Remove what was staged, and folders made for it; the output is left as it was."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # others may have put something there
            for folder in self._made:
                folder.rmdir()


def refuse_output(out: Path, *, overwrite: bool) -> None:
    """Raise if `out` cannot become the output.

    Raises
    ------
    OutputExistsError
        When something is there already and may not be replaced.
    """
    if out.name in ("", ".."):
        raise UsageError(f"out={out} is no name for an output; name a directory to be made")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise OutputExistsError(
            f"output {out} exists already and would be replaced; choose another out=, or say "
            "--overwrite"
        )
    if out.is_symlink():
        raise OutputExistsError(
            f"output {out} is a symbolic link, which --overwrite does not follow; name the folder "
            "it leads to"
        )
    if not (out.is_dir() and (out / MARKER).is_file()):
        raise OutputExistsError(
            f"output {out} was not made by lepton_pipe (it has no {MARKER}), so --overwrite does "
            "not touch it; choose another out=, or remove it yourself"
        )


def _exchange(a: Path, b: Path) -> None:
    """Swap two directories in one act where the system can, else in two."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        paths = os.fsencode(a), os.fsencode(b)
        done = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
        if done == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            code = ctypes.get_errno()
            raise RunError(f"cannot publish {b}: {os.strerror(code)}; the old version is intact")
    aside = b.with_name(f"{a.name}.old")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
