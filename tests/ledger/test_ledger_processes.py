"""Ledgers of several processes, users and threads, and of those that were killed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton_pipe.errors import RunError
from lepton_pipe.ledger import database, tables
from lepton_pipe.ledger.ledger import Ledger, Row
from tests.ledger.ledgers import key, row

ROOT = Path(__file__).parents[2]


def test_a_closed_ledger_is_one_private_file(path):
    with Ledger.open(path) as ledger:
        ledger.set_fact("a", 1)
        assert {p.stat().st_mode & 0o777 for p in path.parent.iterdir()} == {0o600}
        assert len(list(path.parent.iterdir())) == 3
    assert list(path.parent.iterdir()) == [path]
    ledger.close()


def as_nobody(folder: Path, act: Callable[[], None]) -> None:
    """Run something as a user who may only read `folder`."""
    for p in [*folder.rglob("*"), folder]:
        p.chmod(0o555 if p.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(p, 65534, 65534)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    for p in [folder, *folder.rglob("*")]:
        p.chmod(0o755)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Return a folder that all users can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_published_ledger_opens_where_nothing_can_be_written(reachable):
    path = reachable / "a # b?.sqlite"
    with Ledger.open(path) as ledger:
        ledger.begin_stage(0, "a", 9, b"")
        ledger.record(0, [row(3)])

    def read() -> None:
        with pytest.raises(PermissionError):
            (reachable / "new").touch()
        with Ledger.open(path, readonly=True) as found:
            assert list(found.rows(0)) == [row(3)]

    as_nobody(reachable, read)
    assert list(reachable.iterdir()) == [path]


def test_a_ledger_that_its_writer_could_not_make_one_file_opens_read_only_too(reachable):
    path = reachable / "ledger.sqlite"
    ledger = Ledger.open(path)
    ledger.set_fact("a", 1)
    ledger._tables._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger._tables.close()  # SQLite removes the log, and the file says still that there is one
    assert list(reachable.iterdir()) == [path]

    def read() -> None:
        with Ledger.open(path, readonly=True) as found:
            assert found.get_fact("a") == 1

    as_nobody(reachable, read)


READER = """
import sys, pathlib
from lepton_pipe.ledger.ledger import Ledger
for line in sys.stdin:
    with Ledger.open(pathlib.Path(sys.argv[1]), readonly=True) as ledger:
        print(ledger.counts(0).recorded, ledger.get_fact("state"), flush=True)
"""


def test_another_process_reads_while_one_writes(ledger, path):
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None and reader.stdout is not None
    for block in range(5):
        ledger.record(0, [row(block)])
        ledger.set_fact("state", f"at {block}")
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == f"{block + 1} at {block}\n"
    reader.stdin.close()
    assert reader.wait() == 0


def test_a_reader_sees_one_state_and_cannot_write(ledger, path):
    ledger.record(0, [row(1)])
    with Ledger.open(path, readonly=True) as reader:
        ledger.record(0, [row(2)])
        assert len(list(reader.rows(0))) == 2
        with pytest.raises(RunError, match="readonly"):
            reader.set_fact("a", 1)


def test_a_reader_that_holds_on_does_not_keep_a_run_from_its_end(path, monkeypatch):
    monkeypatch.setattr(tables, "PATIENCE", 0.2)
    ledger = Ledger.open(path)
    ledger.set_fact("a", 1)
    reader = Ledger.open(path, readonly=True)
    assert reader.get_fact("a") == 1
    ledger.close()
    assert reader.get_fact("a") == 1
    reader.close()
    with Ledger.open(path, readonly=True) as later:
        assert later.get_fact("a") == 1


WRITER = """
import sys, pathlib
from lepton_pipe.ledger.ledger import Ledger, Row
ledger = Ledger.open(pathlib.Path(sys.argv[1]))
ledger.begin_stage(0, "a", 10**6, b"")
for batch in range(10**4):
    rows = [Row(b, b.to_bytes(16, "big")) for b in range(100 * batch, 100 * batch + 100)]
    ledger.record(0, rows)
    if batch % 10 == 9:
        ledger.mark_durable()
    print(100 * batch + 100, flush=True)
"""


@pytest.mark.parametrize("batches", [1, 25, 60])
def test_what_was_recorded_survives_a_kill(path, batches):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(batches)][-1]
    writer.kill()
    told = max([told, *map(int, writer.stdout.read().split()[:-1])])
    writer.wait()
    with Ledger.open(path, readonly=True) as reader:
        assert reader.counts(0).recorded >= told
    with Ledger.open(path) as ledger:
        rows = list(ledger.rows(0))
        assert [r.block for r in rows] == list(range(len(rows)))
        assert len(rows) >= told and len(rows) % 100 == 0
        assert all(r.key == r.block.to_bytes(16, "big") for r in rows)
        assert ledger.counts(0).durable >= told // 1000 * 1000
    assert list(path.parent.iterdir()) == [path]


def test_a_second_writer_waits_for_the_first(ledger, path, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    ledger._tables._connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunError, match="locked"):
        Ledger.open(path)
    ledger._tables._connection.execute("ROLLBACK")


def test_another_thread_may_not_use_it(ledger):
    caught: list[Exception] = []

    def use() -> None:
        try:
            ledger.get_fact("a")
        except sqlite3.ProgrammingError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_a_full_disk_loses_the_batch_and_no_more(ledger):
    ledger.record(0, [row(1)])
    pages = ledger._tables.fetch("PRAGMA page_count")[0][0]
    ledger._tables.fetch(f"PRAGMA max_page_count={pages}")
    ledger.begin_stage(1, "large", 10**6, b"")
    with pytest.raises(RunError, match="full"):
        ledger.record(1, [Row(b, key(b)) for b in range(5000)])
    assert list(ledger.rows(1)) == []
    assert list(ledger.rows(0)) == [row(1)]
    ledger._tables.fetch("PRAGMA max_page_count=1000000")
    ledger.record(1, [Row(b, key(b)) for b in range(5000)])
    assert ledger.counts(1).recorded == 5000
