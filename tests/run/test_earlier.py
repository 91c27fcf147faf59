"""A run that goes on plans with what the one before it did, and with nothing stale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.plan import NOMINAL
from lepton_pipe.run.earlier import Earlier, planned_with

IMAGE = np.zeros((40, 50), np.uint8)
SLOW = replace(NOMINAL, encode_ns=7.5)


@lp.kernel
def undeclared(block):
    return block + 1


@lp.pipeline
def changed(raw: lp.Image) -> lp.Node:
    """Run a kernel that says nothing of itself."""
    return undeclared(raw)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plan after a run that was planned with slow encoding and 700 MiB was stopped."""

    def made(memory, stopped_with):
        first = changed.plan(raw=IMAGE, out=tmp_path / "o", memory=stopped_with)
        told = planned_with(first.options.planning(), first.data, SLOW)
        found = Earlier(told["options"], first.data.resources, SLOW)
        monkeypatch.setattr("lepton_pipe.run.earlier.stopped_run", lambda out: found)
        return changed.plan(raw=IMAGE, out=tmp_path / "o", memory=memory)

    return made


def test_rates_and_memory_are_those_of_the_run_that_was_stopped(plan):
    again = plan("700MiB", "700MiB")
    assert again.rates.encode_ns == SLOW.encode_ns
    assert again.data.resources.memory == 700 * 2**20


def test_other_options_make_a_plan_of_their_own(plan):
    assert plan("900MiB", "700MiB").rates.encode_ns != SLOW.encode_ns


def test_a_kernel_that_is_new_since_then_is_measured(plan):
    assert SLOW.scratch == {}
    assert plan("700MiB", "700MiB").rates.scratch
