"""What the page of a run shows."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.cache.counts import Tier
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian, mean
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.board import MOST_CELLS, Board
from lepton_pipe.spec import ImageType


@lp.pipeline
def even(raw: lp.Image) -> dict[str, lp.Node]:
    smooth = gaussian(raw, sigma=1)
    return {"light": smooth / mean(smooth)}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def planned(shape=(8, 40, 48), tiling=None):
    type_ = ImageType(Grid.of(shape), np.dtype("uint16"))
    spec = even.bind({"raw": type_}, {})
    tiling = tiling or {"z": 4, "y": 8, "x": 8}
    info = {"raw": InputInfo(type_, shape, "raw")}
    return make_plan(spec, info, Resources(2**31, 1, 2), tiling)


def test_nothing_is_done_at_first():
    board = Board(planned(), "o", Clock())
    state = json.loads(json.dumps(board.state()))
    assert (state["pipeline"], state["out"]) == ("even", "o")
    assert (state["share"], state["left"], state["map"]) == (0, None, None)
    assert {s["state"] for s in state["stages"]} == {"waits"}


def test_a_stage_that_runs_has_a_map_and_a_speed():
    plan, clock = planned(), Clock()
    board, first = Board(plan, "o", clock), plan.stages[0]
    done = np.zeros(len(first.blocks), bool)
    board.begin(0, lambda: done)
    clock.now += 2
    done[[i for i in range(len(done)) if first.blocks.position(i)[1:] == (1, 2)]] = True
    state = board.state()
    cells = np.array(state["map"]["cells"])
    assert state["map"]["axes"] == "yx"
    assert cells.shape == first.blocks.counts[1:]
    assert cells[1, 2] == 1 and cells.sum() == 1
    runs = state["stages"][0]
    assert (runs["state"], runs["done"], runs["seconds"]) == ("runs", 2, 2)
    assert runs["read"] == pytest.approx(first.estimate.bytes_read * 2 / len(done) / 2)
    # The stage that runs goes on as it did.
    assert state["left"] >= 2 * (len(done) / 2 - 1)


def test_cells_show_the_share_of_blocks_along_other_axes():
    plan = planned()
    board, first = Board(plan, "o"), plan.stages[0]
    done = np.array([first.blocks.position(i)[0] == 0 for i in range(len(first.blocks))])
    board.begin(0, lambda: done)
    assert set(np.unique(board.state()["map"]["cells"])) == {0.5}


def test_what_was_done_before_says_nothing_of_the_speed():
    plan, clock = planned(), Clock()
    board = Board(plan, "o", clock)
    done = np.ones(len(plan.stages[0].blocks), bool)
    done[0] = False
    board.begin(0, lambda: done)
    clock.now += 1
    assert board.state()["left"] is None
    assert board.state()["stages"][0]["speed"] == 0


def test_a_run_that_has_ended_has_nothing_left():
    plan, clock = planned(), Clock()
    board = Board(plan, "o", clock)
    for stage in plan.stages:
        board.begin(stage.index, partial(np.zeros, len(stage.blocks), bool))
        clock.now += 1
        board.end(stage.index, {"packed": Tier(hits=2, put=1, nbytes=10, raw_bytes=40)})
    state = board.state()
    stages = len(plan.stages)
    assert state["tiers"]["packed"]["hits"] == 2 * stages
    assert state["tiers"]["packed"]["ratio"] == 4
    assert state["share"] == 1 and state["left"] == 0
    assert all(s["done"] == s["blocks"] for s in state["stages"])


def test_there_are_no_more_cells_than_can_be_seen():
    plan = planned((1000, 3000), {"y": 8, "x": 8})
    board = Board(plan, "o")
    done = np.ones(len(plan.stages[0].blocks), bool)
    board.begin(0, lambda: done)
    cells = np.array(board.state()["map"]["cells"])
    assert cells.shape == (MOST_CELLS, MOST_CELLS)
    assert (cells == 1).all()


def test_what_is_told_last_is_shown():
    board = Board(planned(), "o")
    for number in range(20):
        board.say(f"line {number}")
    assert board.state()["said"][-1] == "line 19"
    assert len(board.state()["said"]) < 20
