"""Scale levels from which the next are made stay decoded in memory, where there is room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.cache import chunks
from lepton_pipe.kernels import astype
from lepton_pipe.merge.pyramid import downsample_array
from lepton_pipe.plan import Resources, make_plan
from lepton_pipe.plan.keeping import task_and_cache, with_room_to_share
from tests.plan.pipelines import GIB, random_specs, small_shapes
from tests.run.five import fingerprints

IMAGE = np.random.default_rng(0).integers(0, 60000, (9, 900, 1100)).astype(np.uint16)


@lp.pipeline
def levels(raw: lp.Image):
    """Make scale levels of an image that is not stored as it is."""
    return {"image": astype(raw, "uint32") + 1}


def planned(out, **options):
    return levels.plan(raw=IMAGE, out=out, chunks="z=3,y=300,x=300", **options)


def forget(plan):
    """Return the plan as it would be without anything kept."""
    stages = tuple(replace(s, kept=(), kept_bytes=0) for s in plan.data.stages)
    plan.data = replace(plan.data, stages=stages)
    return plan


def decoded_by(run):
    before = chunks.snapshot().decoded_bytes
    run()
    return chunks.snapshot().decoded_bytes - before


def test_a_level_is_not_decoded_to_make_the_next(tmp_path):
    kept, plain = planned(tmp_path / "a", serial=True), planned(tmp_path / "b", serial=True)
    size = sum(s.kept_bytes for s in kept.data.stages[:1])
    assert size > 0
    less = decoded_by(lambda: kept.run(progress=False))
    more = decoded_by(lambda: forget(plain).run(progress=False))
    assert more - less >= size
    assert chunks.snapshot().held_bytes == 0


@pytest.mark.parametrize("options", [{"serial": True}, {}])
def test_the_bytes_are_those_of_a_run_that_keeps_nothing(tmp_path, options):
    planned(tmp_path / "a", **options).run(progress=False)
    forget(planned(tmp_path / "b", **options)).run(progress=False)
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")
    coarse = downsample_array(downsample_array(IMAGE + np.uint32(1), (2, 2, 2)), (2, 2, 2))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a" / "image" / "2")[:], coarse)


def test_what_is_kept_counts_as_memory_of_the_run(tmp_path):
    plan = planned(tmp_path / "a", serial=True).data
    for stage in plan.stages:
        held = stage.slots * stage.estimate.task_bytes + stage.cache_bytes + stage.kept_bytes
        assert held < plan.peak_bytes


def test_one_worker_keeps_what_this_process_would(tmp_path):
    here, there = planned(tmp_path / "a", serial=True), planned(tmp_path / "b", workers=1)
    assert [s.kept for s in there.data.stages] == [s.kept for s in here.data.stages]
    report = there.run(progress=False)
    found = [s.stats.tiers["decoded"] for s in report.stages[1:]]
    assert all(tier.hits > 0 and tier.misses == 0 for tier in found)
    here.run(progress=False)
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 1, "keep": "disk"}])
def test_nothing_is_kept_for_another_process_or_where_that_is_not_wanted(tmp_path, options):
    assert not any(s.kept for s in planned(tmp_path / "a", **options).data.stages)


@given(random_specs(small_shapes), st.integers(2, 4), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_several_processes_have_room_to_hold_what_others_decode(case, workers, more):
    spec, inputs = case
    alone = make_plan(spec, inputs, Resources(2 * GIB, workers=1, threads=workers))
    for stage in alone.stages:
        full = task_and_cache(stage)
        (tight,) = with_room_to_share([stage], full, workers)
        assert tight == stage
        (roomy,) = with_room_to_share([stage], 2 * GIB, workers)
        assert roomy == replace(stage, cache_bytes=workers * stage.cache_bytes)
        (between,) = with_room_to_share([stage], full + more, workers)
        assert task_and_cache(between) == min(full + more, task_and_cache(roomy))
    several = make_plan(spec, inputs, Resources(2 * GIB, workers=workers, threads=1))
    assert several.peak_bytes <= 2 * GIB
