"""zarr stores that refuse what zarr-python lets pass: missing chunks, and read before write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from lepton_pipe.errors import DamagedError, InputError, LeptonError, RunError
from lepton_pipe.store.urls import check_url, is_url

AsyncArray = zarr.AsyncArray[Any]


METADATA_KEYS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
"""Files that make a folder a zarr array or group."""


_LONGEST_METADATA = 64 << 20
"""Bytes; those of a plate with ten thousand images, consolidated, are a tenth of it."""


def _is_chunk(key: str) -> bool:
    """Tell the keys of chunks from those of metadata, of which hidden files are."""
    return key not in METADATA_KEYS and not key.startswith(".")


def refuse_gone(root: Path) -> None:
    """Raise `DamagedError` when the array at `root` is not there any more."""
    if not any((root / name).exists() for name in METADATA_KEYS):
        raise DamagedError(
            f"{root}: the array is gone (deleted, moved or unmounted) while it is "
            "read; bring it back and run again"
        )


def refuse_empty(root: Path, key: str) -> NoReturn:
    """Raise `DamagedError` for a chunk that is an empty file."""
    raise DamagedError(
        f"{root}: chunk {key} is an empty file, as after a power cut; restore "
        "it, or make the array again"
    )


class CheckedStore(WrapperStore[LocalStore]):
    """A store that tells "never written" from "lost", as far as that can be told.

    zarr-python reads an empty shard, which a power cut leaves behind, and every chunk of a folder
    that was deleted or unmounted, as fill values. Here both are damage.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes under `key`, or None; raise `DamagedError` when they were lost."""
        value = await self._store.get(key, prototype, byte_range)
        if not _is_chunk(key):
            return value
        if value is None:
            refuse_gone(self._store.root)
        elif len(value) == 0:
            refuse_empty(self._store.root, key)
        return value


class WholeStore(WrapperStore[Store]):
    """A store in which a chunk that is not there is not a chunk of fill values.

    Parameters
    ----------
    refuse
        Called with the key of a chunk that is not there; raises.
    """

    def __init__(self, store: Store, refuse: Callable[[str], NoReturn]) -> None:
        super().__init__(store)
        self._refuse = refuse

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._refuse)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes under `key`; raise what `refuse` raises when a chunk is missing."""
        value = await self._store.get(key, prototype, byte_range)
        if value is None and _is_chunk(key):
            self._refuse(key)
        return value


class WriteOnceStore(WrapperStore[LocalStore]):
    """A store whose chunks are only ever written whole: what is there already is never read.

    zarr-python reads a shard before it writes it, so that a torn shard of an earlier run would
    make its own replacement fail.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of metadata; None for any chunk."""
        if _is_chunk(key):
            return None
        return await self._store.get(key, prototype, byte_range)


class RangeStore(WrapperStore[FsspecStore]):
    """A remote store that notices servers which send the whole file when asked for a part.

    Plain web servers do, and fsspec hands their answer on as if it were the part.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes that were asked for; None where the server says that there are none.

        Raises
        ------
        RunError
            When it answers with an error, or not at all: whether there is a chunk is not known.
        """
        try:
            value = await self._store.get(key, prototype, byte_range)
        except LeptonError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise RunError(f"{self._store.path}/{key}: cannot be fetched ({reason})") from error
        if value is None:
            if _is_chunk(key):
                await self._refuse_gone(prototype)
            return None
        if isinstance(byte_range, RangeByteRequest):
            whole = len(value) > byte_range.end - byte_range.start
            return value[byte_range.start : byte_range.end] if whole else value
        if isinstance(byte_range, SuffixByteRequest) and len(value) > byte_range.suffix:
            return value[-byte_range.suffix :]
        return value

    async def _refuse_gone(self, prototype: BufferPrototype) -> None:
        """Raise `DamagedError` when the array is not there any more: then nothing is known."""
        for name in ("zarr.json", ".zarray"):
            if await self._store.get(name, prototype) is not None:
                return
        raise DamagedError(
            f"{self._store.path}: the array is gone (deleted or moved) while it is read; bring it "
            "back and run again"
        )


class _LocalStore(LocalStore):
    """Files of this machine, among which metadata of absurd size is refused."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes under `key`; raise `InputError` for metadata that is too long."""
        if not _is_chunk(key.rpartition("/")[2]):
            path = self.root / key
            size = path.stat().st_size if path.is_file() else 0
            if size > _LONGEST_METADATA:
                raise InputError(
                    f"{path}: metadata of {size} bytes is more than any image needs (at most "
                    f"{_LONGEST_METADATA} are read); is this the metadata of an image?"
                )
        return await super().get(key, prototype, byte_range)


def store_at(uri: str) -> Store:
    """Return a read-only zarr store rooted at a path or URL."""
    if is_url(uri):
        check_url(uri)
        return RangeStore(FsspecStore.from_url(uri, read_only=True))
    return _LocalStore(Path(uri), read_only=True)
