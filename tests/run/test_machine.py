"""More than the machine has can be asked for; the plan says what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.run import machine

GIB = 2**30
IMAGE = np.zeros((64, 64), np.uint16)


@lp.pipeline
def more(raw: lp.Image):
    return raw + 1


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "total_memory", lambda: 16 * GIB)
    monkeypatch.setattr(machine, "free_memory", lambda: 12 * GIB)


def told(tmp_path, **how) -> list[str]:
    plan = more.plan(raw=IMAGE, out=tmp_path / "out.zarr", **how)
    beyond = [n for n in plan.notes if "may be used here" in n or "than is here" in n]
    assert all(f"note: {n}" in str(plan) for n in beyond)
    return beyond


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"threads": 3}, "3 threads are more than the 2 cores"),
        ({"workers": 3}, "3 x 1 threads are more than the 2 cores"),
        ({"workers": 2, "threads": 2}, "2 x 2 threads are more than the 2 cores"),
    ],
)
def test_more_threads_than_cores_are_noted(tmp_path, how, words):
    (note,) = told(tmp_path, **how)
    assert words in note
    assert "give 2 in all, or leave them out" in note


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"threads": 2},
        {"workers": 2},
        {"threads": 9, "serial": True},
        {"memory": "12GiB"},
        {"memory": "16GiB"},  # the plan takes less than is free
    ],
)
def test_what_the_machine_has_is_not(tmp_path, how):
    assert told(tmp_path, **how) == []


def test_more_memory_than_there_is_is_noted(tmp_path):
    (note,) = told(tmp_path, memory="17GiB")
    for words in ("17 GiB of memory", "12 GiB free of 16 GiB", "give at most 12 GiB", "60 %"):
        assert words in note
    assert "fits all the same" in note


def test_a_plan_that_takes_more_than_is_free_is_told_what_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: GIB // 8)
    (note,) = told(tmp_path, memory="8GiB")
    assert "the plan may take" in note
    assert "ends processes" in note


def test_the_limit_of_a_cgroup_is_the_memory_there_is(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    everything = machine.total_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.total_memory() == everything
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 4}\n")
    assert machine.total_memory() == GIB
    assert machine.free_memory() == 3 * GIB // 4
