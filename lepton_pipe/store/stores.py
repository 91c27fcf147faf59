"""zarr stores that refuse what zarr-python lets pass: missing chunks, and read before write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.api import asynchronous as zarr_async
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from lepton_pipe.errors import DamagedError
from lepton_pipe.store.loop import run
from lepton_pipe.store.urls import check_url, is_url

AsyncArray = zarr.AsyncArray[Any]


METADATA_KEYS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
"""Files that make a folder a zarr array or group."""


def _is_chunk(key: str) -> bool:
    """Tell the keys of chunks from those of metadata, for an array at the root of its store."""
    return key not in METADATA_KEYS


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
        if value is None and not any((self._store.root / m).exists() for m in METADATA_KEYS):
            raise DamagedError(
                f"{self._store.root}: the array is gone (deleted, moved or unmounted) while it is "
                "read; bring it back and run again"
            )
        if value is not None and len(value) == 0:
            raise DamagedError(
                f"{self._store.root}: chunk {key} is an empty file, as after a power cut; restore "
                "it, or make the array again"
            )
        return value


class StrictStore(CheckedStore):
    """A store in which a chunk that is not there is damage, not a chunk of fill values.

    For arrays of our own, in which every chunk was written.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes under `key`; raise `DamagedError` when a chunk is missing."""
        value = await super().get(key, prototype, byte_range)
        if value is None and _is_chunk(key):
            raise DamagedError(
                f"{self._store.root}: chunk {key} is missing, though it was written; the store "
                "was changed or the disk lost it: run again to make it anew"
            )
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
        """Return the bytes that were asked for."""
        value = await self._store.get(key, prototype, byte_range)
        if value is None:
            return None
        if isinstance(byte_range, RangeByteRequest):
            whole = len(value) > byte_range.end - byte_range.start
            return value[byte_range.start : byte_range.end] if whole else value
        if isinstance(byte_range, SuffixByteRequest) and len(value) > byte_range.suffix:
            return value[-byte_range.suffix :]
        return value


def store_at(uri: str) -> Store:
    """Return a read-only zarr store rooted at a path or URL."""
    if is_url(uri):
        check_url(uri)
        return RangeStore(FsspecStore.from_url(uri, read_only=True))
    return LocalStore(Path(uri), read_only=True)


class ArrayHandle:
    """An open zarr array, read from the calling thread where the store allows it."""

    def __init__(self, uri: str, *, strict: bool = False) -> None:
        store = store_at(uri)
        if isinstance(store, LocalStore):
            self._local = True
            wrapped: Store = StrictStore(store) if strict else CheckedStore(store)
            self.array: AsyncArray = run(zarr_async.open_array(store=wrapped, mode="r"))
        else:
            self._local = False
            self._remote = zarr.open_array(store=store, mode="r")

    def read(self, selection: tuple[slice, ...]) -> Any:
        """Return the voxels of `selection`, in the array's own axis order."""
        if self._local:
            return run(self.array.getitem(selection))
        return self._remote[selection]


class WriteHandle:
    """An open zarr array that is written in whole chunks from the calling thread."""

    def __init__(self, path: Path) -> None:
        store = WriteOnceStore(LocalStore(path))
        opened: AsyncArray = run(zarr_async.open_array(store=store, mode="r+"))
        # The setting cannot be given when an existing array is opened.
        self.array: AsyncArray = zarr.AsyncArray(
            metadata=opened.metadata,
            store_path=opened.store_path,
            config={"write_empty_chunks": True},
        )

    def write(self, selection: tuple[slice, ...], values: Any) -> None:
        """Write the chunks that `selection` covers."""
        run(self.array.setitem(selection, values))
