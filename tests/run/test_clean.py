"""What a run that was given up left is removed, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from lepton_pipe.errors import LockedError, RefusedError, RunError
from lepton_pipe.ledger.lock import lock_path
from lepton_pipe.run import publish
from lepton_pipe.run.clean import clean
from lepton_pipe.run.publish import Staging
from tests.command import assert_refused, lepton, names
from tests.run.stopped import (
    content,
    killed_at,
    published,
    publishes,
    without_exchange,
    working_on,
    written,
)


@pytest.fixture
def running(tmp_path):
    """A process that works on the output ``o``."""
    with working_on(tmp_path / "o") as process:
        yield process


def test_a_live_run_is_left_alone_and_a_killed_one_removed(tmp_path, running):
    assert_refused(lepton("clean", "o", cwd=tmp_path), 4, f"process {running.pid} on", "kill")
    assert names(tmp_path) == {".o.lepton", ".o.lepton.lock"}
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = lepton("clean", "o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"removed {tmp_path}/.o.lepton (98 KiB)" in done.stdout
    assert ".o.lepton.lock" in done.stdout
    assert "bytes) are free again" in done.stdout
    assert names(tmp_path) == set()
    again = lepton("clean", "out=o", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing was removed" in again.stdout


@pytest.mark.parametrize("system", ["exchange", "two renames"])
@pytest.mark.parametrize("step", range(1, 12))
def test_after_a_kill_at_any_step_of_publishing_the_output_alone_is_left(
    tmp_path, monkeypatch, system, step
):
    if system == "two renames":
        without_exchange(monkeypatch, publish)
    out = published(tmp_path / "o", "old")
    came = killed_at(f"publish:{step}", publishes, out, "new")
    assert came == (system == "two renames" or step not in (6, 7))
    done = clean(out)
    assert content(out) == ("old" if came and step < 7 else "new")
    assert names(tmp_path) == {"o"}
    assert done.put_back == (came and step == 6)
    assert ("back in its place" in str(done)) == done.put_back
    assert bool(done.removed) == (came and step < 11)


@pytest.mark.parametrize("step", ["staging:1", "staging:2", "staging:3", "lock:1"])
def test_after_a_kill_at_the_start_nothing_is_left(tmp_path, step):
    out = tmp_path / "deep" / "o"
    assert killed_at(step, publishes, out, "new")
    clean(out)
    assert names(tmp_path) <= {"deep"}
    assert not (tmp_path / "deep").exists() or names(tmp_path / "deep") == set()


@pytest.mark.parametrize("step", ["settle:1", "settle:2", "remove:1", "remove:2"])
def test_cleaning_that_is_killed_can_be_done_again(tmp_path, monkeypatch, step):
    without_exchange(monkeypatch, publish)
    out = published(tmp_path / "o", "old")
    killed_at("publish:6", publishes, out, "new")
    assert killed_at(step, clean, out)
    clean(out)
    assert content(out) == "old"
    assert names(tmp_path) == {"o"}


def test_what_is_told_is_what_is_freed(tmp_path):
    staging = Staging(tmp_path / "o")
    (staging.path / "own").write_bytes(bytes(1000))
    (tmp_path / "theirs").write_bytes(bytes(1000))
    (staging.path / "shared").hardlink_to(tmp_path / "theirs")
    (staging.path / "a.1f.partial").write_bytes(bytes(500))
    state = (tmp_path / ".o.lepton" / "state.json").stat().st_size
    staging.keep()
    assert clean(tmp_path / "o").removed == ((tmp_path / ".o.lepton", 1500 + state),)
    assert names(tmp_path) == {"theirs"}


def test_folders_made_for_the_output_go_too(tmp_path):
    Staging(tmp_path / "deep" / "deeper" / "o").keep()
    clean(tmp_path / "deep" / "deeper" / "o")
    assert names(tmp_path) == set()


def test_other_outputs_and_files_beside_stay(tmp_path):
    for name in ("o", "o2", "[o]"):
        written(Staging(tmp_path / name), "kept").keep()
    (tmp_path / ".o.lepton.lock.1234abcd").touch()
    (tmp_path / ".o.lepton.lock.mine").touch()
    (tmp_path / "x.partial").touch()
    done = clean(tmp_path / "o")
    assert [path.name for path, _ in done.removed] == [".o.lepton", ".o.lepton.lock.1234abcd"]
    assert names(tmp_path) == {".o2.lepton", ".[o].lepton", ".o.lepton.lock.mine", "x.partial"}
    clean(tmp_path / "[o]")
    assert names(tmp_path) == {".o2.lepton", ".o.lepton.lock.mine", "x.partial"}


def test_a_live_writer_of_the_same_process_is_refused(tmp_path):
    staging = Staging(tmp_path / "o")
    with pytest.raises(LockedError):
        clean(tmp_path / "o")
    assert staging.path.is_dir()
    staging.discard()


def test_what_is_not_ours_is_refused_and_left_alone(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    (tmp_path / ".o.lepton").symlink_to(tmp_path / "theirs")
    with pytest.raises(RefusedError, match="is a symbolic link"):
        clean(tmp_path / "o")
    assert names(tmp_path / "theirs") == {"file"}
    assert names(tmp_path) == {"theirs", ".o.lepton"}


def test_a_link_in_staging_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("precious")
    staging = Staging(tmp_path / "o")
    (staging.path / "link").symlink_to(tmp_path / "theirs")
    (tmp_path / ".o.lepton" / "old-00000000").symlink_to(tmp_path / "theirs")
    (tmp_path / "o").mkdir()
    staging.keep()
    clean(tmp_path / "o")
    assert (tmp_path / "theirs" / "file").read_text() == "precious"
    assert names(tmp_path) == {"theirs", "o"}


def test_what_cannot_be_removed_is_an_error_that_names_it(tmp_path, monkeypatch):
    written(Staging(tmp_path / "o"), "kept").keep()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(RunError, match=r"/(result|lepton\.json|state\.json) could not be removed"):
        clean(tmp_path / "o")
    assert not lock_path(tmp_path / "o").exists()


def test_a_folder_that_cannot_be_written_is_an_error_without_a_traceback(tmp_path, monkeypatch):
    written(Staging(tmp_path / "o"), "kept").keep()
    opened = os.open

    def read_only(path, *more, **kw):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *more, **kw)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RefusedError, match=r"Permission denied: .*\.o\.lepton\.lock; correct"):
        clean(tmp_path / "o")
    assert ".o.lepton" in names(tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/"], "no name"),
        (["https://b/o"], "nothing can be written"),
        ([], "OUT"),
        (["o", "p"], "p"),
    ],
    ids=["root", "address", "none", "two"],
)
def test_what_is_no_output_is_a_usage_error(tmp_path, words, told):
    assert_refused(lepton("clean", *words, cwd=tmp_path), 1, told)
