"""With ``digest``, an update finds changed bytes whatever their times, and takes a copy for the
same."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import zarr

from lepton_pipe.repair import repair
from lepton_pipe.run.verify import verify
from tests.run.five import picture
from tests.run.test_update import chunks, updated
from tests.run.updated import CHUNKS, Bench


@pytest.fixture
def bench(tmp_path):
    """A bench whose image is stored as it is, so that all chunks have the same size."""
    made = Bench(tmp_path)
    shutil.rmtree(tmp_path / "raw.zarr")
    image = picture((16, 160, 160), "uint16", 3) // 2
    zarr.create_array(str(tmp_path / "raw.zarr"), data=image, chunks=CHUNKS, compressors=None)
    return made


def replace(file):
    """Add 1 to the voxels of a chunk, and leave size and time: as ``cp -p`` does."""
    before = file.stat()
    file.write_bytes((np.frombuffer(file.read_bytes(), "<u2") + 1).astype("<u2").tobytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch_all(folder):
    """Give all files another time, the first as if they were older."""
    for i, file in enumerate(p for p in folder.rglob("*") if p.is_file()):
        os.utime(file, (i, i))


def test_bytes_that_were_replaced_under_the_same_size_and_time(bench):
    all_started = bench.run("sharpen", digest=True)
    replace(bench.folder / "raw.zarr/c/0/1/2")
    assert 0 < len(updated(bench, "sharpen", digest=True)) < len(all_started)
    assert bench.plan("sharpen", update=True, digest=True).changes.same


def test_without_digests_they_are_not_seen(bench):
    bench.run("sharpen")
    replace(bench.folder / "raw.zarr/c/0/1/2")
    assert bench.plan("sharpen", update=True).changes.same


def test_other_times_change_nothing(bench):
    bench.run("sharpen", digest=True)
    touch_all(bench.folder / "raw.zarr")
    plan = bench.plan("sharpen", update=True, digest=True)
    assert plan.changes.same
    assert plan.run(progress=False).unchanged


def test_a_copy_elsewhere_changes_nothing(bench):
    bench.run("sharpen", digest=True)
    shutil.copytree(bench.folder / "raw.zarr", bench.folder / "copy.zarr")
    shutil.rmtree(bench.folder / "raw.zarr")
    (bench.folder / "raw.zarr").symlink_to("copy.zarr", target_is_directory=True)
    assert updated(bench, "sharpen", digest=True) == []


@pytest.mark.parametrize("digest", [False, True])
def test_another_kind_computes_anew_and_says_why(bench, digest):
    all_started = bench.run("sharpen", digest=not digest)
    ways = ["size and time", "its bytes (digest)"]
    why = f"input raw is known by {ways[digest]} now, was by {ways[not digest]}"
    assert why in str(bench.plan("sharpen", update=True, digest=digest))
    assert len(updated(bench, "sharpen", digest=digest)) == len(all_started)


def test_the_plan_says_what_it_costs(bench):
    note = "input files are read for their digests when the run begins"
    assert note not in str(bench.plan("sharpen"))
    plan = str(bench.plan("sharpen", digest=True))
    assert f"{note}: 801 KiB" in plan
    bench.run("sharpen", digest=True)
    plan = str(bench.plan("sharpen", update=True, digest=True))
    assert f"{note}, and were for this plan: 801 KiB" in plan


def test_a_repair_knows_inputs_as_the_run_did(bench):
    bench.run("sharpen", digest=True)
    touch_all(bench.folder / "raw.zarr")
    chunks(bench.out / "sharpen")[3].unlink()
    bench.forget()
    assert repair(bench.out, say=lambda _: None, progress=False).whole
    assert verify(bench.out).whole
