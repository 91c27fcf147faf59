"""Runs that are stopped while they publish, and the next one."""

from __future__ import annotations

import errno
import os
import signal
import stat

import numpy as np
import pytest

from lepton_pipe.errors import OutputExistsError, RunError
from lepton_pipe.failpoints import VARIABLE
from lepton_pipe.run import publish
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.publish import MARKER, Staging
from tests.command import lepton, names
from tests.run.five import fingerprints
from tests.run.measured import IMAGE
from tests.run.stopped import content, killed_at, published, publishes, without_exchange, written


@pytest.fixture(params=["exchange", "two renames"])
def either(request, monkeypatch):
    """A file system that exchanges folders in one act, and one that does not."""
    if request.param == "two renames":
        without_exchange(monkeypatch, publish)
    return request.param


IN_TWO = (6, 7)


@pytest.mark.parametrize("before", ["absent", "previous"])
@pytest.mark.parametrize("step", range(1, 12))
def test_a_kill_at_any_step_of_publishing(tmp_path, either, before, step):
    out = tmp_path / "o"
    if before == "previous":
        published(out, "old")
    came = killed_at(f"publish:{step}", publishes, out, "new")
    assert came == (step not in IN_TWO or (before, either) == ("previous", "two renames"))
    whole, placed = before == "previous", not came or step > 6
    if placed:
        assert content(out) == "new"
    elif step == 6:
        assert not out.exists()  # the one moment that such a file system does not spare us
    else:
        assert out.exists() == whole
        assert not whole or content(out) == "old"
    assert (HiddenFolder(out).staged() is None) == placed

    again = Staging(out, overwrite=True, resume=True)
    if whole or placed:
        assert content(out) == ("new" if placed else "old")
    assert again.resumed == (not placed)
    if again.resumed:
        assert content(again.path) == "new"
    else:
        assert names(again.path) == set()
    written(again, "newer").publish()
    assert content(out) == "newer"
    assert names(tmp_path) == {"o"}


@pytest.mark.parametrize("step", [4, 6, 8])
def test_who_does_not_resume_begins_anew_after_a_kill(tmp_path, either, step):
    out = published(tmp_path / "o", "old")
    killed_at(f"publish:{step}", publishes, out, "new")
    staging = Staging(out, overwrite=True)
    assert not staging.resumed
    assert names(staging.path) == set()
    staging.discard()
    assert content(out) == ("old" if step < 8 and (step, either) != (6, "exchange") else "new")
    assert names(tmp_path) == {"o"}


def test_an_old_version_that_was_put_back_is_not_replaced_without_overwrite(
    tmp_path, either, monkeypatch
):
    out = published(tmp_path / "o", "old")
    if not killed_at("publish:6", publishes, out, "new"):
        assert either == "exchange"
        return
    assert not out.exists()
    with pytest.raises(OutputExistsError):
        Staging(out, resume=True)
    assert content(out) == "old"
    again = Staging(out, overwrite=True, resume=True)
    assert content(again.path) == "new"
    again.discard()
    assert names(tmp_path) == {"o"}


@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_while_the_old_version_is_put_back(tmp_path, monkeypatch, step):
    without_exchange(monkeypatch, publish)
    out = published(tmp_path / "o", "old")
    assert killed_at("publish:6", publishes, out, "new")
    assert killed_at(f"settle:{step}", publishes, out, "newer", True)
    Staging(out, overwrite=True, resume=True).publish()
    assert content(out) == "new"
    assert names(tmp_path) == {"o"}


@pytest.mark.parametrize("step", range(1, 6))
def test_a_kill_while_staging_is_made_or_taken_over(tmp_path, step):
    out = tmp_path / "o"
    if step > 3:
        written(Staging(out), "kept").keep()
    assert killed_at(f"staging:{step}", publishes, out, "new", True)
    assert not out.exists()
    again = Staging(out, resume=True)
    assert again.resumed == (step >= 3)
    assert names(again.path) == ({"result", MARKER} if step > 3 else set())
    again.discard()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_while_staging_is_removed_leaves_nothing_to_resume(tmp_path, step):
    out = tmp_path / "o"
    written(Staging(out), "kept").keep()
    assert killed_at(f"remove:{step}", Staging, out)
    again = Staging(out, resume=True)
    assert not again.resumed
    again.discard()
    assert names(tmp_path) == set()


def test_what_is_kept_is_resumed_at_another_path(tmp_path):
    out = tmp_path / "deep" / "o"
    first = written(Staging(out), "kept")
    first.keep()
    assert names(tmp_path / "deep") == {".o.lepton"}
    assert stat.S_IMODE((tmp_path / "deep" / ".o.lepton").stat().st_mode) == 0o700
    second = Staging(out, resume=True)
    assert second.resumed
    assert content(second.path) == "kept"
    assert second.path != first.path
    assert second.token != first.token
    # A worker of the first that was not told writes where nobody looks.
    first.path.mkdir()
    (first.path / "late").write_text("stale")
    second.publish()
    assert content(out) == "kept"
    assert names(tmp_path / "deep") == {"o"}


def test_what_was_stopped_in_publishing_can_be_resumed_again_and_again(tmp_path):
    out = tmp_path / "o"
    assert killed_at("publish:4", publishes, out, "new")
    for text in ("newer", "newest"):
        again = Staging(out, resume=True)
        assert again.resumed
        written(again, text).keep()
    Staging(out, resume=True).publish()
    assert content(out) == "newest"
    assert names(tmp_path) == {"o"}


def test_folders_that_a_stopped_run_made_go_when_the_next_one_gives_up(tmp_path):
    out = tmp_path / "deep" / "deeper" / "o"
    Staging(out).keep()
    Staging(out, resume=True).keep()
    Staging(out).discard()
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "state",
    ["", "[]", "{}", '{"run": "../.."}', '{"run": 7}', '{"run": "run-0000000g"}', "[" * 5000],
    ids=range(7),
)
def test_a_damaged_state_is_nothing_to_resume(tmp_path, state):
    out = tmp_path / "o"
    written(Staging(out), "kept").keep()
    (tmp_path / ".o.lepton" / "state.json").write_text(state)
    staging = Staging(out, resume=True)
    assert not staging.resumed
    assert names(staging.path) == set()
    staging.discard()
    assert names(tmp_path) == set()


def test_a_second_rename_that_fails_puts_the_old_version_back(tmp_path, monkeypatch):
    out = published(tmp_path / "o", "old")
    without_exchange(monkeypatch, publish)
    staging = written(Staging(out, overwrite=True), "new")
    rename = type(out).rename

    def failing(self, target):
        if self == staging.path:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        staging.publish()
    assert content(out) == "old"
    staging.discard()
    assert content(out) == "old"
    assert names(tmp_path) == {"o"}


def test_an_old_version_that_cannot_be_put_back_is_never_removed(tmp_path, monkeypatch):
    without_exchange(monkeypatch, publish)
    out = published(tmp_path / "o", "old")
    assert killed_at("publish:6", publishes, out, "new")
    rename = type(out).rename

    def failing(self, target):
        if target == out:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as broken:
        broken.setattr(type(out), "rename", failing)
        with pytest.raises(RunError, match=r"old version of .* is whole, but lies in .*old-"):
            Staging(out)
    Staging(out, overwrite=True).discard()
    assert content(out) == "old"
    assert names(tmp_path) == {"o"}


def test_an_output_protected_against_writing_is_refused_before_the_work(tmp_path, monkeypatch):
    out = published(tmp_path / "o", "old")
    monkeypatch.setattr(os, "access", lambda path, _mode: path != out)
    with pytest.raises(OutputExistsError, match="protected against writing"):
        Staging(out, overwrite=True)
    assert content(out) == "old"


@pytest.mark.parametrize("step", [4, 8])
def test_a_killed_run_on_the_command_line_and_the_same_again(tmp_path, step):
    np.save(tmp_path / "raw.npy", IMAGE)
    words = ("run", "convert", "raw=raw.npy", "--serial", "--overwrite")
    assert lepton(*words, "out=golden", cwd=tmp_path).returncode == 0
    dead = lepton(*words, "out=o", cwd=tmp_path, **{VARIABLE: f"publish:{step}"})
    assert dead.returncode == -signal.SIGKILL
    assert (tmp_path / "o").exists() == (step == 8)
    done = lepton(*words, "out=o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert fingerprints(tmp_path / "o") == fingerprints(tmp_path / "golden")
    assert names(tmp_path) == {"raw.npy", "golden", "o"}
