"""How thick the slabs are that a sweep folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian, project
from lepton_pipe.plan import InputInfo, Resources, baseline, make_plan
from lepton_pipe.plan.memory import task_bytes
from lepton_pipe.spec import ImageType

MIB = 2**20


@lp.pipeline
def flat(raw: lp.Image, *, axis: str = "z", sigma: float = 0.0) -> lp.Node:
    """Project along an axis."""
    return {"flat": project(gaussian(raw, sigma=sigma) if sigma else raw, axis)}


def plan_of(shape, stored, memory, slots=2, **params):
    type_ = ImageType(Grid.of(shape), np.dtype("u2"), "image")
    spec = flat.bind({"raw": type_}, params)
    inputs = {"raw": InputInfo(type_, stored, "")}
    workers = 0 if memory < 1024 * MIB else 1  # its processes would leave nothing
    return make_plan(spec, inputs, Resources(memory, workers, slots))


@pytest.mark.parametrize("memory", [512 * MIB, 1024 * MIB, 4096 * MIB])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_bricks_are_decoded_once_by_a_projection_along_any_axis(memory, axis):
    plan = plan_of((512, 2048, 2048), (64, 256, 256), memory, axis=axis)
    assert plan.stages[0].estimate.bytes_decoded == 512 * 2048 * 2048 * 2
    assert plan.peak_bytes <= memory


def test_slabs_of_planes_are_many_planes():
    sweep = plan_of((2000, 512, 512), (1, 512, 512), 2**30).stages[0].sweep
    assert sweep.thickness * 512 * 512 == 2**22


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    stored=st.tuples(*[st.integers(1, 300)] * 3),
    spare=st.integers(20, 2000),
    slots=st.integers(1, 8),
    axis=st.sampled_from("zyx"),
    sigma=st.sampled_from([0.0, 2.0]),
)
def test_slabs_fit_and_are_whole_chunks_where_those_fit(shape, stored, spare, slots, axis, sigma):
    stored = tuple(min(c, n) for c, n in zip(stored, shape, strict=True))
    memory = baseline(Resources(0)) + spare * MIB
    try:
        plan = plan_of(shape, stored, memory, slots, axis=axis, sigma=sigma)
    except MemoryRefusedError:
        return
    stage, at = plan.stages[0], "zyx".index(axis)
    thickness, chunk = stage.sweep.thickness, stored[at]
    assert 1 <= thickness <= shape[at]
    assert plan.peak_bytes <= memory
    if thickness > chunk:
        assert thickness % chunk == 0 or thickness == shape[at]
    if thickness < chunk:
        thicker = replace(stage, sweep=replace(stage.sweep, thickness=chunk))
        assert task_bytes(plan.spec, thicker, plan.arrays, plan.inputs) > spare * MIB / 1.2
