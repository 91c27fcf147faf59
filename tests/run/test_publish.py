"""The last act: what is published, replaced, refused, and what is left when it fails."""

from __future__ import annotations

import json
import os
import signal
import stat

import numpy as np
import pyarrow.parquet as pq
import pytest

from lepton_pipe.errors import OutputExistsError, RunError, UsageError
from lepton_pipe.run import layouts, publish, results, stage_runner
from lepton_pipe.run.publish import MARKER, Staging
from tests.command import cleaned, names
from tests.run.five import fingerprints, segment
from tests.run.measured import IMAGE, made, measured


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
