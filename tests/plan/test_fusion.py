"""Pointwise steps that run together give what they give one after the other."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.geometry import Region
from lepton_pipe.kernels import flatfield, gaussian, label, mean
from lepton_pipe.plan import fusion
from lepton_pipe.plan.absorb import last_use
from lepton_pipe.plan.fusion import dead_after, fused_groups, tiles
from lepton_pipe.plan.regions import block_regions
from lepton_pipe.run.executors import SerialExecutor, Work
from lepton_pipe.spec import compute_step, finish_step
from lepton_pipe.worker import run_block
from tests.worker.test_block import programs

IMAGE = np.random.default_rng(3).integers(0, 4000, (37, 61, 53)).astype(np.uint16)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), min_size=1, max_size=4),
    st.integers(1, 200),
)
def test_tiles_cover_a_region_once_and_none_is_too_large(ranges, voxels):
    region = Region(tuple(a for a, _ in ranges), tuple(a + n for a, n in ranges))
    counted = np.zeros([a + n for a, n in ranges], int)
    for tile in tiles(region, voxels):
        assert 0 < tile.size <= voxels
        counted[tile.slices] += 1
    assert (counted[region.slices] == 1).all()
    assert counted.sum() == region.size


def groups_of(pipeline, image=IMAGE):
    program = next(p for p, _ in programs(pipeline, None, image))
    stage = program.stage
    regions = block_regions(program.spec, stage, stage.blocks.region(0))
    return [g.steps for g in fused_groups(program.spec, stage, stage.steps, regions)], program


def piped(fn):
    def one(raw: lp.Image):
        return fn(raw)

    return lp.pipeline(one)


def test_a_chain_of_operators_is_one_group_and_a_filter_ends_it():
    groups, _ = groups_of(piped(lambda raw: np.sqrt(gaussian(raw * 2 + 1, 1) - 3) > 5))
    assert groups == [("multiply", "add"), ("gaussian",), ("subtract", "sqrt", "greater")]


def test_what_is_numbered_block_by_block_stays_alone():
    for program, _ in programs(piped(lambda raw: label(raw > 2000) * 2 + 1), None, IMAGE):
        for block in program.stage.blocks:
            regions = block_regions(program.spec, program.stage, block)
            groups = fused_groups(program.spec, program.stage, program.stage.steps, regions)
            assert all(len(g.steps) == 1 for g in groups if "label_apply" in g.steps)


def test_a_result_dies_after_the_last_step_that_reads_it():
    groups, program = groups_of(piped(lambda raw: (raw * 2) + (raw * 3) * (raw * 2)))
    last = last_use(program.spec, program.stage)
    dead = dict(zip(groups[0], dead_after(groups[0], program.stage, last), strict=True))
    assert dead["multiply_3"] == ["multiply_2"]
    assert set(dead["add"]) == {"multiply", "multiply_3", "add"}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("+*-></fmgs"), min_size=1, max_size=8), st.integers(7, 5000))
def test_tiles_of_any_size_give_the_same_bits(letters, voxels):
    def fn(raw):
        made = raw
        for letter in letters:
            made = STEPS[letter](made, raw)
        return {"out": made, "also": made * 2}

    assert_same_blocks(piped(fn), voxels)


STEPS = {
    "+": lambda x, raw: x + np.float32(1.1),
    "*": lambda x, raw: x * np.float32(0.7),
    "-": lambda x, raw: raw - x,
    ">": lambda x, raw: (x > 7) + raw,
    "<": lambda x, raw: np.minimum(x, 999),
    "/": lambda x, raw: x / np.float32(3),
    "f": lambda x, raw: flatfield(x),
    "m": lambda x, raw: x - mean(raw),
    "g": lambda x, raw: gaussian(x, 0.6),
    "s": lambda x, raw: np.sqrt(abs(x)),
}


def assert_same_blocks(pipeline, voxels):
    image = np.ascontiguousarray(IMAGE[:9, :20, :23])
    default = run_all(pipeline, image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "TILE_VOXELS", voxels)
        small = run_all(pipeline, image)
    whole = pipeline(image)
    for name, array in small.items():
        np.testing.assert_array_equal(array, default[name])
        np.testing.assert_allclose(array, whole[name], rtol=1e-4, atol=1e-3)


def run_all(pipeline, image):
    values = {}
    for program, stored in programs(pipeline, {"z": 5, "y": 9, "x": 8}, image):
        run_stage(program, values)
        results = {name: stored.get(step) for name, step in program.spec.outputs.items()}
    return results


def run_stage(program, values):
    result = SerialExecutor().run(Work(replace(program, values=values), lambda i: {}, lambda: None))
    spec = program.spec
    for step_id in program.stage.reduces:
        values[step_id] = finish_step(spec, spec[step_id], result.partials[step_id], values)
    for step in spec.steps:
        if step.id not in values and step.inputs and all(i in values for i in step.inputs):
            values[step.id] = compute_step(spec, step, values)


@lp.kernel(depth=0, dtype="float32")
def breaks(block):
    """Fail where it meets a large value."""
    if block.max() > 3990:
        raise ValueError("too bright")
    return block.astype(np.float32)


def test_an_error_in_a_tile_names_the_kernel_and_the_block():
    program = next(p for p, _ in programs(piped(lambda raw: breaks(raw + 1) * 2), None, IMAGE))
    bright = next(i for i, b in enumerate(program.stage.blocks) if IMAGE[b.slices].max() > 3989)
    with pytest.raises(KernelError, match=r"breaks failed on block \[.*too bright"):
        run_block(program, bright, {})


def test_what_lies_between_fused_steps_is_not_planned_for():
    one = next(programs(piped(lambda raw: raw * np.float32(2)), None, IMAGE))[0].stage
    ten = next(programs(piped(lambda raw: raw * np.float32(2) + 1 - 3 + 4 - 5 + 6), None, IMAGE))
    room = ten[0].stage.estimate.task_bytes - one.estimate.task_bytes
    tile = 4 * min(fusion.TILE_VOXELS, prod(one.block))
    assert room <= 4 * tile
