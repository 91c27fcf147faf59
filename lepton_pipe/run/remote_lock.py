"""One writer per result at a URL: an object beside it that names its holder and is renewed.

No system lets go of this lock when its process ends. It is taken over

* at once by who works in the same staging folder: that folder's own lock is held by one process
  alone, and the token in it tells that the object is of an earlier one;
* at once on the machine of a holder that does not run any more;
* else when it was not renewed for `STALE_SECONDS` by the clock of the store.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from lepton_pipe.errors import LockedError, RunError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.ledger.holder import Holder, lives, myself, parsed
from lepton_pipe.store.output import RemoteOutput, clean_command
from lepton_pipe.store.remote import FEW_TRIES, RemoteFolder

RENEWED_SECONDS = 20.0
STALE_SECONDS = 180.0
SETTLE_SECONDS = 1.0
"""Time in which two who took the same lock over at once see each other's."""


class RemoteLock:
    """The right to write the result at a URL.

    Parameters
    ----------
    output
        The result; nothing needs to be there.
    token
        Tells this staging folder from others, see above.
    """

    def __init__(self, output: RemoteOutput, token: str) -> None:
        self._output, self._token = output, token
        self._id = secrets.token_hex(8)
        self._folder = lock_folder(output)
        self._name = lock_name(output)
        self._stop = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        LockedError
            When another process has it.
        RunError
            When the store cannot be reached or written to.
        """
        if not self._taken():
            found = holder_at(self._folder, self._name)
            raise LockedError(refusal(self._output, found or Holder()))
        failpoint("remote-lock", 1)
        self._renewing = threading.Thread(target=self._renew, name="lepton-lock", daemon=True)
        self._renewing.start()

    def _taken(self) -> bool:
        if not self._create():
            said = self._folder.read(self._name)
            if said is not None and not self._may_take(said):
                return False
            if said is not None and self._folder.read(self._name) == said:
                self._folder.remove(self._name)
            self._create()
            self._stop.wait(SETTLE_SECONDS)
        elif self._create():  # a store that does not know "only if there is none"
            self._stop.wait(SETTLE_SECONDS)
        return self._is_mine()

    def _create(self) -> bool:
        return self._folder.create(self._name, self._content())

    def _content(self) -> bytes:
        more = {
            "token": self._token,
            "machine": _machine(),
            "staging": str(self._output.staging),
            "holder": self._id,
        }
        return json.dumps({**json.loads(myself()), **more}).encode()

    def _is_mine(self) -> bool:
        return _data(self._folder.read(self._name)).get("holder") == self._id

    def _may_take(self, said: bytes) -> bool:
        data = _data(said)
        return data.get("token") == self._token or not _is_alive(self._folder, self._name, said)

    def _renew(self) -> None:
        while not self._stop.wait(RENEWED_SECONDS):
            # A store that cannot be reached now is asked again; `check` decides before publishing.
            with suppress(RunError):
                if self._is_mine():
                    self._folder.put(self._name, self._content())

    def check(self) -> None:
        """Raise if the lock was lost, so that what is written could be mixed with another's.

        Raises
        ------
        RunError
            When another process has taken it over, or it is gone.
        """
        if not self._is_mine() and not (self._create() and self._is_mine()):
            raise RunError(
                f"{self._output} has been taken over by "
                f"{holder_at(self._folder, self._name) or Holder()} while this run could not renew "
                "its lock; nothing was published. Type the same command again when that one is done"
            )

    def release(self) -> None:
        """Give the lock back; where the store cannot be reached it goes stale."""
        self._stop.set()
        if self._renewing is not None:
            self._renewing.join()
            self._renewing = None
        with suppress(RunError):
            if self._is_mine():
                self._folder.remove(self._name)


def lock_folder(output: RemoteOutput) -> RemoteFolder:
    """Return the folder of the lock object; requests to it do not wait long."""
    folder = RemoteFolder(output.url).beside()
    folder.tries = FEW_TRIES
    return folder


def lock_name(output: RemoteOutput) -> str:
    """Return the name of the lock object."""
    return f".{output.name}.lepton.lock"


def remote_holder(output: RemoteOutput) -> Holder | None:
    """Return the process that writes a result at a URL now, as far as can be told; or None."""
    return holder_at(lock_folder(output), lock_name(output))


def holder_at(folder: RemoteFolder, name: str) -> Holder | None:
    """Return who holds the lock object of this name, unless it is stale."""
    said = folder.read(name)
    return parsed(said) if said is not None and _is_alive(folder, name, said) else None


def refuse_locked_url(output: RemoteOutput) -> None:
    """Raise `LockedError` if a live process writes this result, other than from its own staging."""
    folder, name = lock_folder(output), lock_name(output)
    said = folder.read(name)
    same = _data(said).get("staging") == str(output.staging)
    # In one staging folder its own lock tells who is alive.
    if said is not None and not (same and _is_here(said)) and _is_alive(folder, name, said):
        raise LockedError(refusal(output, parsed(said)))


def remove_stale(output: RemoteOutput) -> bool:
    """Remove the lock object of a process that is gone, and tell whether there was one.

    Raises
    ------
    LockedError
        When it is not gone.
    """
    folder, name = lock_folder(output), lock_name(output)
    refuse_locked_url(output)
    if folder.read(name) is None:
        return False
    folder.remove(name)
    return True


def _is_alive(folder: RemoteFolder, name: str, said: bytes) -> bool:
    if _is_here(said):
        return lives(said)
    probe = f"{name}.{secrets.token_hex(4)}"
    try:
        folder.put(probe, b"what time is it?")
        age = folder.modified(probe) - folder.modified(name)
    except FileNotFoundError:
        return False
    finally:
        folder.remove(probe)
    return age < timedelta(seconds=STALE_SECONDS)


def _is_here(said: bytes) -> bool:
    """Tell whether a lock is of a process that could be seen from here."""
    return _data(said).get("machine") == _machine()


def _machine() -> str:
    """Return what tells this machine, and the processes it shows, from others of the same name."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  no path, but a name
    return " ".join(known)


def _data(said: bytes | None) -> dict[str, Any]:
    try:
        data = json.loads(said or b"{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def refusal(output: RemoteOutput, found: Holder) -> str:
    """Return what to tell who comes second."""
    return (
        f"output {output} is being written by {found}, and two runs would destroy each other's "
        f"work; wait for its end, stop it, or choose another out=. A process that died is believed "
        f"alive for {STALE_SECONDS / 60:.0f} minutes at most; then run again, or give up what it "
        f"kept ({clean_command(output)})"
    )
