"""Where a run stands, seen from another process at any moment of its life."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger, Row
from lepton_pipe.run import publish
from lepton_pipe.run.publish import MARKER, Staging
from lepton_pipe.run.status import run_status
from tests.command import lepton, names
from tests.run.stopped import killed_at, published, publishes, without_exchange, written


def begun(out, **more):
    """Stage a run that has done all of the first of three stages, and some of the second."""
    staging = Staging(out, **more)
    (staging.path / KNOWN / LEDGER).parent.mkdir()
    with Ledger.open(staging.path / KNOWN / LEDGER) as ledger:
        for number, (name, blocks, done) in enumerate(
            (("blur", 8, 8), ("label", 12, 5), ("sum", 1, 0))
        ):
            ledger.begin_stage(number, name, blocks, b"recipe")
            ledger.record(number, [Row(block, bytes(16), ()) for block in range(done)])
    return staging


def test_nothing_is_there(tmp_path):
    found = run_status(tmp_path / "deep" / "o")
    assert found.state == "nothing"
    assert "nothing is there" in str(found)
    assert found.to_json()["published"] is False


def test_while_it_runs(tmp_path):
    staging = begun(tmp_path / "o")
    found = run_status(tmp_path / "o")
    assert found.state == "running"
    told = str(found)
    assert f"running: process {os.getpid()} on" in told
    assert "blur: 8 of 8 blocks" in told
    assert "label: 5 of 12 blocks" in told
    assert "sum: 0 of 1 block\n" in f"{told}\n"
    assert "earlier run" not in told
    staging.discard()
    assert run_status(tmp_path / "o").state == "nothing"


def test_after_it_was_stopped(tmp_path):
    out = tmp_path / "with space"
    begun(out).keep()
    found = run_status(out)
    assert found.state == "stopped"
    told = str(found)
    assert "stopped: 5 of 12 blocks of stage label are done" in told
    assert f"type the same command again to go on, or lepton-pipe clean '{out}'" in told
    assert found.to_json()["stages"][1] == {"name": "label", "blocks": 12, "done": 5}
    assert names(tmp_path) == {".with space.lepton"}


def test_after_it_was_killed_with_its_ledger_open(tmp_path):
    def works(out):
        staging = begun(out)
        ledger = Ledger.open(staging.path / KNOWN / LEDGER)
        ledger.record(1, [Row(block, bytes(16)) for block in range(9)])
        staging.publish()

    assert killed_at("publish:1", works, tmp_path / "o")
    for _ in range(2):
        assert "stopped: 9 of 12 blocks of stage label" in str(run_status(tmp_path / "o"))


def test_when_it_is_complete(tmp_path):
    out = published(tmp_path / "o", "all")
    found = run_status(out)
    assert (found.state, found.notes, found.stages) == ("complete", (), ())
    assert str(found) == f"{out}: complete"


def test_an_older_result_beside_a_run_is_told(tmp_path):
    out = published(tmp_path / "o", "old")
    staging = begun(out, overwrite=True)
    assert "result of an earlier run is there" in str(run_status(out))
    staging.keep()
    found = run_status(out)
    assert found.state == "stopped"
    assert found.to_json()["published"] is True
    assert "result of an earlier run is there" in str(found)


@pytest.mark.parametrize("system", ["exchange", "two renames"])
@pytest.mark.parametrize("step", range(1, 12))
def test_after_a_kill_at_any_step_of_publishing(tmp_path, monkeypatch, system, step):
    if system == "two renames":
        without_exchange(monkeypatch, publish)
    out = published(tmp_path / "o", "old")
    came = killed_at(f"publish:{step}", publishes, out, "new")
    before = sorted(tmp_path.rglob("*"))
    found = run_status(out)
    assert found.state == ("stopped" if came and step < 7 else "complete")
    assert sorted(tmp_path.rglob("*")) == before
    notes = " ".join(found.notes)
    assert ("the old version is whole" in notes) == (came and step == 6)
    assert ("left files" in notes) == (came and 7 <= step < 10)


def test_what_is_quarantined_is_told(tmp_path):
    items = [{"path": f"a{i}.tif", "error": "cut", "traceback": "long\nlong"} for i in range(12)]
    staging = written(Staging(tmp_path / "o"), "most")
    (staging.path / MARKER).write_text(json.dumps({"quarantined": items}))
    staging.publish()
    found = run_status(tmp_path / "o")
    assert found.to_json()["quarantined"] == items
    told = str(found)
    assert "complete, but for 12 quarantined" in told
    assert "quarantined: path a9.tif, error cut" in told
    assert "a10.tif" not in told
    assert "and 2 more, listed in lepton.json" in told
    assert "long" not in told


def test_what_a_run_has_given_up_so_far_is_told(tmp_path):
    staging = begun(tmp_path / "o")
    with Ledger.open(staging.path / KNOWN / LEDGER) as ledger:
        ledger.quarantine(1, 3, {"path": "a.tif", "error": "cut"})
        # While the run has it open.
        assert "quarantined: path a.tif, error cut" in str(run_status(tmp_path / "o"))
    staging.keep()
    assert run_status(tmp_path / "o").quarantined == ({"path": "a.tif", "error": "cut"},)


def test_what_ended_a_run_is_not_called_quarantined(tmp_path):
    staging = begun(tmp_path / "o")
    with Ledger.open(staging.path / KNOWN / LEDGER) as ledger:
        ledger.quarantine(1, 3, {"kind": "block", "error": "No space left on device"})
    staging.keep()
    told = str(run_status(tmp_path / "o"))
    assert "  failed: error No space left on device, kind block" in told
    assert "quarantined" not in told


@pytest.mark.parametrize("record", ["", "[]", "{", '{"quarantined": 7}', "[" * 5000], ids=range(5))
def test_a_damaged_record_is_no_traceback(tmp_path, record):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / MARKER).write_text(record)
    found = run_status(tmp_path / "o")
    assert (found.state, found.quarantined) == ("complete", ())
    assert "complete" in str(found)


def test_a_damaged_ledger_is_told_with_the_rest(tmp_path):
    staging = begun(tmp_path / "o")
    (staging.path / KNOWN / LEDGER).write_bytes(b"SQLite format 3\0" + bytes(5000))
    staging.keep()
    found = run_status(tmp_path / "o")
    assert found.state == "stopped"
    assert "no block is known to be done" in str(found)
    assert "how far it is cannot be read" in str(found)


def test_what_others_made_is_called_so(tmp_path):
    (tmp_path / "o").mkdir()
    found = run_status(tmp_path / "o")
    assert found.state == "nothing"
    assert "was not made by lepton_pipe" in str(found)
    (tmp_path / ".p.lepton").symlink_to(tmp_path / "o")
    assert "is a symbolic link" in str(run_status(tmp_path / "p"))
    assert names(tmp_path) == {"o", ".p.lepton"}


def test_a_run_that_ends_between_two_looks_is_not_called_stopped(tmp_path, monkeypatch):
    from lepton_pipe.run import status

    staging = written(begun(tmp_path / "o"), "all")
    looks = []
    look = status.HiddenFolder

    def once_it_has_looked_at_the_lock(out):
        if not looks.append(out) and len(looks) == 1:
            staging.publish()
        return look(out)

    monkeypatch.setattr(status, "HiddenFolder", once_it_has_looked_at_the_lock)
    assert run_status(tmp_path / "o").state == "complete"
    assert len(looks) == 2


def test_on_the_command_line(tmp_path):
    np.save(tmp_path / "raw.npy", np.zeros((30, 40), np.uint16))
    run = ("run", "convert", "raw=raw.npy", "out=o", "--serial")
    assert lepton(*run, cwd=tmp_path, LEPTON_FAILPOINT="publish:4").returncode == -signal.SIGKILL
    stopped = lepton("status", "o", cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert stopped.stdout.startswith(f"{tmp_path}/o: stopped: ")
    assert lepton(*run, cwd=tmp_path).returncode == 0
    complete = lepton("status", "out=o", "--json", cwd=tmp_path)
    assert (complete.returncode, complete.stderr) == (0, "")
    nothing = lepton("status", "nope", cwd=tmp_path)
    assert (nothing.returncode, nothing.stderr) == (1, "")
    assert "nope: nothing is there: no result, and no run that was stopped" in nothing.stdout
    found = json.loads(complete.stdout)
    assert (found["state"], found["published"], found["holder"]) == ("complete", True, None)
    assert found["digest"] == json.loads((tmp_path / "o" / MARKER).read_text())["digest"]
