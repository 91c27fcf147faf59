"""Who holds a lock: a process, as a lock file names it, and whether it may be alive."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from datetime import datetime
from typing import NamedTuple

from lepton_pipe.errors import without_secrets

_SAME_START = 2.0
"""Seconds by which two readings of one process' start differ at most."""


class Holder(NamedTuple):
    """The process that holds a lock, as far as it is known.

    Attributes
    ----------
    pid
        Number of the process on its host; 0 where it is not known.
    host
        Name of its host.
    started
        When it took the lock, in ISO 8601 with the offset from UTC.
    command
        Its command line, without passwords and signatures of URLs.
    born
        When the process itself began, in seconds since 1970.
    """

    pid: int = 0
    host: str = ""
    started: str = ""
    command: str = ""
    born: float = 0.0

    def __str__(self) -> str:
        if not self.pid:
            return "another process, whose name cannot be read"
        since = self.started.replace("T", " ")
        return f"process {self.pid} on {self.host} since {since} ({self.command})"


def myself() -> bytes:
    """Return what a lock says of this process: a `Holder` as JSON."""
    import psutil

    command = without_secrets(shlex.join(sys.argv))[:500]
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    born = psutil.Process().create_time()
    me = Holder(os.getpid(), socket.gethostname(), now, command, born)
    return json.dumps(me._asdict()).encode()


def parsed(said: bytes) -> Holder:
    """Return the holder that a lock file names; without a name where that is damaged."""
    try:
        data = json.loads(said)
        host, started, command = (_printable(data[n]) for n in ("host", "started", "command"))
        return Holder(int(data["pid"]), host, started, command, float(data["born"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Holder()


def _printable(text: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text))


def lives(said: bytes) -> bool:
    """Tell whether the process that a lock file names may be alive."""
    import psutil

    if not said:
        return False
    found = parsed(said)
    if found.host != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(found.pid).create_time() - found.born) < _SAME_START
    except (psutil.NoSuchProcess, ValueError):
        return False
