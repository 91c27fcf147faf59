"""Whether a run gets a cluster: small ones do not, unless they are told to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian
from lepton_pipe.plan import (
    InputInfo,
    Resources,
    baseline,
    make_plan,
    plan_where_it_pays,
    why_no_cluster,
)
from lepton_pipe.run import machine
from lepton_pipe.run.machine import this_machine
from lepton_pipe.spec import ImageType

MIB = 2**20
SMALL = np.zeros((8, 64, 64), np.uint16)
CLUSTER = Resources(2**33, workers=2, threads=4)


@lp.kernel(scratch=0, cost=1)
def own(block):
    return block


@lp.pipeline
def mine(raw: lp.Image):
    return own(raw)


@lp.pipeline
def smooth(raw: lp.Image):
    return gaussian(raw, 2)


def bound(shape):
    type_ = ImageType(Grid.of(shape), np.dtype("uint16"))
    return smooth.bind({"raw": type_}, {}), {"raw": InputInfo(type_, (64, 256, 256), "raw.zarr")}


LARGE = bound((2048, 2048, 2048))


def test_what_is_done_before_a_cluster_would_have_started_runs_without():
    plan = plan_where_it_pays(*bound((20, 512, 512)), CLUSTER)
    assert plan.resources == Resources(2**33, workers=0, threads=8)
    assert plan.resources.in_process
    assert plan.stages[0].slots > 1
    assert "before one would have started" in why_no_cluster(plan)


def test_a_large_image_gets_a_cluster():
    plan = plan_where_it_pays(*LARGE, CLUSTER)
    assert plan.resources == CLUSTER
    assert not plan.resources.in_process


def test_blocks_are_those_of_the_cluster():
    spec, inputs = bound((20, 512, 512))
    here = plan_where_it_pays(spec, inputs, CLUSTER)
    there = make_plan(spec, inputs, CLUSTER)
    assert [s.block for s in here.stages] == [s.block for s in there.stages]


def test_only_the_driver_counts_where_it_is_the_only_process():
    here = replace(CLUSTER, workers=0)
    assert baseline(here) == baseline(Resources(2**33, serial=True))
    assert baseline(CLUSTER) > baseline(here) + 2 * 100 * MIB
    plan = plan_where_it_pays(*bound((20, 512, 512)), CLUSTER)
    assert plan.peak_bytes < baseline(CLUSTER)


def test_where_no_cluster_fits_the_memory_there_is_none():
    tight = Resources(baseline(replace(CLUSTER, workers=1)), workers=1, threads=2)
    with pytest.raises(MemoryRefusedError):
        make_plan(*LARGE, tight)
    plan = plan_where_it_pays(*LARGE, tight)
    assert plan.resources.in_process
    assert plan.peak_bytes <= tight.memory
    assert "memory that the blocks need" in why_no_cluster(plan)


def test_a_refusal_names_memory_that_is_enough():
    with pytest.raises(MemoryRefusedError) as caught:
        plan_where_it_pays(*LARGE, Resources(200 * MIB, workers=1, threads=2))
    told = int(str(caught.value).partition("at least ")[2].partition(" MiB")[0])
    plan_where_it_pays(*LARGE, Resources(told * MIB, workers=1, threads=2))


@pytest.mark.parametrize(
    ("pipeline", "options", "workers"),
    [
        (mine, {"on_error": "skip"}, 1),
        (mine, {"on_error": "fill"}, 1),
        (mine, {}, 0),
        (mine, {"on_error": "skip", "serial": True}, None),
        (smooth, {"on_error": "skip"}, 0),
    ],
)
def test_a_run_that_goes_past_failures_keeps_own_kernels_out_of_this_process(
    pipeline, options, workers, tmp_path
):
    plan = pipeline.plan(raw=SMALL, out=tmp_path / "o", memory="8GiB", threads=1000, **options)
    assert plan.data.resources.in_process == (workers != 1)
    assert workers is None or plan.data.resources.workers == workers


def test_blocks_done_without_workers_are_those_of_a_worker():
    here = plan_where_it_pays(*bound((20, 512, 512)), CLUSTER)
    there = plan_where_it_pays(*bound((20, 512, 512)), here.resources, apart=True)
    assert there.resources == replace(here.resources, workers=1)
    assert [s.block for s in here.stages] == [s.block for s in there.stages]


def test_blocks_stay_in_this_process_where_a_worker_would_take_their_memory():
    tight = Resources(baseline(replace(CLUSTER, workers=1)), workers=1, threads=2)
    assert plan_where_it_pays(*LARGE, tight, apart=True).resources.in_process


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ({}, 0),
        ({"threads": 1}, 0),
        ({"threads": 2}, 0),
        ({"workers": 1}, 1),
        ({"workers": 3, "threads": 2}, 3),
    ],
)
def test_workers_that_are_asked_for_are_started(options, workers, tmp_path):
    plan = smooth.plan(raw=SMALL, out=tmp_path / "o", memory="8GiB", **options)
    assert plan.data.resources.workers == workers
    assert plan.to_json()["resources"]["workers"] == workers
    if "threads" in options:
        assert plan.data.resources.threads == options["threads"]


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "size"),
    [
        (1, None, None, (1, 1)),
        (2, None, None, (1, 2)),
        (16, None, None, (1, 16)),
        (24, None, None, (2, 12)),
        (64, None, None, (4, 16)),
        (16, 16, None, (16, 1)),
        (2, 4, None, (4, 1)),
        (8, None, 2, (4, 2)),
        (2, None, 6, (1, 6)),
        (8, 2, 3, (2, 3)),
    ],
)
def test_as_few_processes_as_use_all_cores(cores, workers, threads, size, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    found = this_machine(workers, threads)
    assert (found.workers, found.threads) == size
