"""NaN and infinities of published floats are counted once, whoever computes them and how often."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.kernels import astype, gaussian, mean, project
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.plan import Resources
from lepton_pipe.spec import NotFinite
from tests.fake_device import fake_cupy
from tests.run.test_casts_counted import RAW, fails_once, made, raises, run

CHUNKS = (4, 16, 16)


def counted(array):
    array = np.asarray(array)
    return NotFinite(int(np.isnan(array).sum()), int(np.isinf(array).sum()))


def flushed(image):
    """Return floats without NaN and infinities."""
    return astype(astype(image, "uint8", cast="clip"), "float32")


def stored(path, array=RAW):
    zarr.create_array(str(path), data=array, chunks=CHUNKS, dimension_names=list("zyx"))
    return path


PIPELINES = {
    "computed": lambda r: {"a": r * 2, "whole": astype(r, "uint8", cast="clip")},
    "with a halo": lambda r: {"a": gaussian(r, 0.7)},
    "of other dtypes": lambda r: {
        "half": astype(r, "float16", cast="clip"),
        "double": astype(r, "float64"),
    },
    "taken over": lambda r: {"a": r, "b": r + 1},
    "twice": lambda r: {"a": (c := r * 1), "b": c},
    "needed again": lambda r: {"a": (c := gaussian(r, 0.5)), "b": c > mean(c)},
    "on other grids": lambda r: {
        "part": crop(r, x=(3, 20)),
        "small": downsample(r, 2),
        "low": project(r, "z", "max"),
    },
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_voxel_of_every_output_is_counted_once(name, tmp_path):
    raw = stored(tmp_path / "raw")
    for number, tiling in enumerate((None, {"z": 4, "y": 16, "x": 16}, {"z": 1, "y": 31, "x": 7})):
        out = tmp_path / f"o{number}"
        report = run(made(PIPELINES[name]), raw, out, tiling)
        floats = {n for n, o in report.outputs.items() if o.get("dtype", "").startswith("float")}
        expected = {n: counted(zarr.open_array(str(out / n / "0"))[...]) for n in floats}
        assert any(any(n) for n in expected.values())
        assert report.not_finite == expected


def test_the_report_and_the_record_tell_the_counts_and_print_no_zeros(tmp_path):
    pipeline = made(lambda r: {"bad": r * 1, "good": flushed(r)})
    report = run(pipeline, RAW, tmp_path / "o")
    found = counted(RAW)
    told = {"bad": found._asdict(), "good": {"nan": 0, "infinite": 0}}
    assert report.to_json()["not_finite"] == told
    record = json.loads((tmp_path / "o" / "lepton.json").read_text())
    assert record["measured"]["not_finite"] == told
    lines = str(report).splitlines()
    assert f"  bad: {found.nan} voxels are NaN, {found.infinite} infinite" in lines
    assert not any(line.startswith("  good: 0 voxels") for line in lines)


def test_dask_and_threads_count_as_one_process_does(cluster, tmp_path):
    pipeline = made(PIPELINES["needed again"])
    serial = run(pipeline, RAW, tmp_path / "serial")
    threads = run(pipeline, RAW, tmp_path / "t", resources=Resources(2**31, 0, 2))
    two = Resources(2**33, 1, 2)
    dask = run(pipeline, RAW, tmp_path / "d", None, two, cluster.scheduler.address)
    assert threads.not_finite == dask.not_finite == serial.not_finite != {"a": NotFinite()}


def test_a_device_counts_as_the_cpu_does(tmp_path):
    with fake_cupy():
        gpu = Resources(2**31, 0, 1, "gpu", device_memory=2**30)
        report = run(made(lambda r: r * 2), RAW, tmp_path / "o", resources=gpu)
    assert report.not_finite == {"out": counted(RAW)}


@lp.pipeline
def stopped(raw: lp.Image, *, flag: str):
    """Fail in the middle."""
    return {"a": fails_once(raw, flag=flag)}


def test_blocks_that_were_done_before_a_stop_and_before_an_update_are_counted(tmp_path):
    raw, flag = stored(tmp_path / "raw"), tmp_path / "flag"
    flag.touch()
    given = {"given": {"flag": str(flag)}}
    with pytest.raises(lp.errors.KernelError, match="not yet"):
        run(stopped, raw, tmp_path / "o", **given)
    flag.unlink()
    report = run(stopped, raw, tmp_path / "o", **given)
    assert 0 < sum(s.stats.blocks for s in report.stages) < 18
    assert report.not_finite == {"a": counted(RAW)}
    changed = RAW.copy()
    changed[:4, :16, :16] = np.nan
    zarr.open_array(str(raw))[:4, :16, :16] = np.nan
    again = run(stopped, raw, tmp_path / "o", **given, update=True)
    assert 0 < sum(s.stats.blocks for s in again.stages) < 18
    assert again.not_finite == {"a": counted(changed)}


def test_an_update_without_a_change_tells_what_the_run_before_told(tmp_path):
    raw, pipeline = stored(tmp_path / "raw"), made(lambda r: r * 2)
    first = pipeline.plan(raw=raw, out=tmp_path / "o", serial=True).run()
    again = pipeline.plan(raw=raw, out=tmp_path / "o", serial=True, update=True).run()
    assert again.unchanged
    assert again.not_finite == first.not_finite == {"out": counted(RAW)}


@pytest.mark.parametrize("on_error", ["skip", "fill"])
@pytest.mark.parametrize("fn", [lambda r: r, lambda r: r * 2], ids=["taken over", "computed"])
def test_what_stands_for_what_is_broken_is_not_counted(on_error, fn, tmp_path):
    raw = stored(tmp_path / "raw")
    (raw / "c" / "1" / "0" / "1").write_bytes(b"no chunk")
    known = np.ones(RAW.shape, bool)
    known[4:8, :16, 16:32] = False
    report = run(made(fn), raw, tmp_path / "o", on_error=on_error)
    assert report.not_finite == {"out": counted(RAW[known])}


def test_a_block_whose_kernel_raises_is_not_counted(tmp_path):
    report = run(made(lambda r: raises(r)), RAW, tmp_path / "o", on_error="skip")
    known = np.ones(RAW.shape, bool)
    for fault in report.quarantine:
        known[tuple(slice(*ends) for ends in fault.region)] = False
    assert 0 < known.sum() < known.size
    assert report.not_finite == {"out": counted(RAW[known])}
