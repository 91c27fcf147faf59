"""The hidden folder beside an output, ``.NAME.lepton``: what is in it, and what a kill left there.

======================  ========================================================================
``state.json``          which run folder is the one that counts, and whether it is being published
``run-TOKEN/``          staging, as it will be published; after an exchange, the old version
``old-TOKEN/``          the old version, where the system cannot exchange two folders in one act
``gone-TOKEN/``         being removed; never looked at again
======================  ========================================================================

The run folder has another name in every process that works on it: who was killed, and has workers
that do not know it yet, must not write into what the next one resumes. All that changes something
here is called by the holder of the output's lock alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lepton_pipe.errors import RefusedError, RunError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.ledger import KNOWN
from lepton_pipe.store.durable import sync_path, write_whole
from lepton_pipe.store.open import MARKER

_STATE = "state.json"
_VERSION = "version"
_RUN = re.compile(r"run-[0-9a-f]{8}")
_OURS = re.compile(rf"(run|old|gone)-[0-9a-f]{{8}}|{re.escape(_STATE)}(\.[0-9a-f]+\.partial)?")
_LONGEST = 4096


class _State(NamedTuple):
    """What must outlive the process.

    Attributes
    ----------
    run, was
        Name of the run folder, and the one it had before: it is renamed after this is written.
    made
        How many folders above the output were made for it.
    publishing
        Digest of the record of what is being published, from just before that on: a run folder
        with another record holds the old version.
    """

    run: str
    was: str = ""
    made: int = 0
    publishing: str | None = None


class HiddenFolder:
    """The folder that holds what is not published yet.

    Attributes
    ----------
    out
        The output.
    path
        The folder; it need not be there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(f".{out.name}.lepton")

    def is_there(self) -> bool:
        """Tell whether there is something at its place, whatever it is."""
        return os.path.lexists(self.path)

    def check(self) -> None:
        """Raise `RefusedError` if what is at its place is not ours."""
        info = self.path.lstat()
        if stat.S_ISLNK(info.st_mode):
            why = "is a symbolic link"
        elif not stat.S_ISDIR(info.st_mode):
            why = "is no folder"
        elif info.st_uid != os.geteuid():
            why = f"belongs to another user (number {info.st_uid})"
        elif foreign := self._foreign():
            why = f"holds {foreign}, which lepton_pipe did not put there"
        else:
            return
        raise RefusedError(
            f"{self.path} is where a run keeps what is not published yet, but it {why}, so it is "
            "left alone; look at it and remove it, or choose another out="
        )

    def _foreign(self) -> str | None:
        """Return the name of something that nobody of us makes, in a folder without a state."""
        names = sorted(p.name for p in self.path.iterdir())
        if _STATE in names:
            return None
        return next((n for n in names if not _OURS.fullmatch(n)), None)

    def staged(self) -> Path | None:
        """Return the run folder that can be resumed; None where there is none. Changes nothing."""
        state = self._state()
        for name in (state.run, state.was):
            path = self.path / name
            if name and path.is_dir() and not path.is_symlink():
                old = state.publishing not in (None, _record_digest(path))
                return None if old else path
        return None

    def settle(self) -> None:
        """Bring order into what a killed run left; what can be resumed stays.

        A run that was killed with the old version put aside has left no output: the old version
        is put back. A version that was replaced is removed.

        Raises
        ------
        RefusedError
            When the folder is not ours.
        RunError
            When the old version cannot be put back; it is left where it is, which is named.
        """
        if not self.is_there():
            return
        self.put_back()
        self.path.chmod(0o700)
        staged = self.staged()
        for path in list(self.path.iterdir()):
            if path != staged and path.name != _STATE and _OURS.fullmatch(path.name):
                _remove(path)

    def out_of_place(self) -> Path | None:
        """Return where the old version is, if a kill has left the output without it."""
        if os.path.lexists(self.out) or not self.path.is_dir():
            return None
        return next(self.path.glob("old-*"), None)

    def put_back(self) -> bool:
        """Put the old version back in its place and tell whether it was out of it; see `settle`."""
        if not self.is_there():
            return False
        self.check()
        old = self.out_of_place()
        if old is None:
            return False
        failpoint("settle", 1)
        try:
            old.rename(self.out)
        except OSError as error:
            raise RunError(
                f"the old version of {self.out} is whole, but lies in {old}, and could not be put "
                f"back ({error.strerror}); correct that and run again, or move it yourself"
            ) from error
        failpoint("settle", 2)
        return True

    def begin(self, token: str, made: int) -> Path:
        """Make an empty run folder, and remove any other.

        Parameters
        ----------
        token
            Eight hexadecimal digits that no other process uses.
        made
            How many folders above the output were made for it.
        """
        if self.is_there():
            made = self._state().made
            self.remove()
        self.path.mkdir(mode=0o700)
        failpoint("staging", 1)
        run = self.path / f"run-{token}"
        self._write(_State(run.name, made=made))
        failpoint("staging", 2)
        run.mkdir(mode=0o700)
        failpoint("staging", 3)
        return run

    def adopt(self, staged: Path, token: str) -> Path:
        """Give a run folder that is there to this process; later writes under its old name fail."""
        run = self.path / f"run-{token}"
        self._write(_State(run.name, staged.name, self._state().made))
        sync_path(self.path / _STATE)
        failpoint("staging", 4)
        staged.rename(run)
        failpoint("staging", 5)
        return run

    def begin_publishing(self, run: Path) -> None:
        """Note what is about to be published; it counts when it is on disk."""
        if (run / KNOWN).is_dir():
            # A version that was repaired has the record of the one that was not.
            write_whole(run / KNOWN / _VERSION, [run.name.encode()])
        self._write(self._state()._replace(publishing=_record_digest(run)))

    def aside(self, run: Path) -> Path:
        """Return where the old version goes while the new one takes its place."""
        return self.path / run.name.replace("run-", "old-")

    def remove(self) -> None:
        """Remove it all, as far as the system lets us; the output is settled first.

        Raises
        ------
        RefusedError, RunError
            As `settle` does; nothing was removed then.
        """
        if not self.is_there():
            return
        self.settle()
        # From here on there is nothing to resume: half of it would be worse than none.
        staged = self.staged()
        if staged is not None:
            _remove(staged)
        failpoint("remove", 1)
        shutil.rmtree(self.path, ignore_errors=True)
        failpoint("remove", 2)

    def made_for_it(self) -> list[Path]:
        """Return the folders that were made for the output, the innermost first."""
        return list(self.out.parents[: self._state().made])

    def _write(self, state: _State) -> None:
        write_whole(self.path / _STATE, [json.dumps(state._asdict()).encode()])

    def _state(self) -> _State:
        """Return the state; one of nothing where it cannot be read."""
        try:
            with (self.path / _STATE).open("rb") as file:
                data = json.loads(file.read(_LONGEST))
            state = _State(**data)
            named = all(_RUN.fullmatch(n) for n in (state.run, state.was) if n)
            digest = state.publishing is None or isinstance(state.publishing, str)
            if named and digest and isinstance(state.made, int) and state.made >= 0:
                return state
        except (OSError, ValueError, TypeError, RecursionError):
            pass
        return _State("")


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to one in which others have put something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _record_digest(folder: Path) -> str:
    """Return what tells one published version from another; empty where there is no record."""
    try:
        digest = hashlib.sha256((folder / MARKER).read_bytes())
    except OSError:
        return ""
    with suppress(OSError):
        digest.update((folder / KNOWN / _VERSION).read_bytes())
    return digest.hexdigest()


def _remove(path: Path) -> None:
    """Remove a folder or file under a name at which no late writer looks for it."""
    gone = path.with_name(f"gone-{secrets.token_hex(4)}")
    with suppress(OSError):
        path.rename(gone)
        path = gone
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
