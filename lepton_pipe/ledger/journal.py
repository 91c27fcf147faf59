"""Receipts of blocks on their way from workers to the ledger: files that are only appended to.

Each thread of each process has a file of its own in the folder of a stage, so that nobody waits
and nobody writes into another's record. A process that is killed leaves at most the beginning of a
record at the end of a file; nothing is written behind it, since those who come later open files
with other names.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lepton_pipe.errors import DamagedError, RunError, WriteError
from lepton_pipe.ledger.receipts import Receipt, Unit, decode, encode, is_whole
from lepton_pipe.ledger.records import Records

__all__ = ["Entry", "Journal", "Place", "Receipt", "Unit", "append"]

_SUFFIX = ".log"
_APPEND = os.O_WRONLY | os.O_APPEND
_OPEN_FILES = 8
"""Files that a thread keeps open, one for each stage that it works on."""


class Place(NamedTuple):
    """Where a record lies: its file in the folder of the journal, first byte, and bytes."""

    file: str
    offset: int
    length: int


class Entry(NamedTuple):
    """A receipt that was found, without its partial.

    Attributes
    ----------
    place
        Where the record with the partial lies; None where there is no partial.
    """

    block: int
    key: bytes
    units: tuple[Unit, ...]
    place: Place | None


# -- writing --------------------------------------------------------------------------------


def append(folder: Path, receipt: Receipt, *, elsewhere: bool = False) -> None:
    """Add a receipt to the journal in `folder`, which is made where it and the one above it lack.

    When this returns the receipt survives the end of this process; what a kill leaves of it
    before that is not taken for a receipt. Safe in any thread, and after a fork.

    Parameters
    ----------
    elsewhere
        Whether it is read on another host: a network file system shows there what was closed.

    Raises
    ------
    RunError
        When the system refuses, as on a full disk, or the partial is too large.
    """
    record = encode(receipt)
    file = _file_of(folder)
    try:
        file.write(record)
        if elsewhere:
            file.close()
    except OSError as error:
        _forget(folder)
        raise WriteError.of(f"{file.path}: cannot note that a block is done", error) from error


class _File:
    """An open file of one thread; closed when nobody holds it any more."""

    def __init__(self, folder: Path) -> None:
        name = f"{_host()}-{os.getpid()}-{threading.get_native_id()}-{os.urandom(6).hex()}{_SUFFIX}"
        self.path = folder / name
        self._size = 0
        self._descriptor = os.open(self.path, _APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._process = os.getpid()
        self._identity = self._identify(os.fstat(self._descriptor))

    @staticmethod
    def _identify(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino

    def is_ours(self) -> bool:
        """Tell whether this process made the file, and it is still where it was made.

        The folder of a run that was published or discarded may be there again, for the next run.
        """
        try:
            status = os.stat(self.path)  # noqa: PTH116  a third of the time of Path.stat
        except OSError:
            return False
        return self._process == os.getpid() and self._identify(status) == self._identity

    def write(self, record: bytes) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, _APPEND)
        written = os.write(self._descriptor, record)
        if written != len(record):
            # What there was room for must not stand before the next record.
            os.ftruncate(self._descriptor, self._size)
            raise OSError(f"{written} of {len(record)} bytes could be written; is the disk full?")
        self._size += written

    def close(self) -> None:
        """Close it until the next record."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def __del__(self) -> None:
        if self.__dict__.get("_descriptor", -1) >= 0:
            self.close()


_own = threading.local()


def _file_of(folder: Path) -> _File:
    files: OrderedDict[Path, _File] = _own.__dict__.setdefault("files", OrderedDict())
    file = files.get(folder)
    if file is None or not file.is_ours():
        file = files[folder] = _made(folder)
        while len(files) > _OPEN_FILES:
            files.popitem(last=False)
    files.move_to_end(folder)
    return file


def _made(folder: Path) -> _File:
    try:
        try:
            return _File(folder)
        except FileNotFoundError:
            # No more than that: who is late must not make again what the next run has moved on.
            for missing in (folder.parent, folder):
                missing.mkdir(mode=0o700, exist_ok=True)
            return _File(folder)
    except OSError as error:
        raise WriteError.of(f"{folder}: cannot note there which blocks are done", error) from error


def _forget(folder: Path) -> None:
    _own.files.pop(folder, None)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64] or "host"


# -- reading --------------------------------------------------------------------------------


class Journal:
    """The receipts of a stage, from all workers, also while they write.

    Parameters
    ----------
    folder
        Where the files are, or will be.
    read
        How far each file has been read by another `Journal`, as its `read` said.
    """

    def __init__(self, folder: Path, read: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self._read = dict(read or {})
        self._seen: dict[str, int] = {}

    @property
    def read(self) -> dict[str, int]:
        """Bytes of each file that `new` has gone through: store it with what `new` gave."""
        return dict(self._read)

    def new(self, most: int | None = None) -> list[Entry]:
        """Return the receipts that appeared since the last call.

        Of one block there may be several, when it was run again. A record that is not whole is
        left for later: it may be on its way. One that is damaged is passed over as soon as there
        is a whole one behind it.

        Parameters
        ----------
        most
            Return about so many at most; call again until there are none.

        Raises
        ------
        RunError
            When the system cannot deliver them.
        """
        found: list[Entry] = []
        try:
            for name in self._names():
                found += self._new_in(name, None if most is None else most - len(found))
                if most is not None and len(found) >= most:
                    break
        except OSError as error:
            raise RunError(f"{self.folder}: cannot read which blocks are done: {error}") from error
        return found

    def partial(self, place: Place, block: int) -> bytes:
        """Return the partial of a block, as it was given to `append`.

        Raises
        ------
        DamagedError
            When the record is missing or damaged, or is of another block.
        """
        what = f"{self.folder / place.file}: what block {block} contributes to a reduction"
        try:
            receipt = self._receipt(place)
        except (OSError, ValueError) as error:
            raise DamagedError(
                f"{what} cannot be read ({error}): the block has to be run again"
            ) from error
        if receipt.block != block or receipt.partial is None:
            raise DamagedError(
                f"{what} is not at byte {place.offset}, where block {receipt.block} is: the block "
                "has to be run again"
            )
        return receipt.partial

    def _receipt(self, place: Place) -> Receipt:
        if place.file != Path(place.file).name:
            raise ValueError(f"{place.file!r} is no name of a file")
        with Records(self.folder / place.file, ahead=False) as records:
            record = records.at(place.offset, place.length)
            if record is None or not is_whole(record):
                raise ValueError(f"there is no whole record at byte {place.offset}")
        return decode(record)[0]

    def _names(self) -> list[str]:
        try:
            return sorted(p.name for p in self.folder.glob(f"*{_SUFFIX}"))
        except FileNotFoundError:
            return []

    def _new_in(self, name: str, most: int | None) -> Iterator[Entry]:
        # Opened anew each time: only so does a network file system ask how long it is now.
        with Records(self.folder / name) as records:
            start = self._read.get(name, 0)
            if records.size == self._seen.get(name, start):
                return
            for offset, record in records.after(start):
                self._read[name] = offset + len(record)
                entry = _entry(name, offset, record)
                if entry is not None:
                    yield entry
                    most = None if most is None else most - 1
                    if most == 0:
                        return
            self._seen[name] = records.size


def _entry(name: str, offset: int, record: memoryview) -> Entry | None:
    try:
        receipt, has_partial = decode(record, partial=False)
    except ValueError:
        return None
    place = Place(name, offset, len(record)) if has_partial else None
    return Entry(receipt.block, receipt.key, receipt.units, place)
