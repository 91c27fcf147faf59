"""What stages leave for later ones stays in memory: no disk, nothing made twice, the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.ndimage import gaussian_filter

import lepton_pipe as lp
from lepton_pipe.cache import neighbours, record
from lepton_pipe.kernels import label, maximum, otsu
from lepton_pipe.plan import holding
from lepton_pipe.plan.keeping import beside_again
from lepton_pipe.run import executors, stage_runner
from lepton_pipe.store import held
from lepton_pipe.worker import run_block
from tests.command import environment
from tests.run.five import fingerprints

MIB = 2**20
NEEDS_LINUX = pytest.mark.skipif(not neighbours.AVAILABLE, reason="needs Linux")
WAYS = {
    "serial": {"serial": True},
    "threads": {"threads": 2},
    "dask": {"workers": 1, "threads": 2},
}


def note(folder, what, place):
    """Add a line for a block that starts; end the process where the test wants that."""
    with (Path(folder) / "started").open("a") as file:
        file.write(f"{what} {place.write.start} {os.getpid()}\n")
    if what == "wider" and (Path(folder) / "kill").exists():
        (Path(folder) / "kill").unlink()
        note(folder, "killed", place)
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("LEPTON_TEST_KILL") == what:
        os.kill(os.getpid(), signal.SIGKILL)


@lp.kernel(depth=1, scratch=4.0)
def lit(block, place, folder):
    """Return the block, and be counted; with a depth it runs once for each block."""
    note(folder, "lit", place)
    return block


@lp.kernel(depth=2, kind="labels", scratch=16.0)
def wider(block, place, folder):
    """Look beyond the block, which wants labels that are final; look which files there are."""
    note(folder, "wider", place)
    for file in Path(folder).glob(".o.lepton/run-*/scratch/*/c/**/*"):
        note(folder, f"file {file.name}", place)
    return maximum(block, 5)


@lp.pipeline
def grown(raw: lp.Image, *, folder: str) -> lp.Node:
    """Pass a label volume from one stage to another."""
    light = lit(raw, folder=folder)
    return wider(label(light > otsu(light)), folder=folder)


@lp.kernel(kind="labels", scratch=4.0)
def seen(block, place, folder):
    """Return the labels, and say who has made them."""
    note(folder, "seen", place)
    return block


@lp.pipeline
def watched(raw: lp.Image, *, folder: str) -> dict[str, lp.Node]:
    """Pass a label volume from one stage to another, as above."""
    light = lit(raw, folder=folder)
    return {"grown": wider(seen(label(light > otsu(light)), folder=folder), folder=folder)}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image of blobs, in chunks."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(32, 192, 192)), 4)
    image = (60_000 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint16)
    path = tmp_path_factory.mktemp("image") / "raw.zarr"
    zarr.create_array(str(path), data=image, chunks=(16, 64, 64))
    return path


def run(folder, image, pipeline=grown, **words):
    words = {"memory": "1GiB", "chunks": "z=16,y=64,x=64", "levels": 1, **words}
    plan = pipeline.plan(raw=image, out=folder / "o", folder=str(folder), **words)
    report = plan.run(progress=False)
    started = (folder / "started").read_text().splitlines()
    return plan.data, report, started, fingerprints(folder / "o")


def planned(plan):
    """Return how often blocks of the two kernels are started if none runs twice."""
    counted = {"lit", "wider"}
    return sum(len(s.blocks) * len(counted.intersection(s.steps)) for s in plan.stages)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, image):
    return run(tmp_path_factory.mktemp("stored"), image, serial=True, keep="disk")


def test_the_same_bytes_wherever_it_is_kept(tmp_path, image, stored):
    _, report, started, _ = stored
    assert any(line.startswith("file") for line in started)
    assert "packed" not in report.tiers


@pytest.mark.parametrize(
    "way",
    [*WAYS, pytest.param("two workers", marks=NEEDS_LINUX)],
)
def test_labels_pass_between_stages_without_disk_or_recomputation(tmp_path, image, stored, way):
    plan, report, started, made = run(
        tmp_path, image, **WAYS.get(way, {"workers": 2, "threads": 1})
    )
    assert plan.arrays["scratch/label_apply"].place == "memory"
    assert made == stored[3]
    assert not [line for line in started if line.startswith("file")]
    assert len(started) == planned(plan)  # no block ran twice
    packed = report.tiers["packed"]
    assert packed.hits >= packed.put > 0
    if way != "two workers":  # either may come to read the same chunk
        assert packed.hits == packed.put
    assert "disk" not in report.tiers
    assert packed.ratio > 2
    assert "chunks" in str(report)
    assert f"kept between stages: {packed.put} chunks" in str(report)
    assert report.to_json()["stages"][-1]["tiers"]["packed"]["hits"] > 0


@NEEDS_LINUX
def test_of_a_worker_that_is_killed_only_what_it_kept_is_made_again(tmp_path, image, stored):
    (tmp_path / "kill").touch()
    _, _, started, made = run(tmp_path, image, watched, workers=2, threads=1, keep="memory")
    assert made == stored[3]
    assert not [line for line in started if line.startswith("file")]
    (killed,) = [n for n, line in enumerate(started) if line.startswith("killed")]
    process = started[killed].split()[-1]
    before, after = ([n for n in part if n.startswith("seen")] for part in cut(started, killed))
    lost = {line.rpartition(" ")[0] for line in before if line.endswith(process)}
    again = [line.rpartition(" ")[0] for line in after]
    assert set(again) <= lost
    assert bool(again) == bool(lost)


def cut(lines, at):
    return lines[:at], lines[at:]


def test_what_there_is_no_room_for_goes_to_the_disk(tmp_path, image, stored, monkeypatch):
    # As if each record took far more than was planned.
    monkeypatch.setattr(record, "OVERHEAD_BYTES", MIB)
    monkeypatch.setattr(holding, "room_for", lambda _, nbytes: nbytes)
    plan, report, started, made = run(tmp_path, image, threads=2, keep="memory")
    assert made == stored[3]
    packed, disk = report.tiers["packed"], report.tiers["disk"]
    assert disk.put == packed.spills > 0
    assert disk.hits > 0
    assert "moved to disk for want of room" in str(report)
    assert sum(not line.startswith("file") for line in started) == planned(plan)


def test_nothing_of_a_run_stays_in_this_process(tmp_path, image):
    run(tmp_path, image, threads=2)
    assert held.shared.held_bytes == 0
    assert not [n for n in held.shared._records if n.startswith(str(tmp_path))]


KILLED = """
import sys
from pathlib import Path
from tests.run import test_kept
test_kept.run(Path(sys.argv[1]), Path(sys.argv[2]), serial=True, keep=sys.argv[3])
"""


@pytest.mark.parametrize(("keep", "again"), [("memory", True), ("disk", False)])
def test_a_run_that_was_killed_makes_again_what_was_in_memory(tmp_path, image, stored, keep, again):
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(image), keep]
    killing = environment(LEPTON_TEST_KILL="wider")
    done = subprocess.run(words, env=killing, capture_output=True, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = (tmp_path / "started").read_text().splitlines()
    plan, _, started, made = run(tmp_path, image, serial=True, keep=keep)
    assert made == stored[3]
    more = sum(not line.startswith("file") for line in started) - planned(plan)
    assert len(before) < len(started)
    assert more > 1 if again else more <= 1  # the one that was killed


@pytest.mark.parametrize("room", [None, 20_000], ids=["as planned", "hardly any"])
def test_what_is_made_again_takes_no_more_memory_than_was_planned(
    tmp_path, image, stored, monkeypatch, room
):
    """Earlier stages run again while a later one keeps its own: together they have what one has."""
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(image), "memory"]
    killing = environment(LEPTON_TEST_KILL="wider")
    done = subprocess.run(words, env=killing, capture_output=True, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL, done.stderr
    shared, taken = [], []

    def sharing(plan, stage, now):
        found = beside_again(plan, stage, now) if room is None else (room, 0)
        shared.append((f"again1:{stage.name}", *found))
        return found

    def noting(program, *block):
        taken.append((program.stage.name, program.held.budget, program.cache_bytes))
        assert held.shared.held_bytes <= max(most for _, most, _ in taken)
        return run_block(program, *block)

    monkeypatch.setattr(stage_runner, "beside_again", sharing)
    monkeypatch.setattr(executors, "run_block", noting)
    plan, report, _, made = run(tmp_path, image, serial=True, keep="memory")
    assert made == stored[3]
    again = {t for t in taken if t[0].startswith("again")}
    assert again == set(shared)
    assert {t[0] for t in taken} - {t[0] for t in again} == {plan.stages[-1].name}
    assert ("disk" in report.tiers) == (room is not None)


def test_memory_of_the_process_is_what_was_planned(tmp_path):
    """Images that hardly pack fill what the plan has for them, and no more."""
    script = f"""
import json
import numpy as np
import lepton_pipe as lp
from lepton_pipe.kernels import mean

@lp.kernel(cost=200.0, scratch=4.0)
def dear(image):
    return image + np.float32(1)

@lp.pipeline
def flat(raw: lp.Image):
    light = dear(raw)
    return light - mean(light)

image = np.random.default_rng(0).integers(0, 300, (64, 512, 1024)).astype(np.float32)
np.save({str(tmp_path / "raw.npy")!r}, image)
del image
plan = flat.plan(raw={str(tmp_path / "raw.npy")!r}, out={str(tmp_path / "o")!r}, memory="700MiB",
                 threads=2, keep="memory")
assert plan.data.arrays["scratch/dear"].place == "memory"
report = plan.run(progress=False)
packed = report.tiers["packed"]
print(json.dumps([report.peak_bytes, report.planned_bytes, packed.nbytes, packed.hits]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak, planned, packed, hits = map(int, done.stdout.strip("[]\n").split(","))
    assert packed > 20 * MIB
    assert hits > 0
    assert peak <= planned <= 700 * MIB
    assert os.path.lexists(tmp_path / "o")
