"""Where a worker of ours keeps the results of its tasks: in memory, packed in memory, on disk.

Block tasks return little, and what they return is folded soon. Yet nobody knows how long a table
will be: its rows must not fill a worker that has none of its memory planned for them.

::

    SpillBuffer (of distributed)   values as they are; what was not used for longest is pickled
        PackedRecords              packed, in memory that the process's records leave
                                   and in files where they leave none

What holds after a failure is what `distributed.spill.SpillBuffer` promises, since it is its code:
a value whose spilling fails stays where it was. Every record has a checksum that is checked when it
is read.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import numcodecs
from distributed.spill import SpillBuffer

from lepton_pipe.cache.records import RecordStore
from lepton_pipe.errors import DamagedError
from lepton_pipe.store.checksums import FileSum
from lepton_pipe.store.durable import write_whole
from lepton_pipe.store.held import shared

Key = Any
"""What Dask calls a key: a text or a tuple."""

# Blosc packs up to 2 GiB at a time.
_AT_ONCE = 1 << 26
_LENGTH = struct.Struct("<Q")
_PACKER = numcodecs.Blosc("lz4", 1, numcodecs.Blosc.NOSHUFFLE)


class _Record(NamedTuple):
    size: int
    crc: int
    data: bytes | None
    file: Path | None


class PackedRecords(MutableMapping[Key, bytes]):
    """Bytes by key, packed: in memory as long as there is room for them, else in files.

    Parameters
    ----------
    folder
        For the files; made when it is needed, for this user alone.
    memory
        Gives room, as much as a plan has left.
    """

    def __init__(self, folder: Path, memory: RecordStore) -> None:
        self._folder, self._memory = folder, memory
        self._records: dict[Key, _Record] = {}
        self._names = count()

    def __setitem__(self, key: Key, value: bytes | Iterable[bytes]) -> None:
        """Keep a value, or the pieces of one.

        Raises
        ------
        OSError
            When neither memory nor disk has room for it; nothing of it is kept then.
        """
        self.pop(key, None)
        data = _packed(value)
        made = FileSum.of(data)
        if self._memory.reserve(made.size):
            self._records[key] = _Record(made.size, made.crc, data, None)
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{next(self._names)}-{hashlib.sha256(str(key).encode()).hexdigest()[:16]}"
        write_whole(self._folder / name, [data])
        self._records[key] = _Record(made.size, made.crc, None, self._folder / name)

    def __getitem__(self, key: Key) -> bytes:
        """Return a value.

        Raises
        ------
        DamagedError
            When it is not what was kept.
        """
        record = self._records[key]
        try:
            data = record.data if record.file is None else record.file.read_bytes()
        except FileNotFoundError:
            data = b""
        assert data is not None
        found = FileSum.of(data)
        if (found.size, found.crc) != (record.size, record.crc):
            raise DamagedError(
                f"{record.file or 'memory'}: what a worker has put aside of {key!r} is damaged or "
                "gone; type the same command again: what is done is kept"
            )
        return _unpacked(data)

    def __delitem__(self, key: Key) -> None:
        record = self._records.pop(key)
        if record.file is None:
            self._memory.release(record.size)
        else:
            record.file.unlink(missing_ok=True)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[Key]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def pop(self, key: Key, default: Any = None) -> Any:
        """Forget a value, which is not read for that."""
        if key in self._records:
            del self[key]
        return default


class TieredData(SpillBuffer):
    """The ``data=`` of a worker; a `distributed.spill.ManualEvictProto`.

    Parameters
    ----------
    worker_local_directory
        The worker's own folder.
    target
        Bytes of values that are kept as they are.
    """

    def __init__(
        self, worker_local_directory: str, target: int, memory: RecordStore = shared
    ) -> None:
        folder = Path(worker_local_directory) / "data"
        super().__init__(str(folder), target)
        self._slow_uncached.d = cast("MutableMapping[Key, bytes]", PackedRecords(folder, memory))

    def evict(self) -> int:
        """Spill what was not used for longest; return its bytes, -1 where nothing was spilled."""
        return super().evict() if self.fast else -1


def _packed(value: bytes | Iterable[bytes]) -> bytes:
    whole = value if isinstance(value, bytes) else b"".join(value)
    pieces = [_PACKER.encode(whole[i : i + _AT_ONCE]) for i in range(0, len(whole), _AT_ONCE)]
    return b"".join(part for piece in pieces for part in (_LENGTH.pack(len(piece)), piece))


def _unpacked(data: bytes) -> bytes:
    view, pieces = memoryview(data), []
    while view:
        (length,) = _LENGTH.unpack_from(view)
        end = _LENGTH.size + length
        pieces.append(_PACKER.decode(view[_LENGTH.size : end]))
        view = view[end:]
    return b"".join(pieces)
