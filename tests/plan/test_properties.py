"""What holds for the plan of any pipeline: nothing is run here, and no file is opened."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.plan.memory import ALLOCATOR_SLACK, typical_block, widest_regions
from lepton_pipe.plan.planner import baseline
from lepton_pipe.plan.regions import (
    block_regions,
    input_regions,
    region_bytes,
    slab_regions,
    sweep_source,
    written_region,
)
from lepton_pipe.spec import Definition, ImageType, ValueType
from tests.plan.pipelines import GIB, MIB, large_shapes, random_specs, small_shapes

some = settings(max_examples=30, deadline=None)
resources = st.builds(
    Resources,
    memory=st.sampled_from([2 * GIB, 4 * GIB, 16 * GIB, 200 * GIB]),
    workers=st.integers(1, 4),
    threads=st.integers(1, 4),
    serial=st.booleans(),
)
tilings = st.fixed_dictionaries({}, optional={a: st.integers(1, 30) for a in "tczyx"})


@st.composite
def plans(draw, shapes=large_shapes):
    spec, inputs = draw(random_specs(shapes))
    try:
        return make_plan(spec, inputs, draw(resources))
    except MemoryRefusedError:
        return make_plan(spec, inputs, Resources(1000 * GIB))


def blocks_to_look_at(stage):
    """The first, the last, the typical block, and some between."""
    blocks = stage.blocks
    step = max(1, len(blocks) // 5)
    return [
        typical_block(stage),
        *(blocks.region(i) for i in {*range(0, len(blocks), step)}),
        blocks.region(len(blocks) - 1),
    ]


def line_of_blocks(stage, axis):
    """The blocks along one axis; all blocks are products of such lines."""
    blocks = stage.blocks
    for i in range(blocks.counts[axis]):
        yield blocks.region(
            blocks.index(tuple(i if a == axis else 0 for a in range(len(blocks.counts))))
        )


@some
@given(plans())
def test_every_level_of_every_array_is_written_exactly_once_in_whole_units(plan):
    written = [(w.array, w.level) for s in plan.stages for w in s.writes]
    wanted = [(n, i) for n, a in plan.arrays.items() for i in range(len(a.levels))]
    assert sorted(written) == sorted(wanted)
    for stage in plan.stages:
        for write in stage.writes:
            layout = plan.arrays[write.array].levels[write.level]
            for axis, (n, unit) in enumerate(zip(layout.grid.shape, layout.unit, strict=True)):
                parts = [written_region(write, b) for b in line_of_blocks(stage, axis)]
                ends = [(p.start[axis], p.stop[axis]) for p in parts]
                assert (ends[0][0], ends[-1][1]) == (0, n)
                assert all(a[1] == b[0] for a, b in pairwise(ends))
                assert all(start % unit == 0 for start, _ in ends)
                assert all(start < stop for start, stop in ends)


@some
@given(plans())
def test_what_is_written_has_the_grid_and_dtype_of_its_step(plan):
    for array in plan.arrays.values():
        assert array.levels[0].grid == plan.spec.image_type(array.step).grid
    for stage in plan.stages:
        for write in stage.writes:
            layout = plan.arrays[write.array].levels[write.level]
            assert plan.spec.image_type(write.step).grid == layout.grid
            assert plan.spec.image_type(write.step).dtype == plan.arrays[write.array].type.dtype


@some
@given(plans())
def test_all_that_a_stage_reads_is_there_before_it_starts(plan):
    written: dict[tuple[str, int], str] = {}
    for stage in plan.stages:
        for read in stage.reads:
            if read.array is None:
                assert plan.spec[read.step].kernel is None
            else:
                assert written[read.array, read.level] == read.step
        have = {r.step for r in stage.reads}
        for step_id in stage.steps:
            assert set(plan.spec.image_inputs(plan.spec[step_id])) <= have
            assert set(plan.spec.value_inputs(plan.spec[step_id])) <= set(stage.values)
            have.add(step_id)
        assert set(stage.reduces) <= set(stage.steps)
        assert {w.step for w in stage.writes} <= have
        written |= {(w.array, w.level): w.step for w in stage.writes}


@some
@given(plans())
def test_values_are_known_before_they_are_used_and_every_output_is_made(plan):
    spec, known = plan.spec, set()
    for stage in plan.stages:
        assert set(stage.values) <= known
        assert not set(stage.reduces) & known  # nothing is reduced twice
        known |= set(stage.reduces)
        for step in spec.steps:
            is_value = not isinstance(step.type, ImageType) and not spec.image_inputs(step)
            if is_value and set(step.inputs) <= known:
                known.add(step.id)
    for name, step in spec.outputs.items():
        assert name in plan.arrays or step in known


@some
@given(plans())
def test_regions_stay_inside_the_arrays_and_hold_what_each_step_needs(plan):
    spec = plan.spec
    for stage in plan.stages:
        for block in blocks_to_look_at(stage):
            if stage.sweep is None:
                regions = block_regions(spec, stage, block)
                asked = [(w.step, written_region(w, block)) for w in stage.writes]
                steps = stage.steps
            else:
                source = sweep_source(spec, stage, block, (0, stage.sweep.thickness))
                regions = slab_regions(spec, stage, block, (0, stage.sweep.thickness))
                (image,) = spec.image_inputs(spec[stage.sweep.step])
                asked = [(image, source)]
                steps = [s for s in stage.steps if s != stage.sweep.step]
            for image, region in regions.items():
                assert spec.image_type(image).grid.region.contains(region)
                assert region.size > 0
            for image, region in asked:
                assert regions[image].contains(region)
            for step_id in steps:
                step = spec[step_id]
                wanted = regions[step_id] if isinstance(step.type, ImageType) else block
                for image, region in input_regions(spec, step, wanted).items():
                    assert regions[image].contains(region)


def read_bytes(plan, stage, block):
    regions = block_regions(plan.spec, stage, block)
    return sum(region_bytes(plan.spec.image_type(i), r) for i, r in regions.items())


@some
@given(plans())
def test_no_block_reads_more_than_was_planned_for(plan):
    for stage in plan.stages:
        if stage.sweep is None:
            widest = widest_regions(plan.spec, stage)
            most = sum(region_bytes(plan.spec.image_type(i), r) for i, r in widest.items())
            for block in blocks_to_look_at(stage):
                assert read_bytes(plan, stage, block) <= most
                assert block.size <= typical_block(stage).size


def test_a_kernel_that_looks_to_one_side_is_planned_by_the_block_that_sees_most():
    @lp.kernel(depth={"x": (50, 0)})
    def before(image):
        return image

    def pipeline(raw: lp.Image):
        return before(raw)

    type_ = ImageType(Grid.of((64, 200)), np.dtype("uint8"))
    spec = Definition(pipeline).bind({"raw": type_}, {})
    plan = make_plan(
        spec, {"raw": InputInfo(type_, (64, 200), "")}, Resources(GIB), {"y": 64, "x": 100}
    )
    (stage,) = plan.stages
    assert widest_regions(plan.spec, stage)["raw"].shape == (64, 150)


@some
@given(plans())
def test_stages_bound_by_a_join_have_the_same_blocks(plan):
    spec = plan.spec
    reduced = {r: s for s in plan.stages for r in s.reduces}
    for stage in plan.stages:
        for value in stage.values:
            type_ = spec[value].type
            if isinstance(type_, ValueType) and type_.per_block:
                joined = reduced[value]
                assert (stage.grid.shape, stage.block) == (joined.grid.shape, joined.block)


@some
@given(plans())
def test_the_peak_fits_the_memory(plan):
    budget = (plan.resources.memory - baseline(plan.resources)) / ALLOCATOR_SLACK
    assert plan.peak_bytes <= plan.resources.memory
    for stage in plan.stages:
        assert 1 <= stage.slots <= plan.resources.slots
        assert stage.slots * stage.estimate.task_bytes <= budget
        assert stage.estimate.task_bytes > 0
        assert stage.estimate.bytes_read > 0


@some
@given(random_specs(large_shapes), resources, st.integers(2, 8))
def test_less_memory_gives_smaller_blocks_or_fewer_at_once(case, given_, part):
    spec, inputs = case
    less = Resources(
        baseline(given_) + (given_.memory - baseline(given_)) // part,
        given_.workers,
        given_.threads,
        serial=given_.serial,
    )
    try:
        small = make_plan(spec, inputs, less)
    except MemoryRefusedError:
        return
    large = make_plan(spec, inputs, given_)
    assert [s.steps[0] for s in small.stages if s.reduces] == [
        s.steps[0] for s in large.stages if s.reduces
    ]
    blocks = {s.reduces or s.sweep or s.writes[0].array: s for s in large.stages}
    for stage in small.stages:
        other = blocks.get(stage.reduces or stage.sweep or stage.writes[0].array)
        if other is not None and not stage.sweep and other.grid == stage.grid:
            size = Region.whole(stage.block).size
            assert size <= Region.whole(other.block).size or stage.slots < other.slots


@some
@given(random_specs(large_shapes), resources)
def test_stored_bytes_do_not_depend_on_memory_or_workers(case, given_):
    spec, inputs = case
    try:
        plan = make_plan(spec, inputs, given_)
    except MemoryRefusedError:
        return
    assert plan.arrays == make_plan(spec, inputs, Resources(5000 * GIB, 3, 7)).arrays


@settings(max_examples=20, deadline=None)
@given(random_specs(large_shapes), st.integers(1, 3), st.integers(1, 900))
def test_a_refusal_names_memory_that_is_enough(case, workers, extra):
    spec, inputs = case
    tight = Resources(int(extra * MIB / 4) + baseline(Resources(0, workers)) - 50 * MIB, workers)
    try:
        make_plan(spec, inputs, tight)
    except MemoryRefusedError as error:
        (named,) = re.findall(r"at least (\d+) MiB", str(error))
        enough = Resources(int(named) * MIB, workers)
        assert enough.memory > tight.memory
        assert make_plan(spec, inputs, enough).peak_bytes <= enough.memory
        with pytest.raises(MemoryRefusedError):
            make_plan(spec, inputs, Resources(int(int(named) * 0.9) * MIB, workers))


@some
@given(plans())
def test_the_plan_is_plain_data_and_the_same_each_time(plan):
    again = make_plan(plan.pipeline, plan.inputs, plan.resources)
    assert again == plan
    data = plan.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert json.dumps(again.to_json()) == json.dumps(data)
    assert data["tasks"] == sum(len(s.blocks) for s in plan.stages) > 0


@some
@given(random_specs(small_shapes), tilings)
def test_tiling_fixes_the_blocks(case, tiling):
    spec, inputs = case
    plan = make_plan(spec, inputs, Resources(5000 * GIB), tiling)
    for stage in plan.stages:
        if not stage.name.startswith("scale-"):
            assert stage.block == tuple(
                min(n, tiling.get(a, n))
                for n, a in zip(stage.grid.shape, stage.grid.axes, strict=True)
            )
