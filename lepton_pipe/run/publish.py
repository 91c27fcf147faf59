"""Staging and publishing: everything is written aside and becomes visible in one rename."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path

from lepton_pipe.errors import OutputExistsError, RefusedError, RunError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.ledger.lock import OutputLock
from lepton_pipe.run.hidden import HiddenFolder, remove_empty
from lepton_pipe.run.interrupts import signals_held
from lepton_pipe.run.own_files import carry_over
from lepton_pipe.store.durable import remove_partials, sync_path, sync_tree
from lepton_pipe.store.open import MARKER

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Staging:
    """A private folder beside the output; `publish` makes it the output.

    It holds the lock of the output from its making to `publish`, `keep` or `discard`. After a
    failure or a kill at any point the output is what it was before (absent, or its old version)
    or the new one; where the system cannot exchange two folders in one act, the old version may
    be out of its place until the next run, or ``lepton-pipe clean``, puts it back.

    Parameters
    ----------
    out
        The output; folders above it are made.
    overwrite
        Whether an output of ours that is there may be replaced.
    resume
        Go on with what a run that was stopped has left, if there is such; else it is removed.

    Attributes
    ----------
    path
        The folder to write to. Another one in each process, also when it is resumed: paths in it
        are to be kept relative to it.
    token
        Eight hexadecimal digits that no other process has.
    resumed
        Whether `path` holds what an earlier run left.
    published
        Whether `publish` got as far as putting the result in its place.

    Raises
    ------
    LockedError
        When another run writes this output.
    OutputExistsError
        When something is there that may not be replaced.
    RefusedError
        When nothing can be written beside the output, or what is there is not ours.
    """

    def __init__(self, out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.out = out
        self.token = secrets.token_hex(4)
        self.resumed = False
        self.published = False
        self._overwrite = overwrite
        refuse_output(out, overwrite=overwrite)
        self._lock = OutputLock(out)
        self._hidden = HiddenFolder(out)
        missing = [p for p in out.parents if not p.exists()]
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self.path = self._opened(len(missing), resume=resume)
        except BaseException as error:
            self._lock.release()
            remove_empty(missing)
            if not isinstance(error, OSError):
                raise
            raise RefusedError(
                f"cannot write beside the output {out}: {error.strerror}; make room or correct the "
                "permissions there, or choose another out="
            ) from error

    def _opened(self, made: int, *, resume: bool) -> Path:
        self._hidden.settle()
        # Once more: the old version may just have been put back.
        refuse_output(self.out, overwrite=self._overwrite)
        staged = self._hidden.staged() if resume else None
        if staged is None:
            return self._hidden.begin(self.token, made)
        self.resumed = True
        return self._hidden.adopt(staged, self.token)

    def publish(self) -> None:
        """Make the staged folder the output, after everything in it is on disk.

        What others put into an old version is in the new one, too.
        """
        failpoint("publish", 1)
        remove_partials(self.path)
        failpoint("publish", 2)
        self.path.chmod(0o777 & ~_umask())
        self._hidden.begin_publishing(self.path)
        failpoint("publish", 3)
        sync_tree(self._hidden.path)
        # That may have taken minutes, in which somebody put something into the old version.
        if self.out.exists() and carry_over(self.out, self.path):
            sync_tree(self._hidden.path)
        failpoint("publish", 4)
        refuse_output(self.out, overwrite=self._overwrite)
        # From here to the end nothing interrupts: who is told of an interrupt is told that the
        # output is what it was before.
        with signals_held(deliver=False):
            self._put_in_place()
            self.published = True
            failpoint("publish", 8)
            self._flush()
            failpoint("publish", 9)
            # The old version, if there was one. The new one is published, whatever becomes of it.
            self._hidden.remove()
            failpoint("publish", 10)
            self._lock.release()
            failpoint("publish", 11)

    def _put_in_place(self) -> None:
        failpoint("publish", 5)
        if self.out.exists():
            _exchange(self.path, self.out, self._hidden.aside(self.path))
        else:
            self.path.rename(self.out)

    def _flush(self) -> None:
        try:
            sync_path(self._hidden.path)
            sync_path(self.out.parent)
        except OSError as error:
            raise RunError(
                f"{self.out} is published and whole, but {self.out.parent} could not be "
                f"flushed to disk ({error.strerror}): a power cut now could bring the old "
                "version back; look at the disk"
            ) from error

    def keep(self) -> None:
        """Leave what was staged for a later run to resume, and let that run have the lock."""
        self._lock.release()

    def discard(self) -> None:
        """Remove what was staged, and folders made for it; the output is left as it was."""
        if not self._lock.held:  # it is over, and what is there may be another run's
            return
        made = self._hidden.made_for_it()
        try:
            self._hidden.remove()
        finally:
            self._lock.release()
            remove_empty(made)


def refuse_output(out: Path, *, overwrite: bool) -> None:
    """Raise if `out` cannot become the output.

    Raises
    ------
    OutputExistsError
        When something is there already and may not be replaced.
    """
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise OutputExistsError(
            f"output {out} exists already and would be replaced; choose another out=, or say "
            "--overwrite, or --update to compute only what has changed since it was made"
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
    if not os.access(out, os.W_OK):
        raise OutputExistsError(
            f"output {out} is protected against writing, so --overwrite does not touch it; choose "
            "another out=, or make it writable (chmod u+w)"
        )


def _exchange(new: Path, out: Path, aside: Path) -> None:
    """Swap two folders in one act where the system can, else in two.

    After two, the old version is at `aside` instead of at `new`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        paths = os.fsencode(new), os.fsencode(out)
        done = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
        if done == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            code = ctypes.get_errno()
            raise RunError(f"cannot publish {out}: {os.strerror(code)}; the old version is intact")
    out.rename(aside)
    failpoint("publish", 6)
    try:
        new.rename(out)
    except OSError:
        aside.rename(out)
        raise
    failpoint("publish", 7)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
