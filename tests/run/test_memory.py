"""Memory is planned, then measured: it stays under the plan, and does not grow with the image."""

from __future__ import annotations

import json

import pytest
import zarr

from tests.command import lepton

MIB = 2**20


def sparse(path, planes: int):
    """Lay out an image of a MiB a plane; all but a few of its chunks are left to be zeros."""
    array = zarr.create_array(
        str(path), shape=(planes, 1024, 512), chunks=(16, 128, 128), dtype="uint16", fill_value=0
    )
    array[:2, 100:400, 100:400] = 500
    return path


def run(pipeline, path, out, *more):
    words = ("run", pipeline, f"raw={path}", f"out={out}", "--json", "--threads", "1")
    done = lepton(*words, "--workers", "1", *more, cwd=path.parent, seconds=280)
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
    words = ("plan", "nuclei", f"raw={path}", "out=o", "--serial", "--memory")
    refused = lepton(*words, "221MiB", cwd=tmp_path)
    assert refused.returncode == 4, refused.stderr
    told = refused.stderr.partition("at least ")[2].partition(" MiB")[0]
    assert lepton(*words, f"{told}MiB", cwd=tmp_path).returncode == 0
