"""How long a stage takes, of its blocks and of how many of them are computed at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.plan.memory import with_tables
from lepton_pipe.spec import ImageType
from tests.run.five import segment

GIB = 2**30


@lp.pipeline
def smooth(raw: lp.Image):
    return gaussian(raw, 2)


def plan_of(shape, chunk, threads):
    type_ = ImageType(Grid.of(shape), np.dtype("u2"))
    inputs = {"raw": InputInfo(type_, chunk, "")}
    resources = Resources(4 * GIB, 0, threads)
    return make_plan(smooth.bind({"raw": type_}, {}), inputs, resources, levels=1)


@pytest.mark.parametrize(
    ("tasks", "slots", "share"),
    [(1, 8, 1), (3, 8, 1 / 3), (8, 8, 1 / 8), (9, 8, 2 / 9), (100, 1, 1), (100, 3, 34 / 100)],
)
def test_no_more_blocks_are_computed_at_once_than_there_are(tasks, slots, share):
    (stage,) = plan_of((64, 64), (64, 64), 1).stages
    stage = replace(stage, grid=Grid.of((64 * tasks, 64)), block=(64, 64), slots=slots)
    assert len(stage.blocks) == tasks
    assert stage.at_once == min(tasks, slots)
    assert stage.seconds == pytest.approx(stage.estimate.core_seconds * share)


def test_a_single_block_takes_no_less_on_more_cores():
    alone, eight = (plan_of((3000, 2500), (3000, 2500), n) for n in (1, 8))
    assert len(eight.stages[0].blocks) == 1
    assert eight.seconds == pytest.approx(alone.seconds)
    assert plan_of((9000, 9000), (1024, 1024), 8).seconds < alone.seconds * 10 / 4


def test_room_for_tables_is_set_aside_whole_from_their_stage_on(tmp_path):
    image = np.zeros((64, 128, 128), np.uint16)
    plan = segment.plan(raw=image, out=tmp_path / "o", memory="1GiB").data
    room = [r for _, r in with_tables(plan.spec, plan.stages, 1000)]
    first = next(i for i, s in enumerate(plan.stages) if "regionprops" in s.steps)
    assert first > 0
    assert room == [300] * first + [1000] * (len(plan.stages) - first)
