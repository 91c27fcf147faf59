"""The benchmarks measure what they say: results are right, wrong ones are found out, slow ones end.

Every workload's candidate of ours, and the limit written by hand, at a tiny size.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks import compare, data, machine, measure, report
from tests.benchmarks.arrays import create
from tests.benchmarks.candidate import Job
from tests.benchmarks.measure import Run, Runs
from tests.benchmarks.memory import MIB, Peak
from tests.benchmarks.sizes import SIZES
from tests.benchmarks.workloads import NAMES, load

TINY = SIZES["tiny"]
MINE = {"ours", "limit", "limit_on_disk"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


def _run(name: str, candidate: str, home: Path, out: Path) -> Job:
    job = Job.of("tiny", home, out)
    steps = load(name).candidates[candidate](job)
    next(steps)
    job.clock.start()
    next(steps, None)
    job.clock.stop()
    assert next(steps, None) is None
    assert job.clock.seconds > 0
    return job


@pytest.mark.parametrize("name", NAMES)
def test_ours_and_the_limit_agree_with_the_reference(
    name: str, folder: Path, tmp_path: Path
) -> None:
    workload = load(name)
    home = data.ensure(TINY, folder, workload.needs)
    want = Job.of("tiny", home, tmp_path / "reference")
    workload.reference(want)
    for candidate in MINE & workload.candidates.keys():
        got = _run(name, candidate, home, tmp_path / candidate / "result")
        assert workload.check(got, want) == [], candidate
        if name == "pyramid":  # rivals round as they like
            assert compare.images(got, want, "image", range(TINY.volume_levels), share=0) == []


def test_inputs_are_the_same_whenever_they_are_made(folder: Path, tmp_path: Path) -> None:
    first = data.ensure(TINY, folder, ("part",))
    again = data.ensure(TINY, tmp_path, ("part",))
    files = sorted(p.relative_to(first) for p in (first / "part.zarr").rglob("*") if p.is_file())
    assert len(files) > 4
    assert all((first / f).read_bytes() == (again / f).read_bytes() for f in files)


def _image(folder: Path, name: str, array: np.ndarray) -> Job:
    job = Job.of("tiny", folder, folder / name)
    create(job.image("image"), array.shape, (8, 8, 8), array.dtype)[...] = array
    return job


def test_grey_levels_that_differ_are_found(tmp_path: Path) -> None:
    values = np.arange(20 * 20 * 20, dtype=np.uint16).reshape(20, 20, 20)
    one, two, many = values.copy(), values.copy(), values.copy()
    one[19, 19, 19] += 1
    two[3, 4, 5] += 2
    many[:, :, 0] += 1
    want = _image(tmp_path, "want", values)
    assert compare.images(_image(tmp_path, "one", one), want, "image") == []
    assert (
        "by 1 at most" in compare.images(_image(tmp_path, "exact", one), want, "image", share=0)[0]
    )
    assert "by 2 at most" in compare.images(_image(tmp_path, "two", two), want, "image")[0]
    assert "400 of 8000" in compare.images(_image(tmp_path, "many", many), want, "image")[0]


def test_labels_may_be_renumbered_but_not_joined_or_cut(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.int32)
    labels[:8], labels[12:] = 1, 2
    cut = labels.copy()
    cut[12:, :10] = 3
    want = _image(tmp_path, "want", labels)
    renumbered = np.array([0, 7, 5], np.int32)[labels]
    assert compare.partition(_image(tmp_path, "new", renumbered), want, "image") == []
    assert compare.partition(_image(tmp_path, "joined", (labels > 0) * 1), want, "image")
    assert compare.partition(_image(tmp_path, "cut", cut), want, "image")
    assert compare.partition(_image(tmp_path, "none", 0 * labels), want, "image")


def _child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )


def _watched(code: str, limit: float, log: Path) -> Run:
    log.touch()
    process = _child(code)
    try:
        return measure.watch(process, limit, log)
    finally:
        measure.end(process)


READY = 'import time; print(\'{"event": "ready", "seconds": 0.5}\', flush=True)\n'
DONE = 'print(\'{"event": "done", "seconds": 0.25, "startup": 0.75}\', flush=True)\n'


def test_a_run_is_timed_by_what_it_says_and_weighed_from_outside(tmp_path: Path) -> None:
    code = READY + "held = bytearray(200_000_000); time.sleep(2)\n" + DONE
    run = _watched(code, 60, tmp_path / "log")
    assert (run.seconds, run.startup, run.failed) == (0.25, 0.75, "")
    assert 200e6 < run.peak_bytes < 300e6


def test_what_is_taken_for_a_moment_counts_and_what_follows_the_blocks_is_apart(
    tmp_path: Path,
) -> None:
    ended, peak = tmp_path / "ended", Peak()
    code = """
import sys
for mib in (80, 240):
    b"x" * (mib << 20)
    print(flush=True)
    sys.stdin.readline()
"""
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        for _ in range(2):
            child.stdout.readline()
            peak.look(child.pid, ended, closely=False)
            ended.touch()
            child.stdin.write(b"\n")
            child.stdin.flush()
    assert 80 * MIB < peak.computing < 160 * MIB
    assert 240 * MIB < peak.resident < 320 * MIB


def test_a_run_that_takes_too_long_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(str(child.pid))\n" + READY + "time.sleep(60)\n"
    )
    began = time.monotonic()
    run = _watched(code, 0.3, tmp_path / "log")
    assert run.seconds is None
    assert run.failed == "over 0 s"
    assert time.monotonic() - began < 30
    assert measure.tree_bytes(int(pids.read_text())) == 0


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Traceback\n  ...\nValueError: no such thing\nleft over\n")
    run = _watched("raise SystemExit(1)", 60, log)
    assert run.failed == "failed: ValueError: no such thing"


def test_the_table_gives_ratios_and_says_what_is_wrong(tmp_path: Path) -> None:
    def runs(*seconds: float, wrong: tuple[str, ...] = ()) -> Runs:
        return Runs([Run(s, 1.0, 10**8) for s in seconds], list(wrong))

    results = {
        "smooth": {
            "ours": runs(2.0, 4.0, 3.0),
            "limit": runs(2.0, 2.0, 2.0),
            "dask_array": runs(30.0, wrong=("one voxel",)),
            "block_loop": Runs([Run(failed="over 600 s", peak_bytes=10**8)]),
        }
    }
    settings = {"repeats": 3, "slow": 12.0, "limit": 600.0}
    made = report.to_json(TINY, settings, results)
    table = report.markdown(made)
    assert "| **ours** | 3.00 | 1.00 | 1.50 | 1.0 | 100 | right |" in table
    assert "| dask_array | 30.00* | 10.00 | 15.00 | 1.0 | 100 | WRONG: one voxel |" in table
    assert "| block_loop | over 600 s |  |  |  | 100 | none |" in table


def test_a_table_keeps_what_was_measured_before_of_other_workloads(tmp_path: Path) -> None:
    def made(name: str, seconds: float, **settings: float) -> dict[str, Any]:
        runs = {"ours": Runs([Run(seconds, 1.0, 10**8)])}
        return report.to_json(TINY, {"repeats": 3, "slow": 5.0, **settings}, {name: runs})

    assert report.load(tmp_path, TINY) == {}
    report.save(report.added({}, made("smooth", 2.0)), tmp_path)
    report.save(report.added(report.load(tmp_path, TINY), made("pyramid", 1.0)), tmp_path)
    report.save(report.added(report.load(tmp_path, TINY), made("smooth", 3.0)), tmp_path)
    found = report.load(tmp_path, TINY)["workloads"]
    seconds = {n: w["candidates"]["ours"]["seconds"] for n, w in found.items()}
    assert seconds == {"smooth": 3.0, "pyramid": 1.0}
    with pytest.raises(ValueError, match="settings"):
        report.added(report.load(tmp_path, TINY), made("table", 1.0, slow=9.0))


def test_the_machine_is_described_without_names_and_paths() -> None:
    found = machine.facts()
    assert found["cores"] >= 1
    assert found["libraries"]["numpy"] == np.__version__
    assert "/" not in machine.sentence(found)
