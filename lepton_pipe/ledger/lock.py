"""One writer per output: a lock that dies with its process, and names who holds it.

The lock is ``flock`` on the file ``.NAME.lepton.lock`` beside the output. The system lets go of it
when its process ends, however that ends, so the file alone means nothing. Where a file system has
no such locks, the file itself is the lock, and its holder is looked up (see `_take_by_name`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shlex
import socket
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from lepton_pipe.errors import LockedError, RefusedError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.ledger.holder import Holder, lives, myself, parsed

_PATIENCE = 0.3
"""Seconds in which a lock is tried: who looks at it (`holder`) has it for microseconds."""
_ABSENT = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What a file system without locks answers."""
_CLAIM = "00000000"
"""Ends the name of the claim: as the names of passing files end, which `clean` removes."""
_LONGEST = 4096


class OutputLock:
    """The right to write one output; for use in a ``with`` statement.

    Parameters
    ----------
    out
        The output; its folder must be there.

    Raises
    ------
    LockedError
        When a live process has it; nothing was changed. Says so in less than a second.
    RefusedError
        When what is at the place of the lock file is no file of ours.
    OSError
        When the system does not let the lock file be made.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = lock_path(out)
        self._descriptor: int | None = None
        _locks.add(self)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, or raise; a lock that is held already by this object stays so."""
        deadline = time.monotonic() + _PATIENCE
        while self._descriptor is None:
            descriptor = _open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                if self._take(descriptor):
                    self._descriptor, descriptor = descriptor, -1
            except _NoLocksError:
                self._descriptor = _take_by_name(self.out, self.path)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if self._descriptor is None and time.monotonic() > deadline:
                raise LockedError(_refusal(self.out, _said(_in_the_way(self.path))))
            if self._descriptor is None:
                time.sleep(_PATIENCE / 15)
        failpoint("lock", 1)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def _take(self, descriptor: int) -> bool:
        if not _flock(descriptor, fcntl.LOCK_EX):
            return False
        # The file may have been removed, by the run that had it, before it was locked here.
        if not _is_at(descriptor, self.path):
            return False
        # On a full disk the holder has no name, and the lock holds nevertheless.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, myself(), 0)
        return True

    def release(self) -> None:
        """Give the lock back, and leave no file behind."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        failpoint("lock", 2)
        # Removed while it is held: who has it open finds, once it is free, that it is gone.
        if _is_at(descriptor, self.path):
            with suppress(OSError):
                self.path.unlink()
        failpoint("lock", 3)
        os.close(descriptor)

    def forget(self) -> None:
        """Close the lock in a process that was forked from its holder; the holder keeps it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_locks: weakref.WeakSet[OutputLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_locks):
        lock.forget()


# A forked process that outlives its parent would hold the lock on for it.
os.register_at_fork(after_in_child=_forget_all)


def lock_path(out: Path) -> Path:
    """Return the place of the lock file of an output."""
    return out.with_name(f".{out.name}.lepton.lock")


def holder(out: Path) -> Holder | None:
    """Return the live process that writes `out`, or None; takes and changes nothing."""
    path = lock_path(out)
    try:
        descriptor = _open(path, os.O_RDONLY)
    except PermissionError:
        return Holder()
    except (OSError, RefusedError):
        return None
    try:
        # Shared, so that two who look at once do not take each other for a holder.
        if _flock(descriptor, fcntl.LOCK_SH):
            return None
        return parsed(os.pread(descriptor, _LONGEST, 0))
    except _NoLocksError:
        said = os.pread(descriptor, _LONGEST, 0)
        return parsed(said) if lives(said) else None
    finally:
        os.close(descriptor)


def refuse_locked(out: Path) -> None:
    """Raise `LockedError` if a live process writes `out` now."""
    found = holder(out)
    if found is not None:
        raise LockedError(_refusal(out, found))


def _refusal(out: Path, found: Holder) -> str:
    here = found.pid and found.host == socket.gethostname()
    stop = f" (kill {found.pid})" if here else ""
    path = lock_path(out)
    files = " and ".join(map(str, [path, *filter(os.path.lexists, [_claim_path(path)])]))
    sure = "" if here else f"; if you are sure that it is gone, remove {files}"
    return (
        f"output {out} is being written by {found}, and two runs would destroy each other's work; "
        f"wait for its end (lepton-pipe status {shlex.quote(str(out))} shows how far it is), stop "
        f"it{stop}, or choose another out={sure}"
    )


class _NoLocksError(Exception):
    """The file system has no locks."""


def _flock(descriptor: int, kind: int) -> bool:
    """Try to lock an open file and tell whether that worked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _ABSENT:
            raise _NoLocksError from error
        raise
    return True


def _open(path: Path, flags: int) -> int:
    """Open a lock file; refuse what was put in its place to lead us elsewhere."""
    try:
        # Without O_NONBLOCK a pipe at this place would block for ever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise RefusedError(_no_lock_file(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedError(_no_lock_file(path))
    return descriptor


def _no_lock_file(path: Path) -> str:
    return (
        f"{path} is the place of a lock file, but what is there is no file, so nothing can be "
        "locked; look at it and remove it, or choose another out="
    )


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the open file is the one that is at `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _said(path: Path) -> Holder:
    """Return who a lock file names."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except (OSError, RefusedError):
        return Holder()
    try:
        return parsed(os.pread(descriptor, _LONGEST, 0))
    finally:
        os.close(descriptor)


# ---- where the file system has no locks ----------------------------------------------------------


def _take_by_name(out: Path, path: Path) -> int | None:
    """Take the lock by putting a file with our name in its place.

    A file that names a process of this host that is gone is replaced. One that names another host
    is believed, since that cannot be looked up. Nobody looks and replaces but who has the claim,
    which is a file that one process alone can make: so a live lock is never taken for the dead one
    that lay there a moment before.

    Returns
    -------
    int or None
        The open lock file; None when somebody else came first and it is worth another look.
    """
    _refuse_live(out, path)
    mine = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    taken = False
    try:
        os.pwrite(descriptor, myself(), 0)
        with _claim(mine, path) as claimed:
            if claimed:
                _refuse_live(out, path)
                mine.replace(path)
                taken = True
    except OSError as error:
        if not _content(path):  # nobody can have it: it was made to look for locks
            path.unlink(missing_ok=True)
        raise RefusedError(
            f"{path.parent} is on a file system that has neither locks nor hard links "
            f"({error.strerror}), so two runs could not be kept apart; choose an out= elsewhere"
        ) from error
    finally:
        mine.unlink(missing_ok=True)
        if not taken:
            os.close(descriptor)
    return descriptor if taken else None


def _refuse_live(out: Path, path: Path) -> None:
    """Raise `LockedError` if a lock file names a process that may be alive."""
    said = _content(path)
    if lives(said):
        raise LockedError(_refusal(out, parsed(said)))


def _claim_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{_CLAIM}")


def _in_the_way(path: Path) -> Path:
    """Return the lock file, or the claim to it if that is what names a process that may live."""
    claim = _claim_path(path)
    return claim if os.path.lexists(claim) and not lives(_content(path)) else path


@contextmanager
def _claim(mine: Path, path: Path) -> Iterator[bool]:
    """Have the right to replace a lock file in the body, if nobody has; it is held for moments.

    The claim of a process that died in the body is removed, for the next look.

    Parameters
    ----------
    mine
        A file that names this process.
    """
    claim = _claim_path(path)
    try:
        os.link(mine, claim)
    except FileExistsError:
        said = _content(claim)
        if said and not lives(said):
            claim.unlink(missing_ok=True)
        yield False
        return
    try:
        yield True
    finally:
        claim.unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()[:_LONGEST]
    except FileNotFoundError:
        return b""
