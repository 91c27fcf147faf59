"""One run at a time works on an output; hidden folders of others are left alone."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from lepton_pipe.errors import LockedError, RefusedError
from lepton_pipe.run.publish import Staging
from tests.command import assert_refused, lepton, names
from tests.run.measured import IMAGE, made
from tests.run.stopped import working_on


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


def spent():
    """Return the seconds that processes which have ended took of a core, of those we started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_run_on_the_command_line_is_refused_within_five_seconds(tmp_path):
    # Of a core: that a machine has much else to do says nothing of the run. That it waits for
    # nothing is seen where the lock is tested.
    np.save(tmp_path / "raw.npy", IMAGE)
    with working_on(tmp_path / "o") as first:
        for command in ("run", "plan"):
            before = spent()
            second = lepton(command, "convert", "raw=raw.npy", "out=o", cwd=tmp_path)
            assert spent() - before < 5
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
