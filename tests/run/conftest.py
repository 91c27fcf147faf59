from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def fast_disk(monkeypatch):
    """Put temporary folders in memory: hundreds of tiny runs would wait for the disk."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        monkeypatch.setattr(tempfile, "tempdir", str(shared))
