"""Stamps: what tells one version of a stored unit from the next, found without reading it.

A block is not computed again when nothing that it read has changed since. Each unit of storage (a
chunk or shard, a plane, a whole file) therefore has a stamp of 16 bytes. Stamps are taken before
the data is read, so that what changes meanwhile is never taken for known.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

from lepton_pipe.store.urls import filesystem

STAMP_BYTES = 16
"""Length of every stamp."""

ABSENT = b"\xff" * STAMP_BYTES
"""The stamp of a unit that is not there."""

_SIZE_AND_TIME = struct.Struct("<qq")
# Numbers that `lepton_pipe.store.source.file_stamp` has for a file.
_FILE_STAMP = 4
_AT_ONCE = 16
# One request lists about a thousand files; each answer about a single file takes as long.
_LISTED_AT_ONCE = 1000
# What file systems call the mark or time of a version, the surest first; see `_version`.
_MARKS = ("ETag", "etag", "e_tag", "generation", "md5Hash", "Content-MD5", "content_md5")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")


def never() -> bytes:
    """Return a stamp that equals no other: for what cannot be told to be unchanged."""
    return os.urandom(STAMP_BYTES)


def digest(data: Any) -> bytes:
    """Return the stamp of plain data."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=STAMP_BYTES).digest()


def file_version(path: str) -> bytes:
    """Return size and time of a file; `ABSENT` if there is none, `never` if it cannot be seen."""
    try:
        status = os.stat(path)  # noqa: PTH116  (a Path takes longer to make than the answer)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError:
        return never()
    return _SIZE_AND_TIME.pack(status.st_size, status.st_mtime_ns)


def known_version(stamp: Sequence[int]) -> bytes:
    """Return the version that `lepton_pipe.store.source.file_stamp` saw of a file, or of several.

    Parameters
    ----------
    stamp
        The stamps of all files, one after the other.
    """
    starts = range(0, len(stamp), _FILE_STAMP)
    return together([_SIZE_AND_TIME.pack(*stamp[i : i + 2]) for i in starts])


def together(versions: Sequence[bytes]) -> bytes:
    """Return the stamp of what lies in some files together."""
    if len(versions) == 1:
        return versions[0]
    return digest([v.hex() for v in versions]) if versions else never()


def remote_version(url: str) -> bytes:
    """Return what the server tells of the version of a single file."""
    files, path = filesystem(url)
    files.invalidate_cache()
    return _asked(files, path)


def remote_versions(url: str, keys: Sequence[str], units: int) -> list[bytes]:
    """Return what the server tells of the versions of files below `url`.

    Parameters
    ----------
    keys
        The files, relative to `url`.
    units
        Files that may be there in all: where many of them are asked for, they are listed.
    """
    files, root = filesystem(url)
    files.invalidate_cache()
    paths = [f"{root.rstrip('/')}/{key}" for key in keys]
    if len(keys) * _LISTED_AT_ONCE >= units * _AT_ONCE and len(keys) > 1:
        listed = _listed(files, root)
        if listed is not None:
            return [_version(listed.get(path)) for path in paths]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(partial(_asked, files), paths))


def _listed(files: Any, root: str) -> Mapping[str, Mapping[str, Any]] | None:
    """Return what is known of all files below `root`; None where they cannot be listed."""
    protocols = [files.protocol] if isinstance(files.protocol, str) else files.protocol
    if {"http", "https"} & set(protocols):
        return None
    try:
        found: Mapping[str, Mapping[str, Any]] = files.find(root, detail=True)
    except Exception:  # noqa: BLE001  (drivers raise what they like; files are asked for one by one)
        return None
    return found


def _asked(files: Any, path: str) -> bytes:
    try:
        return _version(files.info(path))
    except FileNotFoundError:
        return ABSENT
    except Exception:  # noqa: BLE001  (drivers raise what they like; nothing is known then)
        return never()


def _version(info: Mapping[str, Any] | None) -> bytes:
    """Return the stamp of what a file system says of a file.

    One mark alone is taken, the same whether the file was listed or asked for: lists say less. A
    size alone does not tell versions apart.
    """
    if info is None:
        return ABSENT
    for name in (*_MARKS, *_TIMES):
        if info.get(name):
            return digest([info.get("size"), name, _mark(info[name])])
    return never()


def _mark(value: Any) -> str:
    seconds = value.timestamp() if isinstance(value, datetime) else value
    return str(round(seconds * 1e6)) if isinstance(seconds, float) else str(seconds)
