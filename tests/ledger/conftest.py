"""Ledgers to test with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_pipe.ledger.ledger import Ledger
from tests.ledger.ledgers import row


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lepton" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger.open(path) as made:
        made.begin_stage(0, "smooth", 100, b"recipe")
        yield made


@pytest.fixture
def closed(path) -> Path:
    with Ledger.open(path) as ledger:
        ledger.begin_stage(0, "smooth", 300, b"recipe" * 3)
        ledger.begin_stage(1, "label", 20, b"")
        ledger.record(0, [row(b) for b in range(200)], {"a.log": 77})
        ledger.mark_durable()
        ledger.record(0, [row(b) for b in range(200, 250)])
        ledger.set_fact("plan", {"memory": 1 << 30, "workers": 4})
        ledger.set_file("zarr.json", 5, 6)
        ledger.quarantine(1, 2, {"error": "bad"})
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the journal of a stage is; nothing is there yet."""
    return tmp_path / "journal" / "2"
