"""Plans of random pipelines, run block by block in memory, give the whole-array answer."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.merge.fold import TreeFold
from lepton_pipe.merge.pyramid import downsample_array
from lepton_pipe.plan import Resources, make_plan
from lepton_pipe.spec import ImageType, PerBlock, compute_step, evaluate, finish_step
from lepton_pipe.worker import Combine, Program, run_block
from tests.plan.pipelines import GIB, long_shapes, random_specs, small_shapes


class Memory:
    """An array that knows which of its voxels were written; each may be, once."""

    def __init__(self, shape, dtype, array=None):
        self.array = np.zeros(shape, dtype) if array is None else array
        self.times = np.full(shape, 0 if array is None else 1)

    def read(self, region):
        assert (self.times[region.slices] == 1).all(), f"{region} is read before it is written"
        return self.array[region.slices].copy()

    def write(self, region, array):
        assert array.shape == region.shape
        assert array.dtype == self.array.dtype
        self.times[region.slices] += 1
        self.array[region.slices] = array
        return []


def run(plan, arrays, order):
    """Run a plan in memory, the blocks of a stage in any order."""
    spec, values = plan.spec, {}
    sources = {n: Memory(a.shape, a.dtype, a) for n, a in arrays.items()}
    stored = {
        (a.name, i): Memory(level.grid.shape, a.type.dtype)
        for a in plan.arrays.values()
        for i, level in enumerate(a.levels)
    }
    for stage in plan.stages:
        reads = {
            r.step: sources[r.step] if r.array is None else stored[r.array, r.level]
            for r in stage.reads
        }
        shared = {v: values[v] for v in stage.values if not isinstance(values[v], PerBlock)}
        program = Program(spec, stage, reads, stored, shared)
        fold = TreeFold(Combine(spec, stage.reduces), len(stage.blocks))
        number = stage.blocks.in_c_order
        for index in order(len(stage.blocks)):
            parts = {v: values[v].part(number(index)) for v in stage.values if v not in shared}
            fold.add(index, run_block(program, index, parts))
        finish(spec, stage, fold.result().partials, values)
    for memory in stored.values():
        assert (memory.times == 1).all(), "a voxel was not written exactly once"
    levels = {key: memory.array for key, memory in stored.items()}
    return {
        name: levels[name, 0] if name in plan.arrays else values[step]
        for name, step in spec.outputs.items()
    }, levels


def finish(spec, stage, partials, values):
    for step_id in stage.reduces:
        values[step_id] = finish_step(spec, spec[step_id], partials[step_id], values)
    for step in spec.steps:
        ready = step.id not in values and set(step.inputs) <= set(values)
        if ready and step.inputs and not isinstance(step.type, ImageType):
            values[step.id] = compute_step(spec, step, values)


def same(got, expected):
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for name in expected:
            same(got[name], expected[name])
        return
    assert np.asarray(got).dtype == np.asarray(expected).dtype
    if np.asarray(expected).dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=120, deadline=None)
@given(
    random_specs(small_shapes, whole_numbers=True),
    st.fixed_dictionaries({}, optional={a: st.integers(3, 12) for a in "zyx"}),
    st.randoms(use_true_random=False),
)
def test_blocks_in_any_order_equal_the_whole(case, tiling, random):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(GIB * 4), tiling)
    type_ = inputs["raw"].type
    generator = np.random.default_rng(random.getrandbits(32))
    raw = generator.integers(0, 7, type_.grid.shape).astype(type_.dtype)
    with np.errstate(all="ignore"):
        expected = evaluate(spec, {"raw": raw})
        got, _ = run(plan, {"raw": raw}, lambda n: random.sample(range(n), n))
    for name, answer in expected.items():
        same(got[name], answer)


@settings(max_examples=40, deadline=None)
@given(
    random_specs(long_shapes, most=3, whole_numbers=True),
    st.none() | st.fixed_dictionaries({}, optional={a: st.integers(5, 90) for a in "zyx"}),
    st.randoms(use_true_random=False),
)
def test_every_scale_level_is_made_of_the_one_before(case, tiling, random):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(GIB * 4, 1, 4), tiling)
    type_ = inputs["raw"].type
    generator = np.random.default_rng(random.getrandbits(32))
    raw = generator.integers(0, 7, type_.grid.shape).astype(type_.dtype)
    _, levels = run(plan, {"raw": raw}, range)
    for array in plan.arrays.values():
        method = "mean" if array.type.kind == "image" else "nearest"
        for level in range(1, len(array.levels)):
            factors = plan.spec[f"{array.step}@{level}"].args["factor"]
            expected = downsample_array(levels[array.name, level - 1], factors, method)
            same(levels[array.name, level], expected)
