"""An update has the bytes of a fresh run, and computes what has changed and nothing else."""

from __future__ import annotations

import errno
import os
import random
import shutil

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import KernelError, OutputExistsError, RefusedError, UsageError
from lepton_pipe.kernels import label
from lepton_pipe.run.verify import verify
from tests.command import assert_refused, lepton, names
from tests.run.five import fingerprints
from tests.run.updated import CHUNKS, Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def updated(bench, pipeline, **words):
    """Update, compare with a fresh run, and return the blocks that were started."""
    expected = bench.plan(pipeline, update=True, **words).changes
    started = bench.run(pipeline, update=True, **words)
    assert expected is None or is_as_expected(expected, started)
    made, all_started = bench.fresh(pipeline, **words)
    assert fingerprints(bench.out) == made
    assert verify(bench.out).whole
    assert set(started) <= set(all_started)
    assert len(started) == len(set(started))
    assert not os.path.lexists(bench.folder / ".o.lepton")
    return started


def is_as_expected(changes, started):
    """Tell whether the blocks were started that the plan had announced."""
    for stage in changes.stages:
        kernel = stage.name.split("+")[0]
        most, exact = stage.computed + stage.again, stage.exact and stage.again_exact
        number = count(set(started), kernel)
        if kernel in ("slow", "above", "less") and (number > most or (exact and number < most)):
            raise AssertionError(f"{number} of {kernel} were started: {changes}")
    return changes.same is (not started) or not changes.same


def count(started, kernel):
    return sum(s.startswith(kernel + " ") for s in started)


CHANGES = ("plus", "times", "size", "chunk", "slow", "above", "nothing")


def chunks(image):
    """Return the files of the chunks of an image."""
    return sorted(p for p in image.glob("0/c/**/*") if p.is_file())


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_changes_gives_what_a_fresh_run_gives(bench, seed):
    chosen, words = random.Random(seed), {}  # noqa: S311
    bench.run("objects")
    for change in chosen.choices(CHANGES, k=3):
        if change in ("plus", "times", "size"):
            words[change] = chosen.randrange(1, 5)
        elif change == "chunk":
            bench.change_chunk((chosen.randrange(2), chosen.randrange(4), chosen.randrange(4)))
        elif change == "slow":
            bench.edit("plus + 0", f"plus + 0 + {chosen.randrange(3)}")
        elif change == "above":
            bench.edit("threshold * times", "threshold * times * 1")
        updated(bench, "objects", **words)


def test_nothing_is_done_where_nothing_changed(bench):
    bench.run("objects")
    before = {p: p.stat().st_mtime_ns for p in bench.folder.rglob("o/**/*")}
    plan = bench.plan("objects", update=True)
    assert plan.changes.same
    assert "nothing has changed" in str(plan)
    report = plan.run(progress=False)
    assert report.unchanged
    assert report.path("objects") == bench.out / "objects"
    assert set(report.outputs) == {"objects", "table", "level"}
    assert report.values["level"] > 0
    assert {p: p.stat().st_mtime_ns for p in bench.folder.rglob("o/**/*")} == before


def test_what_a_run_for_something_else_left_is_removed_where_nothing_changed(bench):
    bench.run("objects")
    bench.edit("return block > threshold", "raise ValueError\n    return block > threshold")
    with pytest.raises(KernelError):
        bench.run("objects", update=True)
    assert os.path.lexists(bench.folder / ".o.lepton")
    bench.edit("raise ValueError\n    ", "")
    assert updated(bench, "objects") == []


def test_a_plan_that_was_made_a_while_ago_looks_again(bench):
    bench.run("sharpen")
    plan = bench.plan("sharpen", update=True)
    assert plan.changes.same
    bench.change_chunk((0, 0, 0))
    assert not bench.plan("sharpen", update=True).changes.same
    assert not plan.run(progress=False).unchanged


WHY = {
    "times": ({"times": 3}, "times of above is 3.0, was 1.0", "depends on label_join"),
    "plus": ({"plus": 2}, "plus of slow is 2, was 1", "depends on otsu_of"),
    "chunk": ({}, "slow+integer_counts: 1 of 9 blocks", "input raw has changed"),
    "code": ({}, "the code of above has changed", "9 again, for what was stored on the way"),
    "chunks": ({"chunks": "z=16,y=40,x=40"}, "stored, in another way", "0 of 9 blocks"),
}


@pytest.mark.parametrize("change", WHY)
def test_the_plan_says_why(bench, change):
    bench.run("objects")
    words, *why = WHY[change]
    if change == "chunk":
        bench.change_chunk((0, 0, 0))
    elif change == "code":
        bench.edit("threshold * times", "threshold * times * 1")
    plan = bench.plan("objects", update=True, **words)
    for text in why:
        assert text in str(plan), str(plan)
    assert plan.to_json()["update"]["same"] is False
    assert not (bench.folder / ".o.lepton").exists()


@lp.pipeline
def parts(raw: lp.Image):
    """Have a stage that is called as the value is that it gives."""
    return label(raw)


def test_what_it_depends_on_is_named_once_and_one_block_is(tmp_path):
    for edge in (True, False):
        image = np.ones((40, 50), bool)
        image[3] = edge
        np.save(tmp_path / "raw.npy", image)
        plan = parts.plan(raw=tmp_path / "raw.npy", out=tmp_path / "o", update=True, serial=True)
        told = str(plan.changes)
        plan.run(progress=False)
    assert "update: at most 2 of 2 blocks are to be computed" in told
    assert "label_apply: at most 1 of 1 block (depends on label_join)" in told


def test_a_parameter_leaves_what_comes_before_it(bench):
    bench.edit('return {"objects"', 'return {"light": light, "objects"')
    all_started = bench.run("objects")
    started = updated(bench, "objects", times=2)
    assert count(started, "slow") == 0
    assert count(started, "above") == count(all_started, "above") > 4


def test_scratch_that_is_gone_is_made_again_for_who_needs_it(bench):
    all_started = bench.run("objects")
    assert sorted(updated(bench, "objects", times=2)) == sorted(all_started)


def test_an_input_chunk_is_read_by_its_block_and_neighbours_alone(bench):
    all_started = bench.run("sharpen")
    bench.change_chunk((0, 0, 0))
    started = updated(bench, "sharpen")
    starts = [tuple(map(int, s.split(" ")[1].split("_"))) for s in started]
    assert 0 < len(started) < len(all_started)
    # One voxel of overlap beyond the chunk.
    assert all(i <= n for start in starts for i, n in zip(start, CHUNKS, strict=True))


def test_only_the_scratch_that_is_read_again_is_made_again(bench):
    all_started = bench.run("columns")
    chunks(bench.out / "less")[0].unlink()
    started = updated(bench, "columns")
    assert count(started, "less") == count(started, "slow") == 1
    assert 0 < count(started, "sharp") < count(all_started, "sharp")


def test_code_that_nothing_uses_changes_nothing(bench):
    bench.run("sharpen")
    bench.edit("threshold * times", "threshold * times * 2")
    assert updated(bench, "sharpen") == []
    bench.edit("np.roll(block, 1, 0)", "np.roll(block, 2, 0)")
    assert updated(bench, "sharpen")


@pytest.mark.parametrize("way", ["torn", "missing", "link"])
def test_what_was_damaged_since_is_not_taken_over(bench, way):
    bench.run("sharpen")
    file = chunks(bench.out / "sharpen")[5]
    whole = file.read_bytes()
    file.unlink()
    if way == "torn":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif way == "link":
        (bench.folder / "elsewhere").write_bytes(whole)
        file.symlink_to(bench.folder / "elsewhere")
    assert len(updated(bench, "sharpen")) == 1
    assert not file.is_symlink()


def test_a_partial_that_was_damaged_since_is_computed_again(bench):
    bench.run("objects")
    for file in bench.out.glob(".lepton/journal/000/*"):
        torn = bytearray(file.read_bytes())
        torn[len(torn) // 2] ^= 1
        file.write_bytes(torn)
    assert count(updated(bench, "objects", times=2), "slow") > 0


def test_the_old_version_keeps_its_bytes_where_files_are_shared(bench):
    bench.run("sharpen")
    old = bench.folder / "old"
    shutil.copytree(bench.out, old, copy_function=os.link)
    before = fingerprints(old)
    for place in ((0, 0, 0), (1, 2, 3)):
        bench.change_chunk(place)
        updated(bench, "sharpen")
    assert fingerprints(old) == before
    shared = [p for p in chunks(bench.out / "sharpen") if p.stat().st_nlink > 1]
    assert shared


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_files_are_copied_where_the_system_has_no_links(bench, monkeypatch, code):
    def refused(*_, **__):
        raise OSError(code, "no links")

    bench.run("sharpen")
    monkeypatch.setattr("lepton_pipe.run.published._linked", refused)
    bench.change_chunk((1, 1, 1))
    assert 0 < len(updated(bench, "sharpen")) < 32
    bench.change_chunk((1, 1, 1))
    file = chunks(bench.out / "sharpen")[0]
    times = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    updated(bench, "sharpen")  # what is copied is compared


def test_without_an_output_it_is_just_a_run(bench):
    assert len(updated(bench, "sharpen")) > 4


def test_stages_are_told_by_what_they_do_and_not_by_their_numbers(bench):
    bench.run("columns")
    bench.edit(", floor)}", ', floor), "level": otsu(raw)}')
    assert updated(bench, "columns") == []


def test_what_cannot_be_updated_is_refused(bench):
    bench.run("sharpen")
    with pytest.raises(OutputExistsError, match="--update"):
        bench.plan("sharpen")
    with pytest.raises(UsageError, match="overwrite and update"):
        bench.plan("sharpen", update=True, overwrite=True)
    (bench.out / ".lepton/ledger.sqlite").write_bytes(b"nothing")
    with pytest.raises(RefusedError, match="--overwrite"):
        bench.run("sharpen", update=True)
    shutil.rmtree(bench.out / ".lepton")
    with pytest.raises(RefusedError, match="--overwrite"):
        bench.plan("sharpen", update=True)
    (bench.out / "lepton.json").unlink()
    with pytest.raises(RefusedError, match="not made by lepton_pipe"):
        bench.plan("sharpen", update=True)


def test_the_command_line_updates(bench):
    words = ("mine.py:sharpen", "raw=raw.zarr", "out=o", "--serial", "--memory", "700MiB")
    assert lepton("run", *words, cwd=bench.folder).returncode == 0
    both = lepton("run", *words, "--update", "--overwrite", cwd=bench.folder)
    assert_refused(both, 1, "overwrite and update")
    done = lepton("run", *words, "--update", "--weight", "3", cwd=bench.folder)
    assert done.returncode == 0, done.stderr
    assert names(bench.folder) >= {"o"}
