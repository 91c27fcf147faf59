"""What of a result is at its URL already: kept in staging, so that an upload goes on after a kill.

An object is noted before it is sent, and again with its tag once it has arrived. What is in the
store is therefore always noted here, and what is noted without a tag may be there or not.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from lepton_pipe.errors import RunError
from lepton_pipe.ledger import KNOWN

NAME = "upload.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS about(id INTEGER PRIMARY KEY CHECK (id = 1), token TEXT, turn INTEGER);
CREATE TABLE IF NOT EXISTS objects(
    name TEXT PRIMARY KEY, size INTEGER, crc INTEGER, tag TEXT, turn INTEGER
) WITHOUT ROWID;
"""
_FEW = 500


class Sent(NamedTuple):
    """An object that was sent: size and sum of its file, and the tag the store gave it."""

    size: int
    crc: int
    tag: str | None


class Uploaded:
    """The objects of one upload; for use in a ``with`` statement, by one thread.

    Parameters
    ----------
    staging
        The folder of what is not published yet.

    Attributes
    ----------
    token
        Tells this upload from any other, also after it was stopped and went on.
    """

    def __init__(self, staging: Path) -> None:
        folder = staging / KNOWN
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._db = sqlite3.connect(folder / NAME, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
            self._db.execute("INSERT OR IGNORE INTO about VALUES(1, ?, 0)", (secrets.token_hex(8),))
            self.token, self._turn = self._db.execute("SELECT token, turn FROM about").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise RunError(
                f"{folder / NAME}, which says what was uploaded, cannot be read ({error}): remove "
                "it and run again; all is uploaded anew then"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def begin(self) -> None:
        """Begin to go through all objects once more: what is not noted again is not wanted."""
        self._turn += 1
        self._db.execute("UPDATE about SET turn=?", (self._turn,))

    def forget_all(self) -> None:
        """Forget all objects: none of them is there."""
        self._db.execute("DELETE FROM objects")

    def of(self, names: Iterable[str]) -> dict[str, Sent]:
        """Return what is noted of these objects."""
        found = {}
        for name in names:
            query = "SELECT size, crc, tag FROM objects WHERE name=?"
            for row in self._db.execute(query, (name,)):
                found[name] = Sent(*row)
        return found

    def expect(self, sent: Iterable[tuple[str, Sent]]) -> None:
        """Note objects before they are sent, or that they are there as they must be."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO objects VALUES(?, ?, ?, ?, ?)",
            ((name, *row, self._turn) for name, row in sent),
        )
        self._db.execute("COMMIT")

    def arrived(self, name: str, tag: str) -> None:
        """Note that an object has arrived."""
        self._db.execute("UPDATE objects SET tag=? WHERE name=?", (tag, name))

    def removed(self, name: str) -> None:
        """Note that an object is not there any more."""
        self._db.execute("DELETE FROM objects WHERE name=?", (name,))

    def unwanted(self) -> Iterator[list[str]]:
        """Yield, in parts, the objects that were not noted since `begin`; to be `removed`."""
        query = "SELECT name FROM objects WHERE turn<? LIMIT ?"
        while names := [n for (n,) in self._db.execute(query, (self._turn, _FEW))]:
            yield names

    def count(self) -> int:
        """Return how many objects have arrived."""
        query = "SELECT count(*) FROM objects WHERE tag IS NOT NULL"
        (found,) = self._db.execute(query).fetchone()
        return int(found)


def arrived_count(staging: Path) -> int:
    """Return how many objects an upload has sent, as far as that can be read; changes nothing."""
    path = staging / KNOWN / NAME
    if not path.is_file():
        return 0
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as db:
            query = "SELECT count(*) FROM objects WHERE tag IS NOT NULL"
            return int(db.execute(query).fetchone()[0])
    except sqlite3.Error:
        return 0
