"""Memory is planned, then measured: it stays under the plan, and does not grow with the image."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import numpy as np
import psutil
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian, mean, median, opening
from lepton_pipe.plan import InputInfo, Resources, baseline, planner
from lepton_pipe.run import cluster
from lepton_pipe.spec import ImageType
from tests.command import lepton

MIB = 2**20
TYPE = ImageType(Grid.of((512, 1024, 1024)), np.dtype("uint16"))


def sparse(path, planes: int):
    """Lay out an image of a MiB a plane; all but a few of its chunks are left to be zeros."""
    array = zarr.create_array(
        str(path), shape=(planes, 1024, 512), chunks=(16, 128, 128), dtype="uint16", fill_value=0
    )
    array[:2, 100:400, 100:400] = 500
    return path


def dense(path, planes: int):
    """Write an image of noise, a MiB a plane."""
    array = zarr.create_array(
        str(path), shape=(planes, 1024, 512), chunks=(16, 128, 128), dtype="uint16"
    )
    array[...] = np.random.default_rng(0).integers(0, 500, array.shape, np.uint16)
    return path


def run(pipeline, path, out, *more):
    words = ("run", pipeline, f"raw={path}", f"out={out}", "--json", "--threads", "1", "--sparse")
    done = lepton(*words, "--workers", "1", *more, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("memory", ["512MiB", "1GiB"])
def test_a_run_stays_under_what_was_planned_and_given(tmp_path, memory):
    path = sparse(tmp_path / "raw.zarr", 64)
    report = run("nuclei", path, tmp_path / "o", "--sigma", "1", "--memory", memory)
    assert report["outputs"]["nuclei"]["rows"] == 1
    given = {"512MiB": 512, "1GiB": 1024}[memory] * MIB
    assert report["peak_bytes"] <= report["planned_bytes"] <= given


@pytest.mark.slow
def test_a_larger_image_takes_no_more_memory(tmp_path):
    memory = ("--memory", "600MiB")
    small = run("convert", sparse(tmp_path / "s.zarr", 128), tmp_path / "s", *memory)
    large = run("convert", sparse(tmp_path / "l.zarr", 1024), tmp_path / "l", *memory)
    assert large["peak_bytes"] <= large["planned_bytes"] <= 600 * MIB
    # A small image is cut finer, to keep all cores busy; beyond that, size makes no difference.
    assert large["peak_bytes"] < small["peak_bytes"] + 64 * MIB


def test_a_plan_that_cannot_fit_names_memory_that_does(tmp_path):
    path = sparse(tmp_path / "raw.zarr", 4)
    words = ("plan", "nuclei", f"raw={path}", "out=o", "--serial", "--sparse", "--memory")
    refused = lepton(*words, "221MiB", cwd=tmp_path)
    assert refused.returncode == 4, refused.stderr
    told = refused.stderr.partition("at least ")[2].partition(" MiB")[0]
    assert lepton(*words, f"{told}MiB", cwd=tmp_path).returncode == 0


OWN = """
import numpy as np
import lepton_pipe as lp


@lp.kernel(depth=1, dtype="float32")
def ridges(block):
    wide = np.pad(block.astype(np.float64), 1, mode="edge")
    slopes = [np.gradient(wide, axis=axis) for axis in range(block.ndim)]
    inner = tuple(slice(1, -1) for _ in range(block.ndim))
    return np.sqrt(sum(s**2 for s in slopes))[inner].astype(np.float32)


@lp.pipeline
def own(raw: lp.Image):
    return {"ridges": ridges(raw)}
"""


def test_a_kernel_that_declares_nothing_stays_under_what_was_measured_for_it(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    path = dense(tmp_path / "raw.zarr", 64)
    report = run("own.py", path, tmp_path / "o", "--memory", "1GiB")
    assert report["peak_bytes"] <= report["planned_bytes"] <= 1024 * MIB


@dataclass
class Watched:
    """What was seen of the workers of a run."""

    replaced: set[int] = field(default_factory=set)
    statuses: set[str] = field(default_factory=set)
    resident: int = 0
    limits: set[int] = field(default_factory=set)
    spilled: int = 0

    def look(self, scheduler) -> None:
        for worker in list(scheduler.workers.values()):
            self.statuses.add(worker.status.name)
            self.limits.add(worker.memory_limit)
            self.spilled = max(self.spilled, worker.memory.spilled)

    def weigh(self, pids) -> None:
        self.resident = max(self.resident, *(psutil.Process(p).memory_info().rss for p in pids))


@lp.pipeline
def smooth(raw: lp.Image):
    return gaussian(raw, 2)


def test_dask_never_pauses_spills_or_ends_a_worker_of_a_planned_run(tmp_path, monkeypatch):
    seen = Watched()
    start = cluster.local_client

    @contextmanager
    def watched(*args):
        with start(*args) as client:
            pids = list(client.run(os.getpid).values())
            over = threading.Event()

            def look() -> None:
                while not over.wait(0.01):
                    seen.look(client.cluster.scheduler)
                    seen.weigh(pids)

            thread = threading.Thread(target=look)
            thread.start()
            yield client
            over.set()
            thread.join()
            # The same processes as at the start: none was ended and replaced.
            seen.replaced = set(client.run(os.getpid).values()) ^ set(pids)

    monkeypatch.setattr(cluster, "local_client", watched)
    path = dense(tmp_path / "raw.zarr", 128)
    plan = smooth.plan(raw=path, out=tmp_path / "o", memory="640MiB", workers=1, threads=2)
    data = plan.data
    assert data.peak_bytes > baseline(data.resources) + 100 * MIB  # little is left over
    plan.run(progress=False)
    assert seen.statuses == {"running"}
    assert seen.spilled == 0
    assert seen.replaced == set()
    share = data.peak_bytes - planner.DRIVER_BYTES
    assert 200 * MIB < seen.resident <= share
    assert share < 0.95 * min(seen.limits)


def kept_between(raw: lp.Image):
    ridges = opening(median(raw, 3), 5)
    return {"out": ridges - mean(ridges)}


def test_what_is_stored_between_stages_is_never_why_a_plan_does_not_fit(monkeypatch):
    spec = lp.pipeline(kept_between).bind({"raw": TYPE}, {})
    inputs = {"raw": InputInfo(TYPE, (64, 128, 128), "raw.zarr")}
    plan = planner.make_plan(spec, inputs, Resources(2**32, workers=0, threads=2))
    assert [d.choice for d in plan.decisions] == ["store"]
    storing = least(spec, inputs)
    monkeypatch.setattr(planner, "choose_kept", lambda _spec, levels, _rates: (levels.stored, []))
    assert storing <= least(spec, inputs)


def test_blocks_get_fewer_and_smaller_as_memory_does_and_the_memory_named_is_enough():
    spec = smooth.bind({"raw": TYPE}, {})
    inputs = {"raw": InputInfo(TYPE, (64, 128, 128), "raw.zarr")}
    found = []
    for memory in (least(spec, inputs) * MIB, 512 * MIB, 1024 * MIB, 2**32):
        plan = planner.make_plan(spec, inputs, Resources(memory, workers=0, threads=16))
        assert plan.peak_bytes <= memory
        found.append((prod(plan.stages[0].block), plan.stages[0].slots))
    assert found == sorted(found)
    assert found[0][1] < found[1][1] < 16 == found[-1][1]
    assert found[0][0] < found[-1][0]


def least(spec, inputs) -> int:
    """Return the memory, in MiB, that a refusal names."""
    with pytest.raises(MemoryRefusedError) as caught:
        planner.make_plan(spec, inputs, Resources(200 * MIB, workers=0, threads=2))
    return int(str(caught.value).partition("at least ")[2].partition(" MiB")[0])
