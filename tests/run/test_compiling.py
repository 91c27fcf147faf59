"""Whether loops are compiled already is known beforehand, and told where they are not."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, label
from lepton_pipe.run.compiling import _folders, _tag, compile_notes
from tests.command import lepton, python

IMAGE = np.zeros((64, 64), np.uint16)


@lp.pipeline
def smooth(raw: lp.Image):
    return gaussian(raw, sigma=1.0)


@lp.pipeline
def numbered(raw: lp.Image):
    return label(raw > 100)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder in which compiled loops are kept, with nothing in it."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    (folder,) = _folders()
    folder.mkdir(parents=True)
    return folder


def told(pipeline, tmp_path, **how) -> list[str]:
    notes = pipeline.plan(raw=IMAGE, out=tmp_path / "out.zarr", **how).notes
    return [n for n in notes if "not compiled" in n]


def test_loops_that_are_not_compiled_are_told_by_the_kernels_that_need_them(kept, tmp_path):
    (note,) = told(smooth, tmp_path)
    assert "loops of gaussian are" in note
    assert "7 s" in note
    (note,) = told(numbered, tmp_path)
    assert "label_join" in note
    assert "gaussian" not in note


def test_a_loop_that_was_compiled_is_not_told_until_code_has_changed(kept, tmp_path):
    (kept / f"labels.x-1.{_tag()}.nbi").touch()
    assert told(smooth, tmp_path)
    index = kept / f"strips.filter_volume-1.{_tag()}.nbi"
    index.touch()
    assert not told(smooth, tmp_path)
    os.utime(index, (1, 1))
    assert told(smooth, tmp_path)


def test_means_of_scale_levels_need_loops_too(kept, tmp_path):
    @lp.pipeline
    def copied(raw: lp.Image):
        return {"same": raw + 1}

    large = np.zeros((3000, 3000), np.uint16)
    for levels, notes in ((None, 1), (1, 0)):
        plan = copied.plan(raw=large, out=tmp_path / "out.zarr", levels=levels)
        assert sum("scale levels" in n for n in plan.notes) == notes


def test_where_kernels_do_not_run_here_nothing_is_told(kept, tmp_path):
    data = smooth.plan(raw=IMAGE, out=tmp_path / "out.zarr").data
    assert compile_notes(data)
    assert not compile_notes(replace(data, resources=replace(data.resources, device="gpu")))


def test_the_first_run_compiles_what_was_told_and_a_plan_loads_no_numba(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import lepton_pipe as lp\nfrom lepton_pipe.kernels import label\n\n\n"
        "@lp.pipeline\ndef mine(raw: lp.Image):\n    return label(raw > 100)\n"
    )
    np.save(tmp_path / "a.npy", IMAGE)
    words = ("mine.py", "raw=a.npy", "out=a.zarr", "--levels", "1")
    env = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert "not compiled" in lepton("plan", *words, cwd=tmp_path, **env).stdout
    done = lepton("run", *words, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert "not compiled" in done.stderr
    again = lepton("plan", *words, "--overwrite", cwd=tmp_path, **env)
    assert again.returncode == 0, again.stderr
    assert "not compiled" not in again.stdout
    code = (
        "import sys; from lepton_pipe.cli import main; "
        f"main(['plan', *{words!r}, '--overwrite']); print('numba' in sys.modules)"
    )
    assert python("-c", code, cwd=tmp_path).stdout.endswith("False\n")
