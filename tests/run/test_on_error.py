"""What runs do about input that cannot be read and kernels that raise."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import LostBlockError, RunError
from lepton_pipe.kernels import gaussian, label, mean, otsu, project, regionprops
from lepton_pipe.kernels.peaks import find_peaks
from lepton_pipe.kernels.resample import downsample
from lepton_pipe.run.executors import Work
from lepton_pipe.run.status import run_status
from tests.run.faulty import (
    MODES,
    REACH,
    SHAPE,
    blobs,
    boxes,
    filled,
    fussy_too,
    got,
    picky,
    plain_objects,
    run,
    smoothed,
    stored,
    table,
)


@pytest.fixture(scope="module")
def image():
    return blobs()


# -- images -------------------------------------------------------------------------------------


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
