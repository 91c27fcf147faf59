"""An empty store for each test, and results that are staged and wait for their upload."""

from __future__ import annotations

import shutil

import pytest

from lepton_pipe.run import remote_lock
from lepton_pipe.store import remote
from tests.object_store import object_store
from tests.run.uploads.sending import run, stop_before_upload


@pytest.fixture(scope="module")
def service():
    with object_store() as store:
        yield store


@pytest.fixture
def store(service, monkeypatch):
    """Give an empty store that this process uses; requests that fail are repeated at once."""
    service.__init__(service.port)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote_lock, "SETTLE_SECONDS", 0.05)
    return service


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give the current folder, an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def prepared(service, tmp_path_factory):
    """Return a folder with what two runs of different plans have staged."""
    service.__init__(service.port)
    folder = tmp_path_factory.mktemp("staged")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment().items():
            patch.setenv(name, value)
        for name in ("usual", "other"):
            (folder / name).mkdir()
        stop_before_upload(staging=folder / "usual")
        stop_before_upload(staging=folder / "other", chunks="y=8,x=8", above=900)
    return folder


@pytest.fixture
def stage(prepared, folder):
    """Put what a run has staged, but not uploaded, into the current folder."""
    return lambda which="usual": shutil.copytree(prepared / which, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Return the files that the run publishes on a disk."""
    out = tmp_path_factory.mktemp("golden") / "o"
    run(out)
    files = (p for p in out.rglob("*") if p.is_file() and ".lepton" not in p.parts)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(files)}
