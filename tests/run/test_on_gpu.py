"""A whole run with ``--device gpu``, on the stand-in: planned, run in threads, published, told."""

from __future__ import annotations

import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import DeviceLostError, DeviceRefusedError
from lepton_pipe.kernels import gaussian, label, otsu, regionprops
from lepton_pipe.run.suspects import Suspects
from lepton_pipe.run.workers import OnCores, WatchedNanny, cores_near, visible_gpus
from tests.command import lepton, python
from tests.fake_device import fake_cupy
from tests.fake_memory import DEVICE

SHAPE = (20, 70, 80)


@pytest.fixture
def image():
    rng = np.random.default_rng(3)
    return (200 * rng.random(SHAPE)).astype(np.uint16)


@lp.pipeline
def cells(raw: lp.Image):
    """Smooth, threshold, label, measure."""
    smooth = gaussian(raw, sigma=1.5)
    found = label(smooth > otsu(smooth), min_size=4)
    return {"smooth": smooth, "cells": found, "table": regionprops(found, raw)}


def planned(image, out, device, **more):
    chunks = {"z": 10, "y": 35, "x": 40}
    return cells.plan(
        raw=image, out=out, device=device, memory="2GiB", threads=4, chunks=chunks, **more
    )


def test_a_run_on_the_gpu_publishes_what_one_on_the_cores_does(image, tmp_path):
    planned(image, tmp_path / "cpu.zarr", "cpu").run()
    with fake_cupy() as traffic:
        plan = planned(image, tmp_path / "gpu.zarr", "auto", device_memory="64MiB")
        report = plan.run()
        assert traffic.to_device
        assert DEVICE.used == 0
    assert "of 64 MiB on each GPU" in str(plan)
    assert "on the GPU of a process" in plan.explain()
    assert "GPU busy" in str(report)
    stages = report.to_json()["stages"]
    limits = {"reading", "writing", "launching", "copying_in", "kernels", "copying_out", "waiting"}
    assert {s["device"]["limit"] for s in stages} <= limits
    assert all(0 <= s["device"][name] <= 1 for s in stages for name in (limits | {"cores"}))
    assert sum(s.stats.copy_in_seconds for s in report.stages) > 0
    record = json.loads((tmp_path / "gpu.zarr" / "lepton.json").read_text())
    assert "kernel_seconds" in json.dumps(record)
    for name, most in (("smooth", 1e-5), ("cells", 0)):
        got, expected = (voxels(tmp_path / f"{d}.zarr" / name) for d in ("gpu", "cpu"))
        np.testing.assert_allclose(got, expected, rtol=most)


def voxels(path):
    return zarr.open_group(path, mode="r")["0"][...]


def test_memory_of_the_gpu_that_is_too_little_is_refused_with_what_would_do(image, tmp_path):
    with fake_cupy():
        with pytest.raises(DeviceRefusedError, match="MiB on the device") as refused:
            str(planned(image, tmp_path / "out.zarr", "gpu", device_memory="1MiB"))
        enough = str(refused.value).split("--device-memory ")[1].split(")")[0]
        plan = planned(image, tmp_path / "out.zarr", "gpu", device_memory=enough)
        assert plan.to_json()["stages"]
    assert refused.value.exit_status == 4


def test_a_share_of_what_is_free_is_taken(image, tmp_path):
    with fake_cupy():
        DEVICE.free = 10**9
        plan = planned(image, tmp_path / "out.zarr", "gpu")
        assert plan.to_json()["resources"]["device_memory"] == 8 * 10**8


def test_a_run_in_this_process_whose_gpu_is_lost_ends_and_can_go_on(image, tmp_path):
    with fake_cupy():
        plan = planned(image, tmp_path / "out.zarr", "gpu")
        DEVICE.lose_at = 60
        with pytest.raises(DeviceLostError, match="the context of the device is lost"):
            plan.run()
    assert not (tmp_path / "out.zarr").exists()
    with fake_cupy():
        planned(image, tmp_path / "out.zarr", "gpu").run()
    assert (tmp_path / "out.zarr").exists()


def test_each_worker_sees_one_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5e")
    assert visible_gpus(2) == ["3", "GPU-5e"]


@pytest.fixture
def near(monkeypatch):
    """dask-cuda, as far as it is asked: which cores are next to which GPU, by its names."""
    known: dict[int | str, list[int]] = {}
    utils = SimpleNamespace(get_cpu_affinity=known.__getitem__)
    package = ModuleType("dask_cuda")
    package.__spec__ = ModuleSpec("dask_cuda", None)
    monkeypatch.setitem(sys.modules, "dask_cuda", package)
    monkeypatch.setitem(sys.modules, "dask_cuda.utils", utils)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {2, 3, 4, 5})
    return known


@pytest.mark.parametrize(
    ("cores", "threads", "kept"),
    [
        ([0, 1, 2, 3], 2, {2, 3}),  # this process may not use the others
        ([4, 5, 6], 1, {4, 5}),
        ([2], 2, ()),  # too few
        ([0, 1], 1, ()),
        (range(8), 2, ()),  # no choice
    ],
)
def test_a_worker_stays_on_cores_near_its_gpu(near, cores, threads, kept):
    near[3] = near["GPU-5e"] = cores
    assert cores_near("3", threads) == cores_near("GPU-5e", threads) == frozenset(kept)


def test_where_cores_are_is_not_known_of_every_gpu(near, monkeypatch):
    assert cores_near("GPU-none", 1) == frozenset()
    near[0] = [2]
    assert cores_near("0", 1) == {2}
    monkeypatch.delitem(sys.modules, "dask_cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cores_near("0", 1) == frozenset()


def test_nannies_start_their_workers_with_gpu_and_cores(near, monkeypatch):
    made = []
    monkeypatch.setattr("distributed.Nanny.__init__", lambda self, *a, **k: made.append(k))
    near.update({0: [2, 3], 1: [9]})
    for name in range(3):
        WatchedNanny(name=name, nthreads=2, gpus=["0", "1"])
    assert [k["env"] for k in made] == [{"CUDA_VISIBLE_DEVICES": n} for n in "010"]
    assert [[p.cores for p in k.get("plugins", ())] for k in made] == [[{2, 3}], [], [{2, 3}]]


def test_a_worker_s_threads_are_kept_on_cores():
    here = os.sched_getaffinity(0)
    one = frozenset([min(here)])
    plugin = pickle.loads(pickle.dumps(OnCores(one)))  # noqa: S301  our own
    with ThreadPoolExecutor(1) as pool:  # a thread of its own, which ends with what was set
        pool.submit(plugin.setup, None).result()
        assert pool.submit(os.sched_getaffinity, 0).result() == one
        pool.submit(OnCores(frozenset([2**15])).setup, None).result()  # none that is there
    assert os.sched_getaffinity(0) == here


LOSING = """\
from pathlib import Path
import numpy as np
import lepton_pipe as lp


class CUDARuntimeError(RuntimeError):
    pass


CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"


@lp.kernel(scratch=2000.0)
def plus(block, *, place):
    left = Path(__file__).with_name("left")
    if place.write.start == (0, 40, 0) and int(left.read_text()):
        left.write_text(str(int(left.read_text()) - 1))
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")
    return block + block.dtype.type(1)


@lp.pipeline
def losing(raw: lp.Image) -> lp.Node:
    return plus(raw)
"""


def test_a_worker_that_loses_its_device_is_replaced_and_the_block_runs_elsewhere(tmp_path):
    (tmp_path / "losing.py").write_text(LOSING)
    (tmp_path / "left").write_text("1")
    np.save(tmp_path / "raw.npy", np.zeros((20, 80, 80), np.uint8))
    words = ["--workers", "1", "--threads", "2", "--memory", "2GiB", "--chunks", "y=40,x=80,z=20"]
    ended = lepton("run", "losing.py", "raw=raw.npy", "out=out.zarr", *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (voxels(tmp_path / "out.zarr" / "losing") == 1).all()
    assert (tmp_path / "left").read_text() == "0"


LEAVING = """
import sys
from pathlib import Path
from lepton_pipe.worker.running import leave, noted

with noted(Path(sys.argv[1]), "tcp://127.0.0.1:4000", 7):
    leave(Path(sys.argv[1]), "tcp://127.0.0.1:4000", "the card has gone")
"""


def test_a_process_that_leaves_says_why_and_what_it_ran(tmp_path):
    ended = python("-c", LEAVING, tmp_path, cwd=tmp_path)
    assert ended.returncode == 86
    suspects = Suspects(tmp_path)
    assert list(suspects.running_on("tcp://127.0.0.1:4000")) == [7]
    assert suspects.why_left("tcp://127.0.0.1:4000") == "the card has gone"
    assert suspects.why_left("tcp://127.0.0.1:4001") == ""
