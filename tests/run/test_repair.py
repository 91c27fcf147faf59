"""A repaired result has the bytes it had, and nothing but the damaged blocks was computed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import RefusedError, RunError
from lepton_pipe.kernels import gaussian
from lepton_pipe.repair import repair
from lepton_pipe.run.hidden import _record_digest
from lepton_pipe.run.verify import verify
from tests.command import assert_refused, lepton
from tests.run.updated import Bench


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a bench with a result, which no test changes."""
    bench = Bench(tmp_path_factory.mktemp("made"))
    bench.run("objects", times=1.1)
    return bench


@pytest.fixture
def out(made, tmp_path):
    """A copy of the result."""
    (made.folder / "started").write_text("")
    return shutil.copytree(made.out, tmp_path / "o")


def contents(out):
    return {p.relative_to(out): p.read_bytes() for p in files(out)}


def files(out):
    return sorted(p for p in out.rglob("*") if p.is_file() and ".lepton" not in p.parts)


def chunk_of(out):
    """Return the file of a chunk."""
    return next(f for f in files(out) if "c" in f.parts)


def flip(file, seed=0):
    chosen, torn = random.Random(seed), bytearray(file.read_bytes())  # noqa: S311
    torn[chosen.randrange(len(torn))] ^= 1 << chosen.randrange(8)
    file.write_bytes(torn)


def repaired(out):
    said = []
    found = repair(out, say=said.append, progress=False)
    assert found.whole
    assert not found.leftover
    assert verify(out).whole
    assert not out.with_name(f".{out.name}.lepton").exists()
    return said


def test_every_kind_of_file_is_made_again(out):
    before = contents(out)
    chosen = [f for f in files(out) if f.name != "lepton.json"]
    kinds = {f.suffix or "chunk": f for f in chosen}
    assert {"chunk", ".json", ".parquet"} <= set(kinds)
    for i, file in enumerate(kinds.values()):
        flip(file, i)
    (out / "notes.txt").write_text("mine")
    repaired(out)
    assert contents(out) == {**before, Path("notes.txt"): b"mine"}


@pytest.mark.parametrize("damaged", [False, True])
def test_files_of_others_stay_and_what_a_killed_writer_left_goes(out, damaged):
    chunk = chunk_of(out)
    left = [chunk.with_name("777"), chunk.with_name(f"{chunk.name}.{'0f' * 16}.partial")]
    for place in (*left, out / "mine" / "a.md", out / "objects" / "b.md", chunk.with_name("c.md")):
        place.parent.mkdir(exist_ok=True)
        place.write_text(place.name)
    (out / "link").symlink_to(out.parent)
    before = {p: b for p, b in contents(out).items() if out / p not in left}
    if damaged:
        flip(chunk)
    said = "\n".join(repaired(out))
    assert contents(out) == before
    assert all(f"removed {p.relative_to(out)}" in said for p in left)
    theirs = ("link/", "mine/a.md", f"{chunk.relative_to(out).parent}/c.md", "objects/b.md")
    assert verify(out).extra == tuple(sorted(theirs))
    assert (out / "link").readlink() == out.parent


@pytest.mark.parametrize("how", ["missing", "torn"])
def test_the_record_is_put_back_as_it_was(out, made, how):
    before = contents(out)
    if how == "missing":
        (out / "lepton.json").unlink()
        assert verify(out).missing == ("lepton.json",)
    else:
        (out / "lepton.json").write_text("{")
    damage, told = repaired(out)
    assert "lepton.json" in damage
    assert told == "lepton.json is written again, from what .lepton/ has of it; nothing is run"
    assert contents(out) == before
    assert (made.folder / "started").read_text() == ""


def test_only_what_is_damaged_is_computed_and_it_is_told_what_is_run(out, made):
    chunk = chunk_of(out)
    chunk.unlink()
    said = "\n".join(repaired(out))
    started = (made.folder / "started").read_text().splitlines()
    assert f"{made.file}:objects" in said
    assert "missing: " in said
    assert sum(s.startswith("above ") for s in started) <= 2
    assert 0 < len(started) < 17


def test_what_is_whole_is_left_alone(out, made):
    (out / "notes.txt").write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in files(out) if p.name != "notes.txt"}
    assert repaired(out) == []
    assert {p: p.stat().st_mtime_ns for p in files(out) if p.name != "notes.txt"} == before
    assert (made.folder / "started").read_text() == ""


def test_a_repaired_version_is_told_from_the_damaged_one(out, tmp_path):
    shutil.copytree(out, tmp_path / "old")
    chunk_of(out).unlink()
    repaired(out)
    assert (out / "lepton.json").read_bytes() == (tmp_path / "old/lepton.json").read_bytes()
    assert _record_digest(out) != _record_digest(tmp_path / "old")


CHANGES = {
    "code": lambda b: b.edit("threshold * times", "threshold * times * 1"),
    "input": lambda b: b.change_chunk((0, 0, 0)),
    "no input": lambda b: shutil.rmtree(b.folder / "raw.zarr"),
    "no file": lambda b: b.file.unlink(),
}
SAID = {
    "code": "code of above has changed",
    "input": "input raw has changed",
    "no input": "raw.zarr",
    "no file": "mine.py",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_not_fit_the_rest_is_refused(tmp_path, change):
    bench = Bench(tmp_path)
    bench.run("objects")
    flip(chunk_of(bench.out))
    before = contents(bench.out)
    CHANGES[change](bench)
    bench.forget()
    with pytest.raises(RefusedError, match=SAID[change]):
        repair(bench.out, say=lambda _: None, progress=False)
    assert contents(bench.out) == before
    assert not (tmp_path / ".o.lepton").exists()


@lp.pipeline
def soft(raw: lp.Image):
    """Have a pipeline that no command line finds."""
    return gaussian(raw, sigma=1)


def test_a_pipeline_and_an_array_of_a_script_are_handed_in(tmp_path):
    image = np.arange(64 * 80, dtype=np.float32).reshape(64, 80)
    out = tmp_path / "o"
    soft.plan(raw=image, out=out, serial=True, chunks="y=32,x=40").run(progress=False)
    before = contents(out)
    chunk_of(out).unlink()
    with pytest.raises(RefusedError, match="Python script or notebook"):
        repair(out, say=lambda _: None)
    with pytest.raises(RefusedError, match="input raw was an array"):
        repair(out, pipeline=soft, say=lambda _: None)
    with pytest.raises(RefusedError, match="not what they were"):
        repair(out, pipeline=soft, images={"raw": image + 1}, say=lambda _: None)
    found = repair(out, pipeline=soft, images={"raw": image}, say=lambda _: None, progress=False)
    assert found.whole
    assert contents(out) == before


def test_a_kernel_that_gives_something_else_every_time_is_found_out(tmp_path):
    bench = Bench(tmp_path)
    bench.edit("np.asarray(weight", "np.asarray(np.random.default_rng().integers(60_000)")
    bench.run("sharpen")
    chunk_of(bench.out).unlink()
    bench.forget()
    with pytest.raises(RunError, match="other bytes"):
        repair(bench.out, say=lambda _: None, progress=False)
    assert verify(bench.out).missing


def test_the_command_line_repairs(made, out):
    before = contents(out)
    flip(chunk_of(out))
    assert lepton("verify", "o", cwd=out.parent).returncode == 2
    done = lepton("verify", "o", "--repair", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert f"{made.file}:objects" in done.stderr
    assert "whole" in done.stdout
    assert contents(out) == before
    assert_refused(lepton("verify", "nothing", "--repair", cwd=out.parent), 4, "no result")
