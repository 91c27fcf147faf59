"""What runs do about input that cannot be read and kernels that raise."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import DamagedError, KernelError, LostBlockError, RunError
from lepton_pipe.kernels import astype, gaussian, label, mean, otsu, project, regionprops
from lepton_pipe.kernels.peaks import find_peaks
from lepton_pipe.kernels.resample import downsample
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.driver import run_plan
from lepton_pipe.run.executors import Work
from lepton_pipe.run.status import run_status
from lepton_pipe.store.chunked import ChunkedSource
from lepton_pipe.store.copying import copyable
from lepton_pipe.store.zarr_chunks import DirectChunks
from tests.run.five import fingerprints

SHAPE, CHUNKS = (12, 40, 48), (4, 20, 16)
BAD = [(0, 1, 1), (2, 0, 2)]
MODES = ("skip", "fill")


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(1).normal(size=SHAPE)
    blobs = np.asarray(gaussian(noise.astype(np.float32), sigma=2.0))
    return (500 + 2000 * (blobs - blobs.min()) / np.ptp(blobs)).astype(np.uint16)


def stored(folder: Path, image, bad=BAD) -> Path:
    """Store an image as zarr, with some chunks cut off."""
    path = folder / "raw.zarr"
    zarr.create_array(str(path), data=image, chunks=CHUNKS, dimension_names=["z", "y", "x"])
    for chunk in bad:
        file = path.joinpath("c", *map(str, chunk))
        file.write_bytes(file.read_bytes()[:-9])
    return path


def boxes(bad=BAD, grown=0, shape=SHAPE):
    """Return the slices of chunks, grown on every side."""
    for chunk in bad:
        yield tuple(
            slice(max(0, i * c - grown), min(n, (i + 1) * c + grown))
            for i, c, n in zip(chunk, CHUNKS, shape, strict=True)
        )


def filled(array, bad=BAD, grown=0):
    """Return an image with the fill value in some chunks."""
    array = array.copy()
    for box in boxes(bad, grown):
        array[box] = np.nan if array.dtype.kind == "f" else 0
    return array


def got(report, name, level=0):
    return zarr.open_group(report.path(name), mode="r")[str(level)][:]


def table(report, name):
    return pq.read_table(report.path(name)).to_pydict()


TILING = {"z": 4, "y": 16, "x": 16}
WAYS = {
    "serial": Resources(2**31, serial=True),
    "threads": Resources(2**31, workers=0, threads=2),
    "dask": Resources(2**31, workers=2),
}


def run(
    pipeline,
    raw,
    tmp_path,
    on_error="skip",
    tiling=TILING,
    how="serial",
    watcher=None,
    update=False,
):
    source = lp.open_image(raw)
    inputs = {
        "raw": InputInfo(source.type, source.chunks, source.uri, copyable(source) is not None)
    }
    spec = pipeline.bind({"raw": source.type}, {})
    plan = make_plan(spec, inputs, WAYS[how], tiling)
    out, watcher = tmp_path / "o", watcher or Silent()
    return run_plan(plan, {"raw": source}, out, watcher=watcher, on_error=on_error, update=update)


# -- images -------------------------------------------------------------------------------------


@lp.pipeline
def smoothed(raw: lp.Image):
    """Filter, compare, shrink, and store the image itself."""
    smooth = gaussian(raw, sigma=0.5)
    return {"raw": raw, "smooth": smooth, "mask": smooth > 1500, "small": downsample(raw, 2)}


REACH = 2  # of a gaussian of sigma 0.5


@pytest.mark.parametrize("options", [{}, {"how": "threads"}, {"tiling": None}], ids=str)
def test_skip_leaves_out_what_depends_on_it_and_nothing_else(image, tmp_path, options):
    report = run(smoothed, stored(tmp_path, image), tmp_path, "skip", **options)
    whole = smoothed(image)
    np.testing.assert_array_equal(got(report, "raw"), filled(image))
    np.testing.assert_array_equal(got(report, "smooth"), filled(whole["smooth"], grown=REACH))
    np.testing.assert_array_equal(got(report, "mask"), filled(whole["mask"], grown=REACH))
    small = whole["small"].copy()
    for box in boxes():
        small[tuple(slice(s.start // 2, s.stop // 2) for s in box)] = 0
    np.testing.assert_array_equal(got(report, "small"), small)


@pytest.mark.parametrize("options", [{}, {"how": "threads"}, {"tiling": None}], ids=str)
def test_fill_computes_from_the_fill_value(image, tmp_path, options):
    report = run(smoothed, stored(tmp_path, image), tmp_path, "fill", **options)
    for name, array in smoothed(filled(image)).items():
        np.testing.assert_array_equal(got(report, name), array)


@pytest.mark.parametrize("on_error", MODES)
def test_scale_levels_show_what_the_full_resolution_holds(image, tmp_path, on_error):
    wide = np.tile(image, (1, 7, 7))
    report = run(smoothed, stored(tmp_path, wide), tmp_path, on_error, tiling=None)
    finest = got(report, "raw")
    assert report.outputs["raw"]["levels"] > 1
    np.testing.assert_array_equal(got(report, "raw", 1), downsample(finest, 2))


@pytest.mark.parametrize("on_error", MODES)
def test_floats_that_are_not_known_are_nan(image, tmp_path, on_error):
    floats = image.astype(np.float32)
    report = run(smoothed, stored(tmp_path, floats), tmp_path, on_error)
    np.testing.assert_array_equal(got(report, "raw"), filled(floats))
    expected = filled(smoothed(floats)["smooth"], grown=REACH)
    np.testing.assert_array_equal(got(report, "smooth"), expected)


def test_what_is_stored_between_stages_carries_it_on(image, tmp_path):
    report = run(in_stages, stored(tmp_path, image), tmp_path, "skip")
    assert len(report.stages) > 1
    good = in_stages_with(image, report.values["level"])
    np.testing.assert_array_equal(got(report, "again"), filled(good, grown=2 * REACH))


@lp.pipeline
def in_stages(raw: lp.Image):
    """Filter, ask for the mean of that, and filter the difference."""
    smooth = gaussian(raw, sigma=0.5)
    level = mean(smooth)
    return {"again": gaussian(smooth - level, sigma=0.5), "level": level}


def in_stages_with(image, level):
    smooth = gaussian(image, sigma=0.5)
    return gaussian(smooth - np.float32(level), sigma=0.5)


# -- statistics ---------------------------------------------------------------------------------


@lp.pipeline
def counted(raw: lp.Image):
    """Ask for what is made of the whole image."""
    return {
        "mean": mean(raw),
        "threshold": otsu(raw),
        "top": project(raw, "z", "max"),
        "average": project(raw, "z", "mean"),
        "peaks": find_peaks(raw, 1),
        "smooth_mean": mean(gaussian(raw, sigma=0.5)),
    }


@pytest.mark.parametrize("on_error", MODES)
def test_statistics_count_what_is_known_alone(image, tmp_path, on_error):
    report = run(counted, stored(tmp_path, image), tmp_path, on_error)
    good = np.ones(SHAPE, bool)
    for box in boxes():
        good[box] = False
    assert report.values["mean"] == image[good].mean()
    assert report.values["threshold"] == otsu(image[good].reshape(1, -1))
    assert report.left_out["integer_counts"] == (~good).sum()
    near = np.ones(SHAPE, bool)
    for box in boxes(grown=REACH):
        near[box] = False
    smooth = np.asarray(gaussian(image, sigma=0.5))
    assert report.values["smooth_mean"] == pytest.approx(smooth[near].astype(float).mean(), 1e-7)


@pytest.mark.parametrize("on_error", MODES)
def test_projections_leave_out_planes_that_are_not_known(image, tmp_path, on_error):
    planes = [(1, y, x) for y in range(2) for x in range(3)]
    report = run(counted, stored(tmp_path, image, planes), tmp_path, on_error)
    good = np.delete(image, slice(4, 8), axis=0)
    np.testing.assert_array_equal(got(report, "top"), good.max(0))
    np.testing.assert_array_equal(got(report, "average"), good.mean(0).astype(np.float32))


def test_points_near_what_is_not_known_are_left_out(image, tmp_path):
    report = run(counted, stored(tmp_path, image), tmp_path, "skip")
    found = set(zip(*(table(report, "peaks")[a] for a in "zyx"), strict=True))
    every = counted(image)["peaks"]
    expected = set(zip(*(every[a].tolist() for a in "zyx"), strict=True))
    away = np.ones(SHAPE, bool)
    for box in boxes(grown=1):
        away[box] = False
    assert found == {p for p in expected if away[tuple(map(int, p))]}
    assert found < expected


def test_a_statistic_of_nothing_fails_the_run(image, tmp_path):
    every = [(z, y, x) for z in range(3) for y in range(2) for x in range(3)]
    with pytest.raises(RunError, match="nothing that it is computed from"):
        run(counted, stored(tmp_path, image, every), tmp_path, "skip")


# -- kernels ------------------------------------------------------------------------------------


@lp.kernel(depth=1, scratch=0.0)
def fussy(block, place):
    """Pass on a block, but for those that start in the middle."""
    if place.write.start[1:] == (16, 16):
        raise ArithmeticError("not this one")
    return block + 1


@lp.kernel(scratch=0.0)
def fussy_too(block, place):
    """Pass on a block, but for those that start in the middle."""
    if place.write.start == (4, 16, 16):
        raise ArithmeticError("nor this one")
    return block


@lp.pipeline
def picky(raw: lp.Image):
    """Make one image by a kernel that raises, and one without."""
    made = fussy(raw)
    return {"made": made, "more": made * 2 + 1, "smooth": gaussian(raw, sigma=0.5)}


@pytest.mark.parametrize("on_error", MODES)
def test_a_kernel_that_raises_loses_its_result_alone(image, tmp_path, on_error):
    report = run(picky, image, tmp_path, on_error)
    lost = np.zeros(SHAPE, bool)
    lost[:, 16:32, 16:32] = True
    np.testing.assert_array_equal(got(report, "made"), np.where(lost, 0, image + 1))
    np.testing.assert_array_equal(got(report, "more"), np.where(lost, 0, image * 2 + 3))
    np.testing.assert_array_equal(got(report, "smooth"), gaussian(image, sigma=0.5))
    assert {q.kind for q in report.quarantine} == {"kernel"}
    assert {q.image for q in report.quarantine} == {"fussy"}
    assert all(
        "not this one" in q.error and "ArithmeticError" in q.error for q in report.quarantine
    )
    assert all(q.attempts == 1 for q in report.quarantine)


@lp.pipeline
def objects(raw: lp.Image):
    """Label what a kernel that raises made, and measure that."""
    found = label(fussy_too(raw) > 1500)
    return {"labels": found, "table": regionprops(found, raw)}


@pytest.mark.parametrize("on_error", MODES)
def test_a_block_that_is_lost_has_no_objects(image, tmp_path, on_error):
    report = run(objects, image, tmp_path, on_error)
    labels = got(report, "labels")
    mask = image > 1500
    mask[4:8, 16:32, 16:32] = False
    np.testing.assert_array_equal(labels > 0, mask)
    rows = table(report, "table")
    sizes = np.bincount(labels.reshape(-1))
    assert rows["area"] == sizes[rows["label"]].tolist()
    assert set(rows["label"]) == set(np.unique(labels)) - {0}


@pytest.mark.parametrize("on_error", MODES)
def test_objects_are_joined_around_what_cannot_be_read(image, tmp_path, on_error):
    report = run(plain_objects, stored(tmp_path, image), tmp_path, on_error)
    expected = plain_objects(filled(image))
    np.testing.assert_array_equal(got(report, "labels"), expected["labels"])
    assert table(report, "table")["area"] == expected["table"]["area"].tolist()


@lp.pipeline
def plain_objects(raw: lp.Image):
    """Label what is bright, and measure that."""
    found = label(raw > 1500)
    return {"labels": found, "table": regionprops(found, raw)}


# -- the list -----------------------------------------------------------------------------------


def test_the_list_is_part_of_the_result(image, tmp_path):
    raw = stored(tmp_path, image)
    report = run(smoothed, raw, tmp_path, "skip")
    listed = json.loads((tmp_path / "o/quarantine.json").read_text())
    record = json.loads((tmp_path / "o/lepton.json").read_text())
    assert listed["on_error"] == "skip"
    files = [str(raw.joinpath("c", *map(str, chunk))) for chunk in BAD]
    assert [q["path"] for q in listed["quarantined"]] == files
    assert [q.path for q in report.quarantine] == files
    assert listed["quarantined"][0]["region"] == "[0:4, 20:40, 16:32]"
    assert listed["quarantined"][0]["image"] == "raw"
    assert "DamagedError" in listed["quarantined"][0]["traceback"]
    assert listed["quarantined"][0]["blocks"]
    assert [q["path"] for q in record["quarantined"]] == files
    assert "traceback" not in record["quarantined"][0]
    told = str(run_status(tmp_path / "o"))
    assert "complete, but for 2 quarantined" in told
    assert files[0] in told
    assert files[0] in str(report)


def test_a_long_list_is_told_in_a_few_lines(image, tmp_path):
    most = [(z, y, x) for z in range(3) for y in range(2) for x in range(3)][1:]
    report = run(smoothed, stored(tmp_path, image, most), tmp_path, "skip")
    assert len(report.quarantine) == 17
    lines = str(report).splitlines()
    assert sum("raw.zarr/c" in line for line in lines) == 10
    assert any("... and 7 more, see" in line and "quarantine.json" in line for line in lines)
    assert "complete, but for 17 quarantined" in str(run_status(tmp_path / "o"))


def test_a_run_without_faults_has_no_list(image, tmp_path):
    report = run(smoothed, image, tmp_path, "skip")
    assert report.quarantine == []
    assert not (tmp_path / "o/quarantine.json").exists()
    assert "quarantined" not in json.loads((tmp_path / "o/lepton.json").read_text())


def test_the_same_bytes_however_it_is_run(image, tmp_path):
    raw = stored(tmp_path, image)
    seen = []
    for how in WAYS:
        report = run(objects_of_all, raw, tmp_path / how, "skip", how=how)
        shown = [(q.path, q.region, q.kind, q.image) for q in report.quarantine]
        files = fingerprints(tmp_path / how / "o")
        del files["quarantine.json"]  # names threads and lines
        seen.append((files, shown))
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][1]) == len(BAD) + 1


@lp.pipeline
def objects_of_all(raw: lp.Image):
    """Label what is bright in what a kernel that raises made, by a threshold of all."""
    smooth = gaussian(raw, sigma=0.5)
    found = label(fussy_too(smooth) > otsu(smooth))
    return {"labels": found, "table": regionprops(found, raw), "mean": mean(astype(raw, "float32"))}


# -- by default ---------------------------------------------------------------------------------


def test_by_default_the_run_fails_and_says_where(image, tmp_path):
    with pytest.raises(DamagedError) as failed:
        run(smoothed, stored(tmp_path, image), tmp_path, "fail")
    text = str(failed.value)
    assert str(tmp_path / "raw.zarr") in text
    assert "read for block [0:4, " in text
    assert not (tmp_path / "o").exists()
    (found,) = run_status(tmp_path / "o").quarantined
    assert "cannot be decoded" in found["error"]
    assert "Traceback" in found["traceback"]
    assert "failed: region [0:4, " in str(run_status(tmp_path / "o"))


def test_by_default_a_kernel_that_raises_is_noted_until_it_is_mended(image, tmp_path):
    with pytest.raises(KernelError, match="not this one"):
        run(picky, image, tmp_path, "fail")
    (found,) = run_status(tmp_path / "o").quarantined
    assert "fussy failed on block [0:4, 16:32, 16:32]" in found["error"]
    report = run(picky, image, tmp_path, "skip")  # goes on from there
    assert len(report.quarantine) == 3


# -- what is over soon --------------------------------------------------------------------------


class Flaky(ChunkedSource):
    """A source of which some chunks cannot be read for a while."""

    failures: ClassVar = {}
    error: ClassVar = OSError
    tries: ClassVar = Counter()

    def _chunk(self, index):
        self.tries[index] += 1
        if self.tries[index] <= self.failures.get(index, 0):
            raise self.error(5, "the disk is tired")
        return np.full(self.chunks, 1 + sum(index), self.type.dtype)

    def _stamp(self, index):
        return index

    def identity(self):
        return {}


@pytest.fixture
def flaky(image, monkeypatch):
    monkeypatch.setattr("lepton_pipe.worker.faults.PAUSES", (0.001, 0.001))
    Flaky.tries = Counter()
    Flaky.error = OSError
    opened = lp.open_image(image)
    return Flaky("flaky", opened.type, CHUNKS)


@lp.pipeline
def as_it_is(raw: lp.Image):
    """Add one."""
    return raw + 1


@pytest.mark.parametrize("on_error", ["fail", *MODES])
def test_what_cannot_be_read_for_a_moment_is_tried_again(flaky, tmp_path, on_error):
    Flaky.failures = {(0, 0, 0): 2}
    report = run(as_it_is, flaky, tmp_path, on_error)
    assert report.quarantine == []
    assert got(report, "as_it_is")[0, 0, 0] == 2


def test_what_the_system_never_delivers_is_tried_three_times(flaky, tmp_path):
    Flaky.failures = {(0, 0, 0): 10**6}
    report = run(as_it_is, flaky, tmp_path, "skip")
    (found,) = report.quarantine
    assert found.attempts == 3
    assert "the disk is tired" in found.error
    assert (got(report, "as_it_is")[:4, :20, :16] == 0).all()


def test_what_will_not_come_back_is_tried_once(flaky, tmp_path):
    Flaky.failures, Flaky.error = {(0, 0, 0): 10**6}, FileNotFoundError
    with pytest.raises(RunError, match="the disk is tired"):
        run(as_it_is, flaky, tmp_path, "fail")
    assert Flaky.tries[0, 0, 0] == 1


# -- runs that are stopped, and input that is mended --------------------------------------------


class Stop(Silent):
    """Stops a run when a number of blocks have ended."""

    def __init__(self, after):
        self.left = after

    def tick(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def stopped(pipeline, raw, out, after):
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, raw, out, watcher=Stop(after))


@pytest.mark.parametrize("after", [1, 7, 20, 33])
def test_a_run_that_goes_on_ends_with_the_same_list(image, tmp_path, after):
    raw = stored(tmp_path, image)
    golden = run(objects_of_all, raw, tmp_path / "golden", "skip")
    stopped(objects_of_all, raw, tmp_path, after)
    report = run(objects_of_all, raw, tmp_path, "skip")
    assert [q.path for q in report.quarantine] == [q.path for q in golden.quarantine]
    files, wanted = fingerprints(tmp_path / "o"), fingerprints(tmp_path / "golden/o")
    del files["quarantine.json"], wanted["quarantine.json"]
    assert files == wanted


@pytest.mark.parametrize("after", [7, 50, 100])
def test_nothing_of_a_fault_stays_once_it_is_over(image, tmp_path, monkeypatch, after):
    raw = stored(tmp_path, image, [])
    golden = run(all_but_kernels, raw, tmp_path / "golden", "fail")
    with monkeypatch.context() as patched:
        patched.setattr(DirectChunks, "chunk", tired(DirectChunks.chunk))
        patched.setattr(DirectChunks, "chunk_into", tired(DirectChunks.chunk_into))
        stopped(all_but_kernels, raw, tmp_path, after)
    report = run(all_but_kernels, raw, tmp_path, "fail")  # no file has changed
    assert report.values == golden.values
    assert fingerprints(tmp_path / "o") == fingerprints(tmp_path / "golden/o")


def test_an_update_computes_what_lacked_something_and_nothing_else(image, tmp_path, monkeypatch):
    raw = stored(tmp_path, image, [])
    golden = run(as_it_is, raw, tmp_path / "golden", "fail")
    with monkeypatch.context() as patched:
        patched.setattr(DirectChunks, "chunk", tired(DirectChunks.chunk))
        patched.setattr(DirectChunks, "chunk_into", tired(DirectChunks.chunk_into))
        first = run(as_it_is, raw, tmp_path)
    assert len(first.quarantine) == len(BAD)
    counted = Stop(-1)
    report = run(as_it_is, raw, tmp_path, "fail", watcher=counted, update=True)
    assert report.quarantine == []
    assert fingerprints(tmp_path / "o") == fingerprints(tmp_path / "golden/o")
    lacking = {b for q in first.quarantine for b in q.blocks}
    assert -1 - counted.left == len(lacking) < sum(s.stats.blocks for s in golden.stages)


def test_an_update_with_the_fault_still_there_ends_with_the_same_list(image, tmp_path):
    raw = stored(tmp_path, image)
    first = run(objects_of_all, raw, tmp_path)
    before = fingerprints(tmp_path / "o")
    again = run(objects_of_all, raw, tmp_path, update=True)
    assert [(q.path, q.region) for q in again.quarantine] == [
        (q.path, q.region) for q in first.quarantine
    ]
    after = fingerprints(tmp_path / "o")
    del before["quarantine.json"], after["quarantine.json"]
    assert after == before


def tired(read):
    """Return a reading that fails for some chunks."""

    def fails(self, index, *more):
        if "raw.zarr" in self.where and tuple(index) in BAD:
            raise DamagedError("not today")
        return read(self, index, *more)

    return fails


@lp.pipeline
def all_but_kernels(raw: lp.Image):
    """Label what is bright, by a threshold of all."""
    smooth = gaussian(raw, sigma=0.5)
    found = label(smooth > otsu(smooth))
    return {"labels": found, "table": regionprops(found, raw), "mean": mean(raw)}


# -- blocks that take their process along -------------------------------------------------------


def poisoned(run_block, *numbers):
    """Return a `Work.run_block` that never comes back from some blocks, in any stage."""

    def lost(self, index):
        if index in numbers and self.program.stage.grid.shape == SHAPE:
            raise LostBlockError(f"block {index} took its worker along three times")
        return run_block(self, index)

    return lost


@pytest.mark.parametrize("on_error", MODES)
def test_a_block_that_takes_its_process_along_loses_all_it_writes(
    image, tmp_path, monkeypatch, on_error
):
    monkeypatch.setattr(Work, "run_block", poisoned(Work.run_block, 4))
    report = run(smoothed, image, tmp_path, on_error)
    whole, lost = smoothed(image), np.zeros(SHAPE, bool)
    lost[0:4, 16:32, 16:32] = True
    np.testing.assert_array_equal(got(report, "raw"), np.where(lost, 0, whole["raw"]))
    np.testing.assert_array_equal(got(report, "mask"), np.where(lost, 0, whole["mask"]))
    smooth = got(report, "smooth")
    assert np.isnan(smooth[lost]).all()
    np.testing.assert_array_equal(smooth[~lost], whole["smooth"][~lost])
    assert {(q.kind, q.region) for q in report.quarantine} == {
        ("process", ((0, 4), (16, 32), (16, 32)))
    }
    assert "took its worker along" in report.quarantine[0].error


def test_objects_end_at_a_block_that_is_lost(image, tmp_path, monkeypatch):
    monkeypatch.setattr(Work, "run_block", poisoned(Work.run_block, 4))
    report = run(plain_objects, image, tmp_path, "skip")
    labels, mask = got(report, "labels"), image > 1500
    mask[0:4, 16:32, 16:32] = False
    np.testing.assert_array_equal(labels > 0, mask)
    assert sum(table(report, "table")["area"]) == mask.sum()


def test_by_default_a_block_that_is_lost_ends_the_run(image, tmp_path, monkeypatch):
    monkeypatch.setattr(Work, "run_block", poisoned(Work.run_block, 4))
    with pytest.raises(LostBlockError, match="took its worker along"):
        run(smoothed, image, tmp_path, "fail")
    (found,) = run_status(tmp_path / "o").quarantined
    assert found["kind"] == "process"
    assert found["region"] == "[0:4, 16:32, 16:32]"
