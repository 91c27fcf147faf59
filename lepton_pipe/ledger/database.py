"""The SQLite file of a ledger: opened with care, since others may have written or damaged it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lepton_pipe.errors import RefusedError
from lepton_pipe.ledger.tables import PATIENCE, damaged, reported, sealed, transaction

FORMAT = 1
"""Version of the tables. A ledger of a later one is refused."""

_APPLICATION = 0x6C705031
_PRAGMAS = (
    # What a file says of itself is not believed: no functions in its schema, no cells of odd size.
    *("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"),
    "fullfsync=ON",
    "synchronous=NORMAL",
    "cache_size=-65536",  # 64 MiB
    "wal_autocheckpoint=16384",  # pages: 64 MiB
)
_LEGACY = 1
_TABLES = (
    "CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT, crc INTEGER) WITHOUT ROWID",
    "CREATE TABLE marks(id INTEGER PRIMARY KEY, epoch INTEGER, durable INTEGER, crc INTEGER)",
    "CREATE TABLE stages(stage INTEGER PRIMARY KEY, name TEXT, blocks INTEGER, recipe BLOB, "
    "crc INTEGER)",
    "CREATE TABLE journals(id INTEGER PRIMARY KEY, stage INTEGER, name TEXT, read INTEGER, "
    "crc INTEGER)",
    "CREATE TABLE blocks(stage INTEGER, block INTEGER, key BLOB, units BLOB, journal INTEGER, "
    "offset INTEGER, length INTEGER, attempts INTEGER, epoch INTEGER, "
    "PRIMARY KEY(stage, block)) WITHOUT ROWID",
    "CREATE TABLE quarantine(stage INTEGER, block INTEGER, report TEXT, crc INTEGER, "
    "PRIMARY KEY(stage, block)) WITHOUT ROWID",
    "CREATE TABLE files(name TEXT PRIMARY KEY, size INTEGER, sum INTEGER, crc INTEGER) "
    "WITHOUT ROWID",
)
_LONGEST = 1 << 28
"""Bytes of a value: a damaged length takes no more memory."""


def open_writable(path: Path) -> sqlite3.Connection:
    """Open a ledger to write, made where there is none: mode 0600, committed to a log (WAL).

    Raises
    ------
    RefusedError
        When it is another user's, or of a later version.
    DamagedError
        When it is damaged, or no ledger.
    RunError
        When the system refuses.
    """
    with reported(path):
        _make(path)
        _refuse_foreign(path)
        with _closed_on_error(_connect(path, "mode=rw")) as connection:
            if _is_empty(connection):
                connection.execute("PRAGMA journal_mode=WAL")
                _create(connection)
            _check(connection, path)
            _check_pages(connection, path)
            connection.execute("PRAGMA journal_mode=WAL")
            return connection


def open_readonly(path: Path, *, foreign: bool) -> sqlite3.Connection:
    """Open a ledger to read; a published one also where nothing can be written.

    Parameters
    ----------
    foreign
        Whether it may be another user's.

    Raises
    ------
    RefusedError, DamagedError, RunError
        As `open_writable`, and when there is none.
    """
    with reported(path):
        if not path.exists():
            raise RefusedError(f"{path}: there is no ledger; was this written by lepton-pipe?")
        _refuse_foreign(path, foreign=foreign)
        mode = "mode=ro" if _is_live(path) else "immutable=1"
        with _closed_on_error(_connect(path, mode)) as connection:
            _check(connection, path)
            return connection


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        yield connection
    except BaseException:
        connection.close()
        raise


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _refuse_foreign(path: Path, *, foreign: bool = False) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(
            f"{path} is no file, so it is no ledger; remove what is there with lepton-pipe clean "
            "OUT, and run again"
        )
    if status.st_uid != os.geteuid() and not foreign:
        raise RefusedError(
            f"{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}: what "
            "another user says is done is not believed; give another output, or ask them to "
            "remove it"
        )


def _is_live(path: Path) -> bool:
    """Tell whether there may be a writer: one that closes a ledger leaves it without a log."""
    with path.open("rb") as file:
        header = file.read(20)
    return header[18:19] != bytes([_LEGACY]) and path.with_name(f"{path.name}-wal").exists()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    where = (path.parent.resolve() / path.name).as_uri()
    connection = sqlite3.connect(
        f"{where}?{mode}", uri=True, isolation_level=None, timeout=PATIENCE
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    return _number(connection, "application_id") == 0 and not _schema(connection)


def _create(connection: sqlite3.Connection) -> None:
    with transaction(connection, durable=True):
        for table in _TABLES:
            connection.execute(table)
        connection.execute("INSERT INTO marks VALUES(?, ?, ?, ?)", sealed(1, 0, 0))
        connection.execute(f"PRAGMA application_id={_APPLICATION}")
        connection.execute(f"PRAGMA user_version={FORMAT}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if _number(connection, "application_id") != _APPLICATION:
        raise damaged(path, "it is no ledger of lepton-pipe")
    version = _number(connection, "user_version")
    if version > FORMAT:
        raise RefusedError(
            f"{path} was written by a later version of lepton-pipe (format {version}, and this one "
            f"knows {FORMAT}): use that version, or remove it with lepton-pipe clean OUT"
        )
    if version != FORMAT or _schema(connection) != set(_TABLES):
        raise damaged(path, "its tables are not those of a ledger")


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse to write to tables whose pages are broken: that would spread."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        raise damaged(path, found[0])


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number


def _schema(connection: sqlite3.Connection) -> set[str]:
    query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL OR name NOT LIKE 'sqlite_auto%'"
    return {sql for (sql,) in connection.execute(query)}
