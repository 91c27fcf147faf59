"""The last act: what is published, replaced, refused, and what is left when it fails."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat

import numpy as np
import pyarrow.parquet as pq
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import LockedError, OutputExistsError, RefusedError, RunError, UsageError
from lepton_pipe.failpoints import VARIABLE
from lepton_pipe.kernels import gaussian, mean
from lepton_pipe.ledger import KNOWN
from lepton_pipe.run import layouts, publish, results, stage_runner
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.publish import MARKER, Staging
from lepton_pipe.run.verify import verify
from tests.command import assert_refused, cleaned, lepton, names
from tests.run.five import fingerprints, picture, segment
from tests.run.stopped import (
    content,
    killed_at,
    published,
    publishes,
    without_exchange,
    working_on,
    written,
)


@lp.pipeline
def measured(raw: lp.Image, *, sigma: float = 1.0):
    smooth = gaussian(raw, sigma=sigma)
    return {"smooth": smooth, "level": mean(smooth)}


@lp.pipeline
def renamed(raw: lp.Image):
    return {"wide": gaussian(raw, sigma=1)}


IMAGE = picture((30, 40), "uint16", 1)


def made(out, image=IMAGE, overwrite=False, **parameters):
    return measured.plan(raw=image, out=out, serial=True, overwrite=overwrite, **parameters).run(
        progress=False
    )


def test_what_is_published_and_what_the_record_holds(tmp_path):
    report = made(tmp_path / "o", sigma=2)
    assert names(tmp_path) == {"o"}
    assert {"smooth", "values.json", MARKER} <= names(tmp_path / "o")
    record = json.loads((tmp_path / "o" / MARKER).read_text())
    assert record["pipeline"]["parameters"] == {"sigma": 2.0}
    assert record["inputs"]["raw"]
    assert record["measured"]["outputs"]["smooth"]["shape"] == [30, 40]
    assert record["versions"]["numpy"] == np.__version__
    values = json.loads((tmp_path / "o" / "values.json").read_text())
    assert values == {"level": report.values["level"]}
    expected = measured(IMAGE, sigma=2.0)
    assert values["level"] == pytest.approx(expected["level"])
    assert report.path("smooth") == tmp_path / "o" / "smooth"


def test_the_output_may_be_read_by_others_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        made(tmp_path / "o")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "o").stat().st_mode) == 0o750


def test_staging_is_private_while_it_is_written(tmp_path):
    staging = Staging(tmp_path / "deep" / "o")
    assert stat.S_IMODE(staging.path.stat().st_mode) == 0o700
    staging.discard()
    assert names(tmp_path) == set()


def test_folders_made_for_the_output_go_with_it_unless_others_use_them(tmp_path):
    staging = Staging(tmp_path / "deep" / "deeper" / "o")
    (tmp_path / "deep" / "theirs").touch()
    staging.discard()
    assert names(tmp_path / "deep") == {"theirs"}


def test_the_digest_changes_with_parameters_and_not_otherwise(tmp_path):
    digests = []
    for i, sigma in enumerate((1, 1, 2)):
        made(tmp_path / str(i), sigma=sigma)
        digests.append(json.loads((tmp_path / str(i) / MARKER).read_text())["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_overwrite_replaces_the_whole_output(tmp_path):
    made(tmp_path / "o")
    stale = tmp_path / "o" / "smooth" / "0" / "c" / "7" / "7"
    stale.parent.mkdir()
    stale.write_text("from before")
    first = fingerprints(tmp_path / "o")
    with pytest.raises(OutputExistsError, match="overwrite"):
        made(tmp_path / "o")
    assert fingerprints(tmp_path / "o") == first
    made(tmp_path / "o", sigma=3, overwrite=True)
    assert not stale.exists()
    assert names(tmp_path) == {"o"}
    assert fingerprints(tmp_path / "o") != first


def _annotate(out):
    """Put into a result what others may put there; return the texts by their places."""
    places = ("notes.md", "mine/deep/a.md", "smooth/b.md", "smooth/0/c/d.md")
    texts = {place: f"about {place}" for place in places}
    for place, text in texts.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text)
    (out / "mine").chmod(0o750)
    (out / "link").symlink_to("/nowhere")
    return texts


def _annotated(out, texts):
    assert {p: (out / p).read_text() for p in texts} == texts
    assert all((out / p).stat().st_nlink == 1 for p in texts)
    assert str((out / "link").readlink()) == "/nowhere"
    assert stat.S_IMODE((out / "mine").stat().st_mode) == 0o750
    return True


@pytest.mark.parametrize("told_by", ["ledger", "record"])
@pytest.mark.parametrize("links", [True, False])
def test_what_others_put_into_a_result_is_in_the_next_version_too(
    tmp_path, monkeypatch, told_by, links
):
    def refused(*_, **__):
        raise OSError(errno.EPERM, "no links")

    if not links:
        monkeypatch.setattr("lepton_pipe.run.published._linked", refused)
    out = tmp_path / "o"
    made(out)
    texts = _annotate(out)
    if told_by == "record":
        shutil.rmtree(out / KNOWN)
    made(out, sigma=3, overwrite=True)
    assert _annotated(out, texts)
    assert len(verify(out).extra) == 5
    measured.plan(raw=IMAGE, out=out, sigma=4, serial=True, update=True).run(progress=False)
    assert _annotated(out, texts)
    assert names(tmp_path) == {"o"}


@pytest.mark.parametrize("step", ["publish:4", "publish:5"])
def test_what_was_carried_over_by_a_killed_run_is_carried_over_again(tmp_path, step):
    out = tmp_path / "o"
    made(out)
    texts = _annotate(out)
    assert killed_at(step, lambda: made(out, sigma=3, overwrite=True))
    assert {p: (out / p).read_text() for p in texts} == texts
    (out / "smooth" / "b.md").unlink()
    (out / "notes.md").unlink()
    made(out, sigma=3, overwrite=True)
    del texts["smooth/b.md"], texts["notes.md"]
    assert _annotated(out, texts)
    assert not (out / "smooth" / "b.md").exists()
    assert not (out / "notes.md").exists()
    assert verify(out).whole


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_what_cannot_be_carried_over_is_named_before_anything_is_replaced(tmp_path, kind):
    out = tmp_path / "o"
    made(out)
    first = fingerprints(out)
    theirs = out / "wide"
    if kind == "folder":
        theirs.mkdir()
        (theirs / "zarr.json").write_text("mine")
    else:
        theirs.write_text("mine") if kind == "file" else os.mkfifo(theirs)
    plan = renamed.plan(raw=IMAGE, out=out, serial=True, overwrite=True)
    with pytest.raises(OutputExistsError, match=r"o/wide.* is none of the files .* move it away"):
        plan.run(progress=False)
    assert first.items() <= fingerprints(out).items() if kind == "folder" else theirs.exists()
    theirs.rename(tmp_path / "away")
    plan.run(progress=False)
    assert names(out) == {".lepton", MARKER, "wide"}


def test_an_output_that_appears_during_the_run_is_not_replaced(tmp_path, monkeypatch):
    plan = measured.plan(raw=IMAGE, out=tmp_path / "o", serial=True)
    finish = stage_runner.StageRunner.finish

    def someone_else(self, identities):
        (tmp_path / "o").mkdir()
        (tmp_path / "o" / "theirs").touch()
        finish(self, identities)

    monkeypatch.setattr(stage_runner.StageRunner, "finish", someone_else)
    with pytest.raises(OutputExistsError):
        plan.run(progress=False)
    assert cleaned(tmp_path / "o") == {"o"}
    assert names(tmp_path / "o") == {"theirs"}


@pytest.mark.parametrize(
    ("room", "step"),
    [(results, "write_table"), (results, "write_json"), (layouts, "create_image")],
    ids=["table", "record", "layout"],
)
def test_a_disk_that_fails_in_the_driver_fails_the_run(tmp_path, monkeypatch, room, step):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, step, full)
    with pytest.raises(RunError, match="No space left on device"):
        segment.plan(raw=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    assert cleaned(tmp_path / "o") == set()


def test_a_disk_that_fails_when_flushed_fails_the_run(tmp_path, monkeypatch):
    made(tmp_path / "o")
    before = fingerprints(tmp_path / "o")

    def torn(_path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(publish, "sync_tree", torn)
    with pytest.raises(RunError, match="Input/output error"):
        made(tmp_path / "o", sigma=3, overwrite=True)
    assert fingerprints(tmp_path / "o") == before
    assert cleaned(tmp_path / "o") == {"o"}


@pytest.mark.parametrize("kind", ["file", "folder", "link to ours", "dangling link"])
def test_overwrite_touches_nothing_that_is_not_ours(tmp_path, kind):
    out = tmp_path / "o"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
    elif kind == "link to ours":
        made(tmp_path / "ours")
        out.symlink_to(tmp_path / "ours")
    else:
        out.symlink_to(tmp_path / "nowhere")
    before = names(tmp_path)
    with pytest.raises(OutputExistsError, match=r"not made by lepton_pipe|is a symbolic link"):
        made(out, overwrite=True)
    assert names(tmp_path) == before


def test_a_place_without_a_name_is_no_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no name"):
        made("/")
    with pytest.raises(UsageError, match="no name"):
        made("new/..")
    assert names(tmp_path) == set()


def test_a_table_is_parquet_with_types(tmp_path):
    report = segment.plan(raw=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    table = pq.read_table(tmp_path / "o" / "table.parquet")
    assert table.num_rows == report.outputs["table"]["rows"] > 0
    assert str(table.schema.field("label").type) == "int64"
    whole = segment(IMAGE)["table"]
    for name in table.column_names:
        np.testing.assert_array_equal(table.column(name).to_numpy(), whole[name])


def test_an_input_that_changes_after_the_start_is_recorded_as_it_was(tmp_path):
    path = tmp_path / "raw.npy"
    np.save(path, IMAGE)
    plan = measured.plan(raw=path, out=tmp_path / "o", serial=True)
    recorded = plan.sources["raw"].identity()
    plan.run(progress=False)
    assert json.loads((tmp_path / "o" / MARKER).read_text())["inputs"]["raw"] == recorded


def test_an_interrupt_while_publishing_waits_and_is_not_called_a_failure(tmp_path, monkeypatch):
    staging = publish.Staging(tmp_path / "out")
    (staging.path / "file").write_text("new")
    monkeypatch.setattr(publish, "sync_path", lambda _path: os.kill(os.getpid(), signal.SIGINT))
    staging.publish()
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_a_failed_flush_after_the_rename_says_that_the_result_is_there(tmp_path, monkeypatch):
    def torn(_path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(publish, "sync_path", torn)
    with pytest.raises(RunError, match="is published and whole, but"):
        made(tmp_path / "o")
    assert names(tmp_path) == {"o"}


# ---- runs that are stopped, and the next one -----------------------------------------------------


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


def test_two_runs_on_one_output(tmp_path):
    first = Staging(tmp_path / "o")
    for resume in (False, True):
        with pytest.raises(LockedError, match="being written by process"):
            Staging(tmp_path / "o", resume=resume)
    with pytest.raises(LockedError, match="being written by process"):
        made(tmp_path / "o")
    Staging(tmp_path / "other").discard()
    first.discard()
    assert names(tmp_path) == set()


def test_a_second_run_on_the_command_line_is_refused_within_five_seconds(tmp_path):
    np.save(tmp_path / "raw.npy", IMAGE)
    with working_on(tmp_path / "o") as first:
        for command in ("run", "plan"):
            # Five seconds of its own: on a busy machine it waits for others.
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            second = lepton(command, "convert", "raw=raw.npy", "out=o", cwd=tmp_path)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
            assert_refused(
                second, 4, f"process {first.pid} on", f"kill {first.pid}", "another out="
            )
        first.kill()
        first.wait()
        third = lepton("run", "convert", "raw=raw.npy", "out=o", "--serial", cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    assert names(tmp_path) == {"raw.npy", "o"}


def test_what_is_over_touches_nothing_of_the_next_run(tmp_path):
    first = Staging(tmp_path / "o")
    first.keep()
    second = Staging(tmp_path / "o")
    first.discard()
    first.keep()
    assert second.path.is_dir()
    with pytest.raises(LockedError):
        Staging(tmp_path / "o")
    second.discard()


@pytest.mark.parametrize("kind", ["link", "file", "foreign folder", "other owner"])
def test_a_hidden_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path, monkeypatch, kind):
    path = tmp_path / ".o.lepton"
    if kind == "link":
        (tmp_path / "theirs").mkdir()
        path.symlink_to(tmp_path / "theirs")
    elif kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine").touch()
    if kind == "other owner":
        (path / "mine").unlink()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    before = names(tmp_path)
    for resume in (False, True):
        with pytest.raises(RefusedError, match=r"\.o\.lepton is where a run keeps .* left alone"):
            Staging(tmp_path / "o", resume=resume)
    assert names(tmp_path) == before
    assert path.is_symlink() == (kind == "link")


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
