"""What casts lose on request is counted once, whoever computes it and however often."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.kernels import astype, flatfield, gaussian, mean, otsu, project, uniform
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.driver import run_plan
from lepton_pipe.spec import Lost
from lepton_pipe.store import open_source
from tests.fake_device import fake_cupy

SHAPE = (9, 31, 40)


def picture(seed=0, dtype="float32"):
    """Return an image with values below and above all small dtypes, NaN and infinities."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 120, SHAPE)
    for value in (np.nan, np.inf, -np.inf, 1e30, 255.4, 255.6, -0.5):
        image[tuple(rng.integers(0, n, 25) for n in SHAPE)] = value
    if np.dtype(dtype).kind != "f":
        return np.nan_to_num(image, nan=3, posinf=9).clip(-1000, 1000).astype(dtype)
    return image.astype(dtype)


RAW = picture()


def lost(values, dtype):
    """Count with NumPy."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    finite = np.isfinite(values)
    whole = np.rint(values[finite])
    out = int(((whole < low) | (whole > high)).sum())
    return Lost(int(np.isnan(values).sum()), int(np.isinf(values).sum()), out)


def clipped(image, dtype="uint8"):
    return astype(image, dtype, cast="clip")


def wrapped(image, dtype="int8"):
    return astype(image, dtype, cast="wrap")


def flat_of(image):
    """Return a 2-D image to be used with every plane."""
    return wrapped(image[0] if isinstance(image, np.ndarray) else project(image, "z", "min"))


PIPELINES = {
    "written": (lambda r: clipped(r), {"astype": (RAW, "uint8")}),
    "tile by tile": (lambda r: clipped(r * 2) + 1, {"astype": (RAW * 2, "uint8")}),
    "wrapped": (lambda r: wrapped(r), {"astype": (RAW, "int8")}),
    "with a halo": (lambda r: gaussian(wrapped(r), 1.5), {"astype": (RAW, "int8")}),
    "in two stages": (
        lambda r: (c := clipped(r)) > otsu(c),
        {"astype": (RAW, "uint8")},
    ),
    "reduced alone": (lambda r: mean(clipped(r)), {"astype": (RAW, "uint8")}),
    "before a projection": (lambda r: project(clipped(r), "y"), {"astype": (RAW, "uint8")}),
    "of a projection": (
        lambda r: gaussian(astype(r, "float64"), 0.5) * 0 + flat_of(r),
        {"astype_2": (RAW.min(0), "int8")},
    ),
    "by a filter": (
        lambda r: clipped(gaussian(r, 0.8)),
        {"astype": (gaussian(RAW, 0.8), "uint8")},
    ),
    "by a filter, with a halo": (
        lambda r: uniform(clipped(gaussian(r, {"y": 1.1})), 5),
        {"astype": (gaussian(RAW, {"y": 1.1}), "uint8")},
    ),
    "shrunk and written": (
        lambda r: {"a": (c := clipped(r)), "b": downsample(c, 2)},
        {"astype": (RAW, "uint8")},
    ),
    "several": (
        lambda r: {"a": clipped(gaussian(wrapped(r), 1), "int16"), "b": mean(clipped(r))},
        {
            "astype": (RAW, "int8"),
            "astype_2": (gaussian(wrapped(RAW), 1), "int16"),
            "astype_3": (RAW, "uint8"),
        },
    ),
}
SERIAL = Resources(2**31, serial=True)
TILING = {"z": 4, "y": 16, "x": 16}


def made(fn):
    def one(raw: lp.Image):
        found = fn(raw)
        return found if isinstance(found, dict) else {"out": found}

    return lp.pipeline(one)


def run(
    pipeline, image, out, tiling=TILING, resources=SERIAL, scheduler=None, given=None, **options
):
    sources = {"raw": open_source(image)}
    spec = pipeline.bind({n: s.type for n, s in sources.items()}, given or {})
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, resources, tiling)
    return run_plan(plan, sources, out, watcher=Silent(), scheduler=scheduler, **options)


def counts(report):
    return {c.step: c.lost for c in report.casts}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_every_voxel_is_counted_once(name, tmp_path):
    fn, wanted = PIPELINES[name]
    expected = {step: lost(np.asarray(v), d) for step, (v, d) in wanted.items()}
    assert any(sum(n) for n in expected.values())
    for number, tiling in enumerate((None, TILING, {"z": 1, "y": 31, "x": 7})):
        assert counts(run(made(fn), RAW, tmp_path / f"o{number}", tiling)) == expected


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float64"])
def test_a_filter_counts_what_the_cast_by_itself_does(dtype, tmp_path, monkeypatch):
    image = picture(1, dtype)
    pipeline = made(lambda r: clipped(gaussian(flatfield(r * np.float32(1)), 0.9)))
    together = run(pipeline, image, tmp_path / "together")
    monkeypatch.setattr("lepton_pipe.plan.absorb._holds", lambda *_: False)
    alone = run(pipeline, image, tmp_path / "alone")
    assert counts(together) == counts(alone) != {"astype": Lost()}


def test_nothing_is_counted_of_what_cannot_lose_or_raises(tmp_path):
    image = picture(2, "uint8")
    pipeline = made(lambda r: clipped(r, "int16") + astype(wrapped(r, "float32"), "int16"))
    report = run(pipeline, image, tmp_path / "o")
    assert report.casts == []
    assert "casts" not in report.to_json()


@pytest.mark.parametrize(
    "fn",
    [
        lambda r: crop(clipped(r), x=(3, 20)),
        lambda r: downsample(clipped(r), 2),
    ],
)
def test_where_blocks_lie_on_another_grid_the_report_says_so(fn, tmp_path):
    report = run(made(fn), RAW, tmp_path / "o")
    assert counts(report) == {"astype": None}
    told = report.to_json()["casts"]["astype"]
    nothing = {"nan": None, "infinite": None, "out_of_range": None}
    assert told == {"dtype": "uint8", "cast": "clip", **nothing}
    assert "astype: clipped to uint8; not counted" in str(report)


def test_the_report_and_the_record_tell_the_counts(tmp_path):
    out = tmp_path / "o"
    report = run(made(lambda r: wrapped(clipped(r))), RAW, out)
    first, second = lost(RAW, "uint8"), lost(np.asarray(clipped(RAW)), "int8")
    told = {
        "astype": {"dtype": "uint8", "cast": "clip", **first._asdict()},
        "astype_2": {"dtype": "int8", "cast": "wrap", **second._asdict()},
    }
    assert report.to_json()["casts"] == told
    assert json.loads((out / "lepton.json").read_text())["measured"]["casts"] == told
    line = f"{first.out_of_range} voxels out of range, {first.infinite} infinite, {first.nan} NaN"
    assert f"  astype: clipped to uint8: {line}\n" in str(report)


def test_dask_and_threads_count_as_one_process_does(cluster, tmp_path):
    fn, _ = PIPELINES["several"]
    serial = run(made(fn), RAW, tmp_path / "serial")
    threads = run(made(fn), RAW, tmp_path / "t", resources=Resources(2**31, 0, 2))
    two = Resources(2**33, 1, 2)
    dask = run(made(fn), RAW, tmp_path / "d", None, two, cluster.scheduler.address)
    assert counts(threads) == counts(dask) == counts(serial)


# -- runs that were not the first ---------------------------------------------------------------


@lp.kernel(scratch=8.0)
def fails_once(block, place, flag):
    """Raise in the last blocks, as long as a file is there."""
    if Path(flag).exists() and place.write.start[0] >= 4:
        raise ValueError("not yet")
    return block


@lp.pipeline
def stopped(raw: lp.Image, *, flag: str):
    """Count, and fail in the middle."""
    return {"a": fails_once(clipped(raw), flag=flag), "b": mean(wrapped(raw))}


def test_blocks_that_were_done_before_a_stop_are_counted(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    given = {"given": {"flag": str(flag)}}
    with pytest.raises(KernelError, match="not yet"):
        run(stopped, RAW, tmp_path / "o", **given)
    flag.unlink()
    report = run(stopped, RAW, tmp_path / "o", **given)
    assert 0 < sum(s.stats.blocks for s in report.stages) < 18
    expected = {"astype": lost(RAW, "uint8"), "astype_2": lost(RAW, "int8")}
    assert counts(report) == expected
    again = run(stopped, RAW, tmp_path / "o", **given, update=True)
    assert sum(s.stats.blocks for s in again.stages) == 0
    assert counts(again) == expected


def test_an_update_without_a_change_tells_what_the_run_before_told(tmp_path):
    pipeline, path = made(lambda r: {"a": clipped(r), "b": crop(wrapped(r), z=0)}), tmp_path / "r"
    zarr.create_array(str(path), data=RAW, chunks=(4, 16, 16), dimension_names=list("zyx"))
    first = pipeline.plan(raw=path, out=tmp_path / "o", serial=True).run()
    again = pipeline.plan(raw=path, out=tmp_path / "o", serial=True, update=True).run()
    assert again.unchanged
    assert again.casts == first.casts
    assert counts(again) == {"astype": lost(RAW, "uint8"), "astype_2": None}


@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_update_counts_what_it_takes_over(tmp_path):
    path, out = tmp_path / "raw.zarr", tmp_path / "o"
    chunks = (4, 16, 16)
    stored = zarr.create_array(str(path), data=RAW, chunks=chunks, dimension_names=list("zyx"))
    pipeline = made(lambda r: {"a": clipped(r), "b": gaussian(wrapped(r), 0.5)})
    run(pipeline, path, out)
    changed = RAW.copy()
    changed[:4, :16, :16] = 500
    stored[:4, :16, :16] = 500
    report = run(pipeline, path, out, update=True)
    assert 0 < sum(s.stats.blocks for s in report.stages) < 18
    assert counts(report) == {"astype": lost(changed, "uint8"), "astype_2": lost(changed, "int8")}


# -- runs that go past what is broken -----------------------------------------------------------


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_what_cannot_be_read_is_not_counted(on_error, tmp_path):
    path = tmp_path / "raw.zarr"
    zarr.create_array(str(path), data=RAW, chunks=(4, 16, 16), dimension_names=list("zyx"))
    (path / "c" / "1" / "0" / "1").write_bytes(b"no chunk")
    known = np.ones(SHAPE, bool)
    known[4:8, :16, 16:32] = False
    report = run(made(lambda r: clipped(r) + 1), path, tmp_path / "o", on_error=on_error)
    assert counts(report) == {"astype": lost(RAW[known], "uint8")}


@lp.kernel(scratch=8.0)
def raises(block, place):
    """Raise in one block."""
    if place.write.start[0] == 4 and place.write.start[2] == 16:
        raise ValueError("poison")
    return block


def test_steps_that_are_run_again_one_by_one_are_counted_once(tmp_path):
    pipeline = made(lambda r: raises(clipped(r)))
    report = run(pipeline, RAW, tmp_path / "o", on_error="skip")
    assert report.quarantine
    assert counts(report) == {"astype": lost(RAW, "uint8")}


# -- on a device --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["written", "wrapped", "with a halo"])
def test_a_device_counts_as_the_cpu_does(name, tmp_path):
    fn, wanted = PIPELINES[name]
    with fake_cupy():
        report = run(
            made(fn),
            RAW,
            tmp_path / "o",
            resources=Resources(2**31, 0, 1, "gpu", device_memory=2**30),
        )
    assert counts(report) == {step: lost(v, d) for step, (v, d) in wanted.items()}
