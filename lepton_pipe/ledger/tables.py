"""Tables of an SQLite file, of which rows carry checksums, and what may go wrong with them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.ledger.encode import pack_plain
from lepton_pipe.store.checksums import crc32c

PATIENCE = 10.0
"""Seconds to wait for another connection to let go."""

_AT_ONCE = 1 << 16
_DAMAGE = {None, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG}
"""Codes of errors; text that is no UTF-8 gives an error without one."""

Values = tuple[Any, ...]


def damaged(path: Path, why: object) -> DamagedError:
    """Return the error for a ledger that cannot be believed."""
    return DamagedError(
        f"{path} is damaged ({why}): what it says of finished blocks cannot be believed; remove "
        "it with lepton-pipe clean OUT, and run again"
    )


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Raise what SQLite and the system say as an error of ours that names the ledger."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise  # a mistake of ours, such as a call from another thread
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if (code if code is None else code & 0xFF) in _DAMAGE:
            raise damaged(path, error) from error
        raise _refused(path, error) from error
    except UnicodeDecodeError as error:  # in a message that quotes a damaged schema
        raise damaged(path, error) from error
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path}: the ledger cannot be read or written: {error}; look at the disk that it is on, "
        "make room or correct the permissions, and type the same command again"
    )


def sealed(*values: Any) -> Values:
    """Return a row with its checksum at the end."""
    return (*values, crc32c(pack_plain(values)))


def as_json(value: Any) -> str:
    """Return plain data as text, the same for equal data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextmanager
def transaction(connection: sqlite3.Connection, *, durable: bool) -> Iterator[None]:
    """Commit what is done in the body, all of it or nothing.

    Parameters
    ----------
    durable
        Whether it survives a power cut when this returns, with all that was committed before.
    """
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


class Tables:
    """An open file. All methods raise `DamagedError` and `RunError` as `reported` does."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Commit what the body does, see `transaction`."""
        with reported(self.path), transaction(self._connection, durable=durable):
            yield self._connection

    def put(self, table: str, row: Values) -> None:
        """Store a row in place of one of the same key, in a transaction."""
        marks = ", ".join("?" * len(row))
        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES({marks})", row)

    def fetch(self, query: str, *values: Any) -> list[Values]:
        """Return the rows that a query gives."""
        with reported(self.path):
            found: list[Values] = self._connection.execute(query, values).fetchall()
        return found

    def parts(self, query: str, *values: Any) -> Iterator[list[Values]]:
        """Yield the rows that a query gives, many at a time."""
        with reported(self.path):
            cursor = self._connection.execute(query, values)
            while rows := cursor.fetchmany(_AT_ONCE):
                yield rows

    def sound(self, query: str, *values: Any) -> list[Values]:
        """Return rows that were `sealed`, without their checksums, which are looked at."""
        rows = self.fetch(query, *values)
        for row in rows:
            if sealed(*row[:-1]) != row:
                raise damaged(self.path, f"the row {row[:2]!r} does not match its checksum")
        return [row[:-1] for row in rows]

    def from_json(self, text: str) -> Any:
        """Return what `as_json` made text of."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise damaged(self.path, error) from error

    def checkpoint(self) -> None:
        """Put what waits in the log into the file, as far as readers let it."""
        with reported(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close what was read."""
        self._connection.close()

    def close_as_single_file(self) -> None:
        """Close what was written, so that all of it is in one file and survives a power cut.

        A reader that does not let go in some seconds leaves an empty log beside the file.
        """
        with reported(self.path):
            try:
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                deadline = time.monotonic() + PATIENCE
                while not self._without_log() and time.monotonic() < deadline:
                    time.sleep(0.02)
            finally:
                self._connection.close()

    def _without_log(self) -> bool:
        try:
            mode = self._connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return bool(mode == "delete")
