"""What is no ledger of ours, or was damaged, is refused and never believed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError, LeptonError, RefusedError, RunError
from lepton_pipe.ledger import database
from lepton_pipe.ledger.ledger import Counts, Ledger
from tests.ledger.ledgers import row

BOTH = pytest.mark.parametrize("readonly", [False, True])


@BOTH
def test_a_later_format_is_refused(closed, readonly):
    with sqlite3.connect(closed) as connection:
        connection.execute("PRAGMA user_version=2")
        connection.execute("CREATE TABLE more(a)")
    connection.close()
    before = closed.read_bytes()
    with pytest.raises(RefusedError, match="later version"):
        Ledger.open(closed, readonly=readonly)
    assert closed.read_bytes() == before


@BOTH
def test_another_users_ledger_is_refused(closed, readonly, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(RefusedError, match="user 12345"):
        Ledger.open(closed, readonly=readonly)
    with Ledger.open(closed, readonly=True, foreign=True) as ledger:
        assert ledger.counts(0) == Counts(250, 200)


@BOTH
@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_file_is_refused(closed, readonly, what):
    path = closed.with_name("other.sqlite")
    {
        "link": lambda: path.symlink_to(closed),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }[what]()
    with pytest.raises(RefusedError, match="no file"):
        Ledger.open(path, readonly=readonly)


def test_there_must_be_a_ledger_to_read(path):
    with pytest.raises(RefusedError, match="there is no ledger"):
        Ledger.open(path, readonly=True)
    assert not path.parent.exists()


@BOTH
@pytest.mark.parametrize(
    "statements",
    [
        "PRAGMA application_id=1",
        "PRAGMA user_version=0",
        "CREATE TABLE more(a)",
        "DROP TABLE files",
        "CREATE TRIGGER t AFTER INSERT ON facts BEGIN DELETE FROM blocks; END",
        "DROP TABLE facts; CREATE VIEW facts AS SELECT 1 AS name, 2 AS value, 3 AS crc",
    ],
)
def test_tables_that_are_not_those_of_a_ledger_are_refused(closed, readonly, statements):
    connection = sqlite3.connect(closed)
    connection.executescript(statements)
    connection.close()
    with pytest.raises(DamagedError, match="lepton-pipe clean OUT"):
        Ledger.open(closed, readonly=readonly)


@BOTH
@pytest.mark.parametrize("data", [b"x" * 5000, b"SQLite format 3\0", bytes(4096)])
def test_what_is_no_database_is_refused(path, readonly, data):
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="is damaged"):
        Ledger.open(path, readonly=readonly)


def test_a_process_that_died_while_it_made_the_ledger_is_no_matter(path):
    path.parent.mkdir()
    path.touch()
    with Ledger.open(path) as ledger:
        assert ledger.facts() == {}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file/ledger"):
        Ledger.open(tmp_path / "file" / "ledger")


# -- damage ---------------------------------------------------------------------------------


def truth(ledger: Ledger) -> dict[str, Any]:
    return {
        "facts": ledger.facts(),
        "stages": ledger.stages(),
        "rows": list(ledger.rows(0)),
        "read": ledger.journal_read(0),
        "files": ledger.files(),
        "quarantined": ledger.quarantined(),
        "done": ledger.done(0),
    }


def looked_at(path: Path, *, readonly: bool) -> dict[str, Any] | None:
    """Return all that a ledger says; None where it is refused, which says why."""
    try:
        with Ledger.open(path, readonly=readonly) as ledger:
            return truth(ledger)
    except (LeptonError, ValueError) as error:
        refusal = error
    named = "ledger.sqlite" if isinstance(refusal, LeptonError) else "stage 0 was not begun"
    assert named in str(refusal)
    return None


def assert_nothing_made_up(found: dict[str, Any], right: dict[str, Any]) -> None:
    for what in ("facts", "read", "files"):
        assert found[what].items() <= right[what].items()
    for what in ("stages", "rows", "quarantined"):
        assert all(item in right[what] for item in found[what])
    keys = right["done"].keys
    assert not np.any(found["done"].same(keys) & ~right["done"].known)


def test_a_ledger_cut_off_anywhere_is_refused_or_right(closed, tmp_path):
    data = closed.read_bytes()
    with Ledger.open(closed, readonly=True) as ledger:
        right = truth(ledger)
    path = tmp_path / "ledger.sqlite"
    for size in [*range(1, len(data), 331), *range(4096, len(data), 4096), len(data) - 1]:
        for readonly in (True, False):
            path.write_bytes(data[:size])
            found = looked_at(path, readonly=readonly)
            assert readonly or found is None
            if found is not None:
                assert_nothing_made_up(found, right)


@settings(max_examples=400)
@given(st.randoms(use_true_random=False), st.integers(1, 3), st.booleans())
def test_flipped_bits_are_refused_or_change_nothing(tmp_path_factory, random, flips, readonly):
    source, right = _sample(tmp_path_factory)
    data = bytearray(source)
    for _ in range(flips):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path = tmp_path_factory.mktemp("flipped") / "ledger.sqlite"
    path.write_bytes(data)
    found = looked_at(path, readonly=readonly)
    if found is not None:
        assert_nothing_made_up(found, right)
    shutil.rmtree(path.parent)


_made: list[tuple[bytes, dict[str, Any]]] = []


def _sample(factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    if not _made:
        path = factory.mktemp("sample") / "ledger.sqlite"
        with Ledger.open(path) as ledger:
            ledger.begin_stage(0, "smooth", 60, b"recipe")
            ledger.record(0, [row(b) for b in range(50)], {"a.log": 77})
            ledger.mark_durable()
            for i in range(20):
                ledger.set_fact(f"fact {i}", list(range(i)))
                ledger.set_file(f"file {i}", i, i)
                ledger.quarantine(0, i, {"error": "bad"})
        with Ledger.open(path, readonly=True) as ledger:
            _made.append((path.read_bytes(), truth(ledger)))
    return _made[0]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE facts SET value='1'",
        "UPDATE facts SET value=x'ff00'",
        "UPDATE facts SET value=CAST(x'ff' AS TEXT)",
        "UPDATE marks SET durable=99",
        "DELETE FROM marks",
        "UPDATE stages SET blocks=1000000000000",
        "UPDATE stages SET crc=NULL",
        "UPDATE journals SET name='../../x' WHERE name='a.log'",
        "UPDATE files SET size=7",
        "UPDATE quarantine SET report='{}'",
        "UPDATE blocks SET units=x'' WHERE block=7",
        "UPDATE blocks SET units=NULL WHERE block=7",
        "UPDATE blocks SET units='text' WHERE block=7",
        "UPDATE blocks SET offset=-1 WHERE block=7",
        "UPDATE blocks SET offset='a' WHERE block=7",
        "UPDATE blocks SET journal=9 WHERE block=7",
        "UPDATE blocks SET epoch=0 WHERE block=7",
        "UPDATE blocks SET attempts=4 WHERE block=7",
        "UPDATE blocks SET key=x'00112233445566778899aabbccddeeff' WHERE block=7",
        "UPDATE blocks SET key=NULL WHERE block=7",
        "UPDATE blocks SET block=-1 WHERE block=7",
        "UPDATE blocks SET epoch='a' WHERE block=7",
        "UPDATE blocks SET block=299 WHERE block=7",
        "UPDATE blocks SET block=1e300 WHERE block=7",
    ],
)
def test_a_changed_row_is_noticed(closed, change):
    connection = sqlite3.connect(closed)
    connection.execute(change)
    connection.commit()
    connection.close()
    with pytest.raises(DamagedError), Ledger.open(closed, readonly=True) as ledger:
        truth(ledger)


def test_damaged_rows_can_be_passed_over(closed):
    connection = sqlite3.connect(closed)
    connection.execute("UPDATE blocks SET epoch=0 WHERE block IN (7, 9)")
    connection.commit()
    connection.close()
    with Ledger.open(closed) as ledger:
        with pytest.raises(DamagedError, match="block 7"):
            list(ledger.rows(0))
        blocks = [r.block for r in ledger.rows(0, skip_damaged=True)]
        assert blocks == [b for b in range(250) if b not in (7, 9)]


@pytest.mark.parametrize("length", [0, 15, 17])
def test_keys_of_another_length_are_the_keys_of_no_block(closed, length):
    with Ledger.open(closed, readonly=True) as ledger:
        right = ledger.done(0)
    connection = sqlite3.connect(closed)
    connection.execute("UPDATE blocks SET key=? WHERE block=7", (bytes(length),))
    connection.commit()
    connection.close()
    with Ledger.open(closed, readonly=True) as ledger:
        try:
            done = ledger.done(0)
        except DamagedError:
            return
        assert not np.any(done.same(right.keys)[7:])


def test_a_value_that_claims_to_be_huge_takes_no_memory(closed, monkeypatch):
    monkeypatch.setattr(database, "_LONGEST", 1 << 20)
    connection = sqlite3.connect(closed)
    connection.execute("UPDATE facts SET value=zeroblob(2000000)")
    connection.commit()
    connection.close()
    with (
        pytest.raises(DamagedError, match="too big"),
        Ledger.open(closed, readonly=True) as ledger,
    ):
        ledger.facts()
