"""What blocks are said to read is what they do read, and who is said to have written it did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.geometry import Blocks, Grid
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.projection import project
from lepton_pipe.ledger.keys_reads import Producers, Ranges, positions, producers
from lepton_pipe.merge.fold import TreeFold
from lepton_pipe.plan import Resources, make_plan
from lepton_pipe.plan.regions import written_region
from lepton_pipe.spec import ImageType, PerBlock
from lepton_pipe.worker import Combine, Program, run_block
from tests.ledger.keys_cases import GIB, planned, sheared, tilings, turned
from tests.plan.pipelines import long_shapes, random_specs, small_shapes
from tests.plan.test_random_runs import finish


class Noting:
    """An array that notes which of its voxels were read, and which block wrote each."""

    def __init__(self, array):
        self.array = array
        self.stage = np.full(array.shape, -1)
        self.block = np.full(array.shape, -1)
        self.start_of_block()

    def start_of_block(self):
        self.regions, self.writers = [], set()

    def read(self, region):
        self.regions.append(region)
        pairs = zip(
            self.stage[region.slices].ravel(), self.block[region.slices].ravel(), strict=True
        )
        self.writers |= set(pairs)
        return self.array[region.slices].copy()

    def write(self, region, array):
        self.array[region.slices] = array
        return []


def hull(regions):
    starts = np.min([r.start for r in regions], axis=0).tolist()
    stops = np.max([r.stop for r in regions], axis=0).tolist()
    return list(zip(starts, stops, strict=True))


def check_run(plan, arrays):
    """Run a plan; compare what each block reads with what is said of it."""
    inputs = {n: Noting(a) for n, a in arrays.items()}
    stored = {
        (a.name, i): Noting(np.zeros(level.grid.shape, a.type.dtype))
        for a in plan.arrays.values()
        for i, level in enumerate(a.levels)
    }
    values = {}
    for stage in plan.stages:
        reads = {
            r.step: inputs[r.step] if r.array is None else stored[r.array, r.level]
            for r in stage.reads
        }
        shared = {v: values[v] for v in stage.values if not isinstance(values[v], PerBlock)}
        program = Program(plan.spec, stage, reads, stored, shared)
        fold = TreeFold(Combine(plan.spec, stage.reduces), len(stage.blocks))
        ranges, many = Ranges(plan.spec, stage), Producers(plan, stage)
        for number, place in enumerate(positions(stage.blocks)):
            for image in reads.values():
                image.start_of_block()
            own = stage.blocks.in_c_order(number)
            parts = {v: values[v].part(own) for v in stage.values if v not in shared}
            fold.add(number, run_block(program, number, parts))
            assert set(ranges.steps) == {s for s, image in reads.items() if image.regions}
            for step in ranges.steps:
                assert ranges.of(step, place) == hull(reads[step].regions)
            assert many.of(number) == who_wrote(plan, stage, reads)
            for write in stage.writes:
                region = written_region(write, stage.blocks.region(number))
                target = stored[write.array, write.level]
                target.stage[region.slices], target.block[region.slices] = stage.index, number
        last = len(stage.blocks) - 1
        assert producers(plan, stage, last) == many.of(last)
        finish(plan.spec, stage, fold.result().partials, values)


def who_wrote(plan, stage, reads):
    found = {}
    for read in stage.reads:
        if read.array is not None:
            for index, number in reads[read.step].writers:
                assert index >= 0, "a voxel is read before it is written"
                found.setdefault(index, set()).add(number)
    assert all(index < stage.index for index in found)
    assert set(found) <= {s.index for s in plan.stages}
    return {index: tuple(sorted(numbers)) for index, numbers in found.items()}


def raw_for(type_, random):
    generator = np.random.default_rng(random.getrandbits(32))
    return generator.integers(0, 7, type_.grid.shape).astype(type_.dtype)


@settings(max_examples=60)
@given(
    random_specs(small_shapes, whole_numbers=True),
    st.fixed_dictionaries({}, optional={a: st.integers(3, 12) for a in "zyx"}),
    st.randoms(use_true_random=False),
)
def test_blocks_read_what_is_said(case, tiling, random):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(GIB * 4), tiling)
    with np.errstate(all="ignore"):
        check_run(plan, {"raw": raw_for(inputs["raw"].type, random)})


@settings(max_examples=25)
@given(
    random_specs(long_shapes, most=3, whole_numbers=True),
    tilings,
    st.randoms(use_true_random=False),
)
def test_scale_levels_read_what_is_said(case, tiling, random):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(GIB * 4, 1, 4), tiling)
    with np.errstate(all="ignore"):
        check_run(plan, {"raw": raw_for(inputs["raw"].type, random)})


@pytest.mark.parametrize("kernel", [turned, sheared])
def test_resampling_that_mixes_axes(kernel):
    def pipeline(raw: lp.Image):
        return {"moved": kernel(raw), "smooth": gaussian(kernel(raw + 1), 0.5)}

    type_ = ImageType(Grid.of((20, 20)), np.dtype("u2"))
    plan = planned(pipeline, {"raw": type_}, (5, 5), tiling={"y": 4, "x": 6})
    assert len(plan.stages[0].blocks) > 12
    check_run(plan, {"raw": np.arange(400, dtype="u2").reshape(20, 20)})


def test_slabs_of_what_mixes_axes():
    def pipeline(raw: lp.Image):
        return {"flat": project(turned(raw), "z", "max")}

    type_ = ImageType(Grid.of((9, 12, 12)), np.dtype("u2"))
    plan = planned(pipeline, {"raw": type_}, (2, 5, 5), tiling={"y": 4, "x": 6})
    assert any(stage.sweep for stage in plan.stages)
    check_run(plan, {"raw": np.arange(9 * 144, dtype="u2").reshape(9, 12, 12)})


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=4),
    st.data(),
)
def test_positions_are_in_the_order_of_numbers(axes, data):
    shape, block = zip(*axes, strict=True)
    order = data.draw(st.sampled_from([(), *[tuple(data.draw(st.permutations(range(len(axes)))))]]))
    blocks = Blocks(shape, block, order)
    assert list(positions(blocks)) == [blocks.position(i) for i in range(len(blocks))]


def test_a_stage_that_reads_inputs_alone_has_no_producers():
    def pipeline(raw: lp.Image):
        return {"out": raw + 1}

    type_ = ImageType(Grid.of((8, 8)), np.dtype("u2"))
    plan = planned(pipeline, {"raw": type_}, (4, 4))
    assert producers(plan, plan.stages[0], 0) == {}
