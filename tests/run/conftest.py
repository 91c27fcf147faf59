from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lepton_pipe.plan import Resources
from lepton_pipe.run.cluster import local_client

IN_MEMORY = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def fast_disk(monkeypatch):
    """Put temporary folders in memory: hundreds of tiny runs would wait for the disk."""
    if IN_MEMORY.is_dir():
        monkeypatch.setattr(tempfile, "tempdir", str(IN_MEMORY))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A client of a cluster of two workers with one thread each, made as for any run."""
    resources = Resources(2**31, workers=2, threads=1)
    with local_client(resources, 2**31, tmp_path_factory.mktemp("workers")) as client:
        yield client
