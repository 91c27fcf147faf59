"""What a run lists that it could not read or compute, and what it says where it ends for it."""

from __future__ import annotations

import json

import pytest

from lepton_pipe.errors import DamagedError, KernelError
from lepton_pipe.run.status import run_status
from tests.run.faulty import BAD, WAYS, blobs, objects_of_all, picky, run, smoothed, stored
from tests.run.five import fingerprints


@pytest.fixture(scope="module")
def image():
    return blobs()


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
