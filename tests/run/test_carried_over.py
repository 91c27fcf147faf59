"""What others put into a result: it is in the next version too, or is named."""

from __future__ import annotations

import errno
import os
import shutil
import stat

import pytest

import lepton_pipe as lp
from lepton_pipe.errors import OutputExistsError
from lepton_pipe.kernels import gaussian
from lepton_pipe.ledger import KNOWN
from lepton_pipe.run.publish import MARKER
from lepton_pipe.run.verify import verify
from tests.command import names
from tests.run.five import fingerprints
from tests.run.measured import IMAGE, made, measured
from tests.run.stopped import killed_at


@lp.pipeline
def renamed(raw: lp.Image):
    return {"wide": gaussian(raw, sigma=1)}


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
