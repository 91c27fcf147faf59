"""What each thread of a worker runs at this moment, noted where it can be read without the worker.

A process that is killed cannot say what it was doing. So each thread has a file of a few bytes, on
which stand the block that it runs and the steps it is at. Who finds a worker gone reads them, and
knows which blocks may have ended it; those that only waited there are innocent.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

# Number of the block, and its first and last step among those of the stage.
_NOTE = struct.Struct("<qii")
_NOTHING = _NOTE.pack(-1, -1, -1)
# Exit status of a process that leaves by itself; why, it has noted.
_LEFT = 86
_own = threading.local()


class Running(NamedTuple):
    """What a thread runs: the block's number, and the first and last step, -1 between steps."""

    block: int
    first: int
    last: int


class _Slip:
    """The open file of a thread."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.of = folder, worker, os.getpid()
        self.block = -1
        name = f"{_plain(worker)}-{threading.get_native_id()}"
        self._descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def note(self, first: int, last: int) -> None:
        self.write(_NOTE.pack(self.block, first, last))

    def write(self, note: bytes) -> None:
        with suppress(OSError):  # then nobody knows; no reason to fail
            os.pwrite(self._descriptor, note, 0)

    def __del__(self) -> None:
        descriptor = self.__dict__.pop("_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def noted(folder: Path | None, worker: str, block: int) -> Iterator[None]:
    """Have it stand in `folder`, while the body runs, that this thread runs a block.

    Parameters
    ----------
    folder
        Of this run alone; None where nobody wants to know.
    worker
        Address of the worker that this process is.
    block
        Number of the block in its stage.
    """
    slip = None if folder is None else _slip(folder, worker)
    if slip is None:
        yield
        return
    slip.block = block
    slip.note(-1, -1)
    _own.slip = slip
    try:
        yield
    finally:
        _own.slip = None
        slip.write(_NOTHING)


def at_steps(first: int, last: int) -> None:
    """Note which steps of its stage the block of this thread is at, if that is wanted."""
    slip: _Slip | None = getattr(_own, "slip", None)
    if slip is not None:
        slip.note(first, last)


def leave(folder: Path, worker: str, why: str) -> NoReturn:
    """End this process at once, whatever its other threads do, and note why.

    For what only another process can set right: what it runs shall be run elsewhere.
    """
    with suppress(OSError):  # then it is only known that it has ended
        _why_file(folder, worker).write_text(why)
    os._exit(_LEFT)


def why_left(folder: Path, worker: str) -> str:
    """Return why a worker left by itself; empty where it did not."""
    try:
        return _why_file(folder, worker).read_text()
    except OSError:
        return ""


def running(folder: Path, worker: str) -> list[Running]:
    """Return what the threads of a worker run, or ran when it ended; nothing if unknown."""
    found = (_read(file) for file in _slips(folder, worker))
    return sorted(note for note in found if note is not None and note.block >= 0)


def take_notes(folder: Path, worker: str) -> list[Running]:
    """Return what a worker that is gone was running, and remove its notes."""
    found = running(folder, worker)
    for file in _slips(folder, worker):
        file.unlink(missing_ok=True)
    return found


def _slips(folder: Path, worker: str) -> list[Path]:
    return list(folder.glob(f"{_plain(worker)}-*"))


def _read(file: Path) -> Running | None:
    try:
        data = file.read_bytes()
    except OSError:
        return None
    return Running(*_NOTE.unpack(data)) if len(data) == _NOTE.size else None


def _slip(folder: Path, worker: str) -> _Slip | None:
    slip: _Slip | None = getattr(_own, "kept", None)
    if slip is None or slip.of != (folder, worker, os.getpid()):
        try:
            slip = _Slip(folder, worker)
        except OSError:
            return None
        _own.kept = slip
    return slip


def _why_file(folder: Path, worker: str) -> Path:
    return folder / f"left_{_plain(worker)}"


def _plain(worker: str) -> str:
    return re.sub(r"[^0-9A-Za-z.]+", "_", worker)
