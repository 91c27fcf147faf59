"""A folder of objects at a URL that is written to: every request is bounded, repeated, checked.

The drivers are those of `fsspec`. They differ in what they repeat, for how long, and in the
exceptions they raise; here a request is repeated a bounded number of times with growing pauses,
and what fails for good is a `RunError` that names the object.
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lepton_pipe.errors import RunError, without_secrets
from lepton_pipe.store.checksums import FileSum, crc32c
from lepton_pipe.store.durable import size_and_crc, write_whole
from lepton_pipe.store.urls import check_url

_T = TypeVar("_T")

TRIES = 8
"""How often a request is made before it has failed."""
FEW_TRIES = 3
"""The same for requests before any work is done, whose user waits."""
FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
WHOLE_BYTES = 1 << 25
"""Objects up to this size are sent in one request, from memory."""
_PART_BYTES = 1 << 24
_PARTS_AT_ONCE = 2
_MOST_PARTS = 10_000
CONNECTIONS = 16
"""Requests that are made at the same time."""

_HOPELESS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidation")
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "created", "mtime")


class Found(NamedTuple):
    """An object that is there: its bytes, and what changes when it is written again."""

    size: int
    tag: str


class RemoteFolder:
    """Objects under a URL, by their names relative to it.

    Parameters
    ----------
    url
        Of a scheme that may be opened.

    Raises
    ------
    UsageError, InputError
        When the scheme is none of those, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.s3 = check_url(url) == "s3"
        # Listings must be fresh. The driver that has this option is not the one of inputs.
        self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.url = without_secrets(url)
        self.tries = TRIES
        self._stopped = threading.Event()
        if self.s3:
            _limit(self._fs)

    def beside(self) -> RemoteFolder:
        """Return the folder that this one lies in."""
        other = object.__new__(RemoteFolder)
        other.__dict__.update(self.__dict__)
        other.url, other._root = self.url.rpartition("/")[0], self._root.rpartition("/")[0]
        return other

    def stop(self) -> None:
        """Let requests that fail from now on not be repeated."""
        self._stopped.set()

    # -- writing ----------------------------------------------------------------------------

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object if there is none, and tell whether there was none.

        After an answer that was lost, or in a store that knows no conditions, that can be wrong:
        read the object to see whose it is.
        """
        try:
            self._tried("created", name, self._fs.pipe_file, self._path(name), data, mode="create")
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise RunError(self._no_bucket()) from error
        return True

    def put(self, name: str, data: bytes) -> str:
        """Write an object that is held in memory; it has arrived when this returns its tag.

        Raises
        ------
        RunError
            When the store refuses, or has something else than was sent.
        """
        try:
            return self._tried("written", name, self._put, name, data)
        except FileNotFoundError as error:
            raise RunError(self._no_bucket()) from error

    def put_file(self, name: str, path: Path) -> str:
        """Write an object from a file of any size, in parts; see `put`."""
        try:
            return self._tried("written", name, self._put_file, name, path)
        except FileNotFoundError as error:
            raise RunError(self._no_bucket()) from error

    def _put(self, name: str, data: bytes) -> str:
        crc = _crc64(data)
        if not self.s3:
            self._fs.pipe_file(self._path(name), data)
            info = self._info(name)
        else:
            # The store itself compares what arrives with the checksum, if it knows of such.
            bucket, key, _ = self._fs.split_path(self._path(name))
            info = self._fs.call_s3(
                "put_object", Bucket=bucket, Key=key, Body=data, ChecksumCRC32C=crc
            )
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        sums = (digest.hex(), base64.b64encode(digest).decode(), crc)
        if not _confirmed(info, sums) and self._fs.cat_file(self._path(name)) != data:
            raise OSError(f"{name} holds other bytes than were sent")
        return _tag(info)

    def _put_file(self, name: str, path: Path) -> str:
        length = max(_PART_BYTES, -(-path.stat().st_size // _MOST_PARTS))
        more = {"chunksize": length, "max_concurrency": _PARTS_AT_ONCE} if self.s3 else {}
        self._fs.put_file(str(path), self._path(name), **more)
        info = self._info(name)
        sums = (_tag_of_parts(path, length),)
        if not _confirmed(info, sums) and self._read_sums(name) != size_and_crc(path):
            raise OSError(f"{name} holds other bytes than were sent")
        return _tag(info)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self._tried("removed", name, self._fs.rm_file, self._path(name))
        except FileNotFoundError:
            return

    def abort_parts(self) -> int:
        """Give up objects under here that were sent in part, and return how many there were."""
        if not self.s3:
            return 0
        bucket, key, _ = self._fs.split_path(self._root)
        call, count = self._fs.call_s3, 0
        more: dict[str, Any] = {"Prefix": f"{key}/", "Bucket": bucket}
        while True:
            page = self._tried("listed", "", call, "list_multipart_uploads", **more)
            for part in page.get("Uploads", []):
                what = {"Bucket": bucket, "Key": part["Key"], "UploadId": part["UploadId"]}
                self._tried("given up", part["Key"], call, "abort_multipart_upload", **what)
                count += 1
            if not page.get("IsTruncated"):
                return count
            more |= {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    # -- reading ----------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object; None where there is none."""
        try:
            data: bytes = self._tried("read", name, self._fs.cat_file, self._path(name))
        except FileNotFoundError:
            return None
        return data

    def size_and_crc(self, name: str, expected: int = 0) -> tuple[int, int] | None:
        """Read an object and return its size in bytes and its sum; None where there is none.

        Parameters
        ----------
        expected
            How many bytes it should have, where that is known: of a longer one no more than one
            byte beyond is read.
        """
        try:
            return self._tried("read", name, self._read_sums, name, expected)
        except FileNotFoundError:
            return None

    def _read_sums(self, name: str, expected: int = 0) -> tuple[int, int]:
        if expected:
            try:
                return self._sums_up_to(name, expected + 1)
            except FileNotFoundError:
                raise
            except OSError:  # there is nothing at this place of one that is too short
                pass
        return self._sums_up_to(name, int(self._info(name)["size"]))

    def _sums_up_to(self, name: str, limit: int) -> tuple[int, int]:
        found = FileSum()
        for piece in self._pieces(name, limit):
            found.add(piece)
        return found.size, found.crc

    def _pieces(self, name: str, limit: int) -> Iterator[bytes]:
        """Yield an object piece by piece, up to so many bytes of it."""
        for start in range(0, limit, _PART_BYTES):
            end = min(start + _PART_BYTES, limit)
            piece: bytes = self._fs.cat_file(self._path(name), start=start, end=end)
            yield piece
            if len(piece) < end - start:
                return

    def fetch(self, name: str, path: Path) -> tuple[int, int] | None:
        """Write an object to a file; return its size in bytes and its sum, None if there is none.

        Folders are made where they lack.
        """
        try:
            return self._tried("read", name, self._fetch, name, path)
        except FileNotFoundError:
            return None

    def _fetch(self, name: str, path: Path) -> tuple[int, int]:
        return write_whole(path, self._pieces(name, int(self._info(name)["size"])))

    def modified(self, name: str) -> datetime:
        """Return when an object was written, by the clock of the store."""
        when: datetime = self._tried("looked at", name, self._fs.modified, self._path(name))
        return when

    def folder(self, name: str) -> dict[str, Found]:
        """Return the objects right in a folder, by their full names; not those in its folders."""
        try:
            listed = self._tried("listed", name, self._fs.ls, self._path(name), detail=True)
        except FileNotFoundError:
            return {}
        return {
            self._name(i["name"]): Found(int(i["size"] or 0), _tag(i))
            for i in listed
            if i["type"] == "file"
        }

    def names(self) -> Iterator[str]:
        """Yield the names of all objects; in no order, and folder by folder."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                listed = self._tried("listed", folder, self._fs.ls, self._path(folder), detail=True)
            except FileNotFoundError:
                continue
            for info in listed:
                name = self._name(info["name"])
                if name == folder:  # the mark of an empty folder, which consoles make
                    continue
                if info["type"] == "directory":
                    waiting.append(name)
                else:
                    yield name

    # -- requests ---------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")

    def _info(self, name: str) -> Any:
        return self._fs.info(self._path(name))

    def _tried(self, done: str, name: str, call: Callable[..., _T], *args: Any, **more: Any) -> _T:
        for number in range(1, self.tries + 1):
            try:
                return call(*args, **more)
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # every driver has exceptions of its own
                if _exists(error):
                    raise FileExistsError(name) from error
                if number == self.tries or _is_hopeless(error) or self._stopped.is_set():
                    raise RunError(self._failure(done, name, number, error)) from error
                self._stopped.wait(_pause(number))
        raise AssertionError("not reached")

    def _no_bucket(self) -> str:
        return f"{self.url}: there is no such bucket; make it, or correct its name"

    def _failure(self, done: str, name: str, number: int, error: Exception) -> str:
        place = f"{self.url}/{name}" if name else self.url
        why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        times = "" if number == 1 else f", tried {number} times"
        return f"{place} could not be {done} ({why}{times})"


def _limit(fs: Any) -> None:
    """Leave it to us how often a request is repeated; the driver would multiply that."""
    fs.retries = 1
    fs.config_kwargs.setdefault("retries", {"total_max_attempts": 1})
    fs.config_kwargs.setdefault("max_pool_connections", 2 * CONNECTIONS)


def _is_hopeless(error: Exception) -> bool:
    """Tell whether another try would end alike."""
    return isinstance(error, PermissionError) or type(error).__name__.startswith(_HOPELESS)


def _exists(error: Exception) -> bool:
    """Tell whether a store says that an object is there that was to be made."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in _EXISTS


def _pause(number: int) -> float:
    """Return how long to wait after so many failures; not the same for all who wait."""
    return min(_LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (number - 1)) * random.uniform(0.5, 1)  # noqa: S311


def _crc64(data: bytes) -> str:
    return base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()


def _tag(info: Any) -> str:
    return next((str(info[n]).strip('"') for n in _TAGS if info.get(n)), "")


def _confirmed(info: Any, sums: tuple[str, ...]) -> bool:
    """Tell whether a store reports one of these checksums for what it has."""
    told = [info.get(n) for n in ("ETag", "etag", "md5Hash", "crc32c", "ChecksumCRC32C")]
    return any(isinstance(t, str) and t.strip('"') in sums for t in told)


def _tag_of_parts(path: Path, length: int) -> str:
    """Return the ETag that S3 gives to a file that arrived in parts."""
    digests = []
    with path.open("rb") as file:
        while part := file.read(length):
            digests.append(hashlib.md5(part, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
