"""Stages, levels, and what is kept between them, on pipelines made by hand."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError, RefusedError
from lepton_pipe.geometry import Blocks, Grid
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.labels import label
from lepton_pipe.kernels.projection import project
from lepton_pipe.kernels.reductions import mean
from lepton_pipe.kernels.regions import regionprops
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.plan.estimate import Work
from lepton_pipe.plan.levels import assign_levels
from lepton_pipe.plan.planner import baseline
from lepton_pipe.plan.rates import NOMINAL
from lepton_pipe.plan.regions import accumulated_depth
from lepton_pipe.plan.shape import (
    MAX_BLOCK_VOXELS,
    NOMINAL_CORES,
    candidates,
    choose_block,
    common_unit,
)
from lepton_pipe.plan.stages import choose_kept
from lepton_pipe.spec import Definition, ImageType
from tests.plan.pipelines import GIB, MIB

SHAPE = (128, 256, 256)


def spec_of(fn, shape=SHAPE, dtype="uint16", axes=None):
    definition = Definition(fn)
    type_ = ImageType(Grid.of(shape, axes), np.dtype(dtype))
    return definition.bind(dict.fromkeys(definition.images, type_), {})


def plan_of(fn, shape=SHAPE, dtype="uint16", resources=None, **options):
    spec = spec_of(fn, shape, dtype)
    inputs = {
        s.id: InputInfo(s.type, tuple(min(64, n) for n in shape), "memory") for s in spec.images
    }
    return make_plan(spec, inputs, resources or Resources(4 * GIB, 1, 2), **options)


def kept(fn):
    spec = spec_of(fn)
    return {d.step: d.choice for d in choose_kept(spec, assign_levels(spec), NOMINAL)[1]}


@lp.kernel(cost=500.0)
def dear(image):
    return image


@lp.kernel(cost=0.1)
def cheap(image):
    return image


@lp.kernel(dtype="complex64")
def wave(image):
    return image * np.complex64(1j)


# -- levels ---------------------------------------------------------------------------------


def nuclei(raw: lp.Image):
    smooth = gaussian(raw, 2)
    labels = label(smooth > mean(smooth))
    return {"labels": labels, "cells": regionprops(labels, raw)}


def test_a_value_a_join_and_a_table_come_one_after_the_other():
    levels = assign_levels(spec_of(nuclei)).of
    assert (levels["raw"], levels["gaussian"], levels["moments"]) == (0, 0, 0)
    assert (levels["greater"], levels["label_join"]) == (1, 1)
    assert (levels["label_apply"], levels["regionprops"]) == (2, 2)


def test_a_chain_without_barriers_is_one_stage():
    def chain(raw: lp.Image):
        return gaussian(gaussian(raw, 1) * 2, (0, 1, 3), truncate=2) > 1

    plan = plan_of(chain)
    (stage,) = plan.stages
    assert stage.steps == ("gaussian", "multiply", "gaussian_2", "greater")
    assert accumulated_depth(plan.spec, stage) == ((4, 4), (6, 6), (10, 10))


def test_what_reduces_at_the_same_level_shares_a_stage():
    def two(raw: lp.Image):
        return {"a": mean(raw), "b": mean(gaussian(raw, 1)), "c": gaussian(raw, 1)}

    (stage,) = plan_of(two, (64, 64, 64)).stages
    assert set(stage.reduces) == {"integer_counts", "moments"}
    assert [w.array for w in stage.writes] == ["c"]


def test_labels_read_with_depth_or_on_another_grid_are_stored():
    def grown(raw: lp.Image):
        labels = label(raw > 3)
        return {"near": gaussian(labels, 1), "part": crop(labels, x=(0, 9)), "same": labels + 1}

    levels = assign_levels(spec_of(grown))
    assert levels.stored == {"label_apply"}
    assert levels.of["label_apply"] == levels.of["add"] == 1
    assert levels.of["gaussian"] == levels.of["crop"] == 2
    assert levels.pinned == {"label_apply": "label_join", "add": "label_join"}


def test_two_labellings_used_together_have_the_same_blocks():
    def both(raw: lp.Image):
        a, b = label(raw > 3), label(raw > 9)
        return {"a": a, "b": b, "sum": a + b}

    plan = plan_of(both)
    assert len({s.block for s in plan.stages if not s.name.startswith("scale")}) == 1


def test_a_projection_is_a_barrier_and_has_a_stage_of_its_own():
    def flat(raw: lp.Image):
        plane = project(gaussian(raw, 1), "z")
        return {"plane": plane, "thick": raw - plane}

    plan = plan_of(flat)
    names = [s.name for s in plan.stages]
    assert plan.stages[0].sweep.axis == 0
    assert plan.stages[0].steps == ("gaussian", "project")
    assert plan.stages[0].grid.axes == ("y", "x")
    thick = next(s for s in plan.stages if "subtract" in s.steps)
    assert {(r.step, r.array) for r in thick.reads} == {("raw", None), ("project", "plane")}
    assert names[0] == "gaussian+project"


def test_results_on_other_grids_have_their_own_stages_without_a_barrier():
    def grids(raw: lp.Image):
        small = downsample(raw, 2)
        return {"small": small, "part": crop(raw, z=(0, 10)), "all": raw + 1}

    plan = plan_of(grids)
    assert assign_levels(plan.pipeline).of["downsample"] == 0
    assert all(r.array is None for s in plan.stages for r in s.reads)


def test_an_input_that_is_an_output_is_copied():
    def convert(raw: lp.Image):
        return raw

    plan = plan_of(convert, (64, 64, 64))
    (stage,) = plan.stages
    assert (stage.name, stage.steps) == ("copy-raw", ())
    assert [(w.step, w.array) for w in stage.writes] == [("raw", "convert")]


# -- what is kept ---------------------------------------------------------------------------


def test_what_was_dear_is_stored_and_what_was_cheap_is_computed_again():
    def dear_one(raw: lp.Image):
        made = dear(raw)
        return made > mean(made)

    def cheap_one(raw: lp.Image):
        made = cheap(raw)
        return made > mean(made)

    assert kept(dear_one) == {"dear": "store"}
    assert kept(cheap_one) == {"cheap": "recompute"}
    names = {n for n, a in plan_of(dear_one).arrays.items() if not a.output}
    assert names == {"scratch/dear"}
    assert not [n for n, a in plan_of(cheap_one).arrays.items() if not a.output]


def test_an_output_is_read_back_rather_than_stored_twice():
    def out(raw: lp.Image):
        made = dear(raw)
        return {"made": made, "mask": made > mean(made)}

    plan = plan_of(out)
    assert set(plan.arrays) == {"made", "mask"}
    mask = next(s for s in plan.stages if "mask" in {w.array for w in s.writes})
    assert [(r.step, r.array) for r in mask.reads] == [("dear", "made")]
    assert "dear" not in mask.steps


def test_stages_of_one_level_do_not_need_each_other():
    def two_grids(raw: lp.Image):
        made = dear(raw)
        return {"small": downsample(made, 2), "mask": made > mean(made)}

    plan = plan_of(two_grids)
    assert "scratch/dear" in plan.arrays
    small = next(s for s in plan.stages if "small" in {w.array for w in s.writes})
    assert [(r.step, r.array) for r in small.reads] == [("raw", None)]
    assert "dear" in small.steps


def test_of_a_chain_only_the_last_result_is_stored():
    def chain(raw: lp.Image):
        made = cheap(dear(cheap(dear(raw))))
        return made > mean(made)

    stored = [s for s, choice in kept(chain).items() if choice == "store"]
    assert len(stored) == 1
    assert stored[0] in ("cheap_2", "dear_2")


def test_every_decision_says_why():
    for decision in plan_of(nuclei).decisions:
        assert decision.choice in ("store", "recompute")
        assert "ns a voxel" in decision.reason or "numbering" in decision.reason
        assert set(decision.to_json()) == {"step", "choice", "reason"}


# -- blocks ---------------------------------------------------------------------------------


def test_candidates_are_the_unit_with_each_axis_doubled_up_to_the_image():
    grid = Grid.of((100, 300, 500))
    shapes = list(candidates(grid, (64, 64, 64)))
    assert shapes[0] == (64, 64, 64)
    assert (100, 300, 256) in shapes
    assert all(prod(s) <= MAX_BLOCK_VOXELS for s in shapes)
    for shape in shapes:
        assert all(a % 64 == 0 or a == n for a, n in zip(shape, grid.shape, strict=True))
    assert list(candidates(grid, (100, 300, 500)))[-1] == (100, 300, 500)


def test_blocks_grow_across_time_and_channels_only_as_whole_volumes():
    grid = Grid.of((5, 2, 30, 100, 100))
    shapes = list(candidates(grid, (1, 1, 30, 50, 50)))
    assert {c[:2] for c in shapes if c[2:] != (30, 100, 100)} == {(1, 1)}
    assert {c[:2] for c in shapes if c[2:] == (30, 100, 100)} >= {(1, 1), (4, 2), (5, 2)}


def test_many_small_planes_share_a_task():
    def planes(raw: lp.Image):
        return gaussian(raw, 1)

    grid = Grid.of((2000, 128, 128), axes="tyx")
    raw = ImageType(grid, np.dtype(np.uint16))
    spec = lp.pipeline(planes).bind({"raw": raw}, {})
    inputs = {"raw": InputInfo(raw, (1, 128, 128), "files")}
    plan = make_plan(spec, inputs, Resources(4 * GIB, 1, 2))
    assert plan.stages[0].block[0] > 16
    assert plan.stages[0].block[1:] == (128, 128)


def test_a_common_unit_is_whole_units_of_each():
    grid = Grid.of((100, 100))
    assert common_unit([(6, 10), (4, 15)], grid) == (12, 30)
    assert common_unit([(60, 10), (35, 15)], grid) == (100, 30)


def test_the_quickest_block_that_fits_is_chosen():
    grid = Grid.of((1000, 1000))

    def choose(budget, seconds=lambda block, left: 1.0 + 0.01 * 1e6 / prod(block)):
        return choose_block(
            candidates(grid, (50, 50)),
            need=lambda block: 8 * prod(block),
            work_of=lambda block, left: Work(seconds(block, left)),
            count=lambda block: len(Blocks(grid.shape, block)),
            budget=budget,
            slots=4,
            what="s",
        )

    roomy = choose(2**40)[0]
    assert roomy.at_once == 4
    assert 1e6 / prod(roomy.block) >= NOMINAL_CORES
    tight = choose(4 * 8 * 100 * 100)
    assert (tight[0].block, tight[0].at_once) == ((100, 100), 4)
    assert choose(8 * 50 * 50)[0].at_once == 1
    wide = choose(2**40, lambda block, left: 1.0 / block[1])[0]
    assert wide.block[1] == 1000
    with pytest.raises(MemoryRefusedError, match="stage s: one block of 50 x 50 voxels needs"):
        choose(8 * 50 * 50 - 1)


def test_what_is_left_of_the_memory_is_offered_to_the_cache():
    grid = Grid.of((100, 100))
    offers = {}
    choose_block(
        candidates(grid, (50, 50)),
        need=prod,
        work_of=lambda block, left: Work(offers.setdefault(block, left) * 0.0 + 1),
        count=lambda block: len(Blocks(grid.shape, block)),
        budget=12_000,
        slots=2,
        what="s",
    )
    assert offers[50, 50] == 12_000 - 2 * 2500
    assert offers[100, 100] == 2_000


def test_planning_very_many_blocks_does_not_list_them():
    def pipeline(raw: lp.Image):
        smooth = gaussian(raw, 2)
        labels = label(smooth > mean(smooth))
        return {"labels": labels, "cells": regionprops(labels, raw), "flat": project(raw, "z")}

    plan = plan_of(pipeline, (20_000, 40_000, 40_000), resources=Resources(64 * GIB, 4, 4))
    assert plan.tasks > 1_000_000
    assert plan.peak_bytes <= 64 * GIB


def test_a_chain_of_thousands_of_kernels_is_planned():
    def chain(raw: lp.Image):
        for i in range(2000):
            raw = cheap(raw) + i % 7
        return raw

    plan = plan_of(chain, (64, 64, 64))
    assert [len(s.steps) for s in plan.stages] == [4000]


# -- refusals -------------------------------------------------------------------------------


def test_memory_below_what_the_processes_hold_is_refused_before_all_else():
    with pytest.raises(MemoryRefusedError, match=r"memory 300 MiB is less than .* 810 MiB"):
        plan_of(nuclei, resources=Resources(300 * MIB, 2))


def test_a_stage_that_does_not_fit_is_named_with_its_block_and_what_would_be_enough():
    tight = Resources(baseline(Resources(0)) + 5 * MIB)
    with pytest.raises(MemoryRefusedError) as caught:
        plan_of(nuclei, resources=tight)
    message = str(caught.value)
    assert "stage gaussian" in message
    assert "one block of " in message
    assert "give the run at least " in message


def test_what_would_do_besides_more_memory_depends_on_what_takes_it():
    tight = Resources(baseline(Resources(0)) + 500 * MIB, 0)
    type_ = ImageType(Grid.of((60_000, 60_000)), np.dtype("u2"))

    def message(pipeline, chunk):
        inputs = {"raw": InputInfo(type_, chunk, "")}
        with pytest.raises(MemoryRefusedError) as caught:
            make_plan(Definition(pipeline).bind({"raw": type_}, {}), inputs, tight)
        return str(caught.value)

    def wide(raw: lp.Image):
        return {"out": gaussian(raw, 3000)}

    def narrow(raw: lp.Image):
        return {"out": gaussian(raw, 1)}

    far = "or let its filters look less far than 12000 voxels (on a coarser scale level"
    assert far in message(wide, (1024, 1024))
    assert "or store the input in smaller chunks" in message(narrow, (30_000, 30_000))


def test_an_output_that_ome_zarr_cannot_hold_is_refused_by_name():
    def waves(raw: lp.Image):
        return {"mask": raw > 1, "phase": wave(raw)}

    with pytest.raises(RefusedError, match="output 'phase' has dtype complex64, which OME-Zarr"):
        plan_of(waves, dtype="float32")


def test_what_cannot_be_stored_may_still_be_used_on_the_way():
    def power(raw: lp.Image):
        return np.absolute(wave(raw))

    assert plan_of(power, dtype="float32").arrays["power"].type.dtype == np.float32


def planes_plan(sigma, planes):
    def smooth(raw: lp.Image):
        return gaussian(raw, sigma)

    spec = spec_of(smooth, (planes, 1024, 1024))
    inputs = {"raw": InputInfo(spec.image_type("raw"), (1, 1024, 1024), "")}
    return make_plan(spec, inputs, Resources(16 * GIB, 0, 2)).stages[0]


def test_blocks_grow_where_most_of_what_they_read_is_overlap():
    assert prod(planes_plan(0.5, 512).block) <= MAX_BLOCK_VOXELS
    assert planes_plan(6.0, 512).block[0] >= 16  # a voxel is read four times at most, not seven


def test_a_kernel_costs_what_it_is_handed_not_what_it_gives():
    compute = {s.block[0]: s.work.compute for s in planes_plan(6.0, 64).considered}
    low, high = min(compute), max(compute)
    assert low < high
    # Each block is handed up to 48 planes more than it gives.
    assert compute[low] > 1.3 * compute[high]
