"""What the engine itself takes for a block, and how much it sends: little, and no more for many."""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest

import lepton_pipe as lp
from lepton_pipe.merge.fold import FAN
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.run import flight
from lepton_pipe.run.executors import Work
from lepton_pipe.run.on_dask import DaskExecutor
from lepton_pipe.store import open_source
from lepton_pipe.worker import Program

# Twice what is promised: processes share this machine with others.
MOST_MS = 10.0


@lp.kernel(combine=max, value=lp.ValueType("int64"), scratch=0.0)
def largest(block):
    return int(block.max())


@lp.kernel(combine=max, value=lp.ValueType("int64"), scratch=0.0)
def slowest(block):
    time.sleep(0.03)
    return int(block.max())


class Nothing:
    """An image of which every voxel tells its row."""

    def read(self, region):
        rows = np.arange(region.start[0], region.stop[0], dtype=np.uint32)
        return np.broadcast_to(rows[:, None], region.shape)


def program(kernel, blocks):
    """Return the program of a stage of tiny blocks."""

    @lp.pipeline
    def top(raw: lp.Image):
        return {"top": kernel(raw)}

    source = open_source(np.zeros((4 * blocks, 4), np.uint32))
    spec = top.bind({"raw": source.type}, {})
    inputs = {"raw": InputInfo(source.type, source.chunks, source.uri)}
    plan = make_plan(spec, inputs, Resources(2**33, 2, 1), {"y": 4, "x": 4})
    (stage,) = plan.stages
    assert len(stage.blocks) == blocks
    return Program(plan.spec, stage, {"raw": Nothing()}, {}, {})


class Counted:
    """A client that counts the tasks that it is sent, by the first word of their keys."""

    def __init__(self, client):
        self.client, self.sent = client, {}

    def _count(self, key):
        word = key[0].partition(":")[0] if isinstance(key, tuple) else "program"
        kind = word if word in ("fold", f"{FAN}x", "program") else "block"
        self.sent[kind] = self.sent.get(kind, 0) + 1

    def submit(self, *args, key, **options):
        self._count(key)
        return self.client.submit(*args, key=key, **options)

    def map(self, *args, key, **options):
        for one in key:
            self._count(one)
        return self.client.map(*args, key=key, **options)

    def __getattr__(self, name):
        return getattr(self.client, name)


def run(client, kernel, blocks, token):
    """Run a stage; return its result, the ticks, what was sent, and CPU milliseconds a block."""
    made, ticks, counted = program(kernel, blocks), [], Counted(client)
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]

    def cpu():
        return sum(sum(p.cpu_times()[:2]) for p in family)

    before = cpu()
    executor = DaskExecutor(counted, 2, token)
    result = executor.run(Work(made, lambda _: {}, lambda: ticks.append(1)))
    spent = 1000 * (cpu() - before) / blocks
    (name,) = made.stage.reduces
    return result.partials[name], len(ticks), counted.sent, spent


@pytest.fixture(scope="module")
def warm(cluster):
    """A cluster that has loaded what blocks need."""
    run(cluster, largest, 64, "warm")
    time.sleep(1)
    return cluster


@pytest.mark.parametrize("blocks", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_tiny_block_costs_little_however_many_there_are(warm, blocks, monkeypatch):
    # However long a busy machine takes, no block is long here.
    monkeypatch.setattr(flight, "WORTH_SECONDS", 1000)
    value, ticks, sent, spent = run(warm, largest, blocks, f"tiny{blocks}")
    assert value == 4 * blocks - 1
    assert ticks == blocks
    assert spent < MOST_MS
    # After the first group is measured, a group is a task; but not at the end.
    assert sent[f"{FAN}x"] > 0.5 * blocks / FAN
    assert sent["program"] == 1
    assert sent["block"] + FAN * sent[f"{FAN}x"] == blocks


def test_a_block_that_is_worth_it_has_a_task_of_its_own(warm):
    _, ticks, sent, _ = run(warm, slowest, 100, "long")
    assert ticks == 100
    assert sent == {"program": 1, "block": 100, "fold": 7}


def test_one_task_for_each_block_costs_little_too(warm, monkeypatch):
    monkeypatch.setattr(flight, "WORTH_SECONDS", 0)
    _, ticks, sent, spent = run(warm, largest, 500, "singly")
    assert ticks == sent["block"] == 500
    assert spent < MOST_MS


@pytest.mark.parametrize("blocks", [1, FAN - 1, FAN, FAN + 1, 5 * FAN, 5 * FAN + 3, 200])
def test_blocks_are_all_run_once_whatever_their_number(warm, blocks):
    value, ticks, sent, _ = run(warm, largest, blocks, f"count{blocks}")
    assert value == 4 * blocks - 1
    assert ticks == blocks
    assert sent["block"] + FAN * sent.get(f"{FAN}x", 0) == blocks
