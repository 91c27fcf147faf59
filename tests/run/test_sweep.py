"""A sweep publishes what its variants publish alone, computes once what they share, and goes on."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import InputError
from lepton_pipe.kernels import gaussian, label, mean, otsu, regionprops
from lepton_pipe.repair import repair
from lepton_pipe.run.verify import verify
from lepton_pipe.spec import variants
from tests.command import lepton, names
from tests.run.five import fingerprints, picture

USER = Path(__file__).parents[1] / "faults" / "pipelines_of_a_user.py"
CHUNKS = (8, 40, 40)
HOW = {"serial": True, "memory": "700MiB", "chunks": "z=8,y=40,x=40"}
# Counting is no part of what kernels do: they have a version, or each call would change them.
CALLS: Counter[str] = Counter()


@lp.kernel(scratch=4000.0, cost=5000.0, version="1")
def slow(block, place, plus=1):
    """Cost so much that what follows is stored."""
    CALLS[f"slow {plus} {place.write.start}"] += 1
    return block + np.asarray(plus, block.dtype)


@lp.kernel(scratch=4000.0, dtype="bool", depth=1, version="1")
def above(block, threshold, place, times=1.0):
    """Compare with a threshold."""
    CALLS[f"above {times} {place.write.start}"] += 1
    return block > threshold * times


@lp.pipeline
def objects(raw: lp.Image, *, plus: int = 1, times: float = 1.0, size: int = 3):
    """Find objects above a threshold of the whole image."""
    light = slow(raw, plus=plus)
    labels = label(above(light, otsu(light), times=times), min_size=size)
    return {"objects": labels, "table": regionprops(labels, raw), "level": otsu(light)}


@lp.pipeline
def smooth(raw: lp.Image, *, sigma: float = 1.0) -> lp.Node:
    return gaussian(raw, sigma=sigma)


@pytest.fixture
def raw(tmp_path):
    """The path of an image of eight chunks."""
    image = picture((16, 80, 80), "uint16", 3) // 2
    zarr.create_array(str(tmp_path / "raw.zarr"), data=image, chunks=CHUNKS)
    return tmp_path / "raw.zarr"


def run(pipeline, raw, out, **more):
    """Run, and return the report and how often each block was computed."""
    CALLS.clear()
    report = pipeline.plan(raw=raw, out=out, **{**HOW, **more}).run(progress=False)
    return report, Counter(CALLS)


def chunks(folder):
    """Return the sums of the files of chunks of a folder."""
    return {n: v for n, v in fingerprints(folder).items() if "/c/" in n}


def described_in(folder):
    """Return the metadata of all images in a folder."""
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("zarr.json")}


def a_chunk(image):
    return next(f for f in (image / "0/c").rglob("*") if f.is_file())


def kinds(calls):
    """Return how many blocks there were of each kernel and parameter."""
    return Counter(" ".join(call.split(" ")[:2]) for call in calls.elements())


def test_every_variant_has_the_bytes_it_has_alone(raw, tmp_path):
    swept = objects.sweep(plus=[1, 7], times=[0.9, 1.1])
    report, calls = run(swept, raw, tmp_path / "o")
    assert verify(tmp_path / "o").whole
    for variant, chosen in variants(swept.swept).items():
        alone, once = run(objects, raw, tmp_path / variant, **chosen)
        assert chunks(tmp_path / "o" / variant) == chunks(tmp_path / variant)
        described = [described_in(tmp_path / "o" / variant), described_in(tmp_path / variant)]
        assert described[0] == described[1]
        assert described[0]
        tables = [pq.read_table(f / "table.parquet") for f in (tmp_path / "o" / variant, alone.out)]
        assert tables[0].equals(tables[1])
        assert report.values[f"{variant}/level"] == alone.values["level"]
        values = [(f / "values.json").read_text() for f in (tmp_path / "o" / variant, alone.out)]
        assert values[0] == values[1]
    assert kinds(calls)["slow 1"] == kinds(calls)["slow 7"] == kinds(once)["slow 7"]


def test_what_variants_share_is_computed_once(raw, tmp_path):
    one, once = run(objects, raw, tmp_path / "one")
    many, calls = run(objects.sweep(size=[0, 3, 9, 27]), raw, tmp_path / "many")
    assert calls == once
    assert len(many.stages) <= len(one.stages) + 1
    assert many.stages[0].stats.bytes_read == one.stages[0].stats.bytes_read
    _, calls = run(objects.sweep(times=[0.9, 1.0, 1.1]), raw, tmp_path / "more")
    assert kinds(calls)["slow 1"] == kinds(once)["slow 1"]
    assert kinds(calls)["above 0.9"] == kinds(once)["above 1.0"]


def test_the_input_is_read_once_where_only_that_is_shared(raw, tmp_path):
    swept = smooth.sweep(sigma=[0.5, 1, 2])
    report, _ = run(swept, raw, tmp_path / "o", levels=1)
    widest, _ = run(smooth, raw, tmp_path / "one", levels=1, sigma=2.0)
    assert len(report.stages) == len(widest.stages) == 1
    assert report.stages[0].stats.bytes_read == widest.stages[0].stats.bytes_read
    assert report.stages[0].stats.bytes_written == 3 * widest.stages[0].stats.bytes_written


def test_a_cluster_publishes_the_same_bytes(raw, tmp_path):
    swept = smooth.sweep(sigma=[1, 2])
    run(swept, raw, tmp_path / "serial")
    run(swept, raw, tmp_path / "dask", serial=False, workers=1, threads=2, memory="1GiB")
    assert chunks(tmp_path / "serial") == chunks(tmp_path / "dask")


def test_variants_are_listed_beside_each_other(raw, tmp_path):
    report, _ = run(objects.sweep(times=[0.9, 1.1], size=[3]), raw, tmp_path / "o")
    listed = json.loads((tmp_path / "o" / "sweep.json").read_text())
    rows = [report.outputs[f"times={t},size=3/table"]["rows"] for t in (0.9, 1.1)]
    assert [(r["folder"], r["times"], r["size"], r["table_rows"]) for r in listed] == [
        ("times=0.9,size=3", 0.9, 3, rows[0]),
        ("times=1.1,size=3", 1.1, 3, rows[1]),
    ]
    assert listed[0]["level"] == report.values["times=0.9,size=3/level"]
    told = str(report)
    assert "2 folders, in each" in told
    assert "objects: labels 16 x 80 x 80 int32 in objects/" in told
    for variant, number in zip(("times=0.9,size=3", "times=1.1,size=3"), rows, strict=True):
        (line,) = [text for text in told.splitlines() if text.strip().startswith(variant)]
        assert f"{number} rows" in line


def test_a_result_of_the_name_of_a_parameter_stands_beside_it(raw, tmp_path):
    @lp.pipeline
    def level(raw: lp.Image, *, level: float = 1.0):
        return {"level": mean(raw * level)}

    run(level.sweep(level=[1, 2]), raw, tmp_path / "o", chunks=None)
    first, second = json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert (first["level"], second["level"]) == (1.0, 2.0)
    assert second["level_found"] == pytest.approx(2 * first["level_found"])


def test_the_image_of_a_variant_is_an_input_like_any_other(raw, tmp_path):
    out = tmp_path / "o"
    run(smooth.sweep(sigma=[1, 2]), raw, out)
    report, _ = run(smooth, out / "sigma=2" / "smooth", tmp_path / "again")
    assert report.outputs["smooth"]["shape"] == [16, 80, 80]
    for folder in (out, out / "sigma=2"):
        with pytest.raises(InputError, match=r"the result of a run; name one.*sigma=2/smooth"):
            lp.open_image(folder)
    a_chunk(out / "sigma=2/smooth").unlink()
    with pytest.raises(InputError, match="All were written when this result was made"):
        smooth.plan(raw=out / "sigma=2" / "smooth", out=tmp_path / "more")


def test_an_update_with_one_value_more_computes_that_alone(raw, tmp_path):
    out = tmp_path / "o"
    run(objects.sweep(plus=[1, 7]), raw, out)
    before = chunks(out)
    plan = objects.sweep(plus=[1, 7, 9]).plan(raw=raw, out=out, update=True, **HOW)
    assert not any(s.computed for s in plan.changes.stages if "plus=9" not in s.name)
    CALLS.clear()
    plan.run(progress=False)
    assert set(kinds(CALLS)) == {"slow 9", "above 1.0"}
    assert verify(out).whole
    assert before.items() <= chunks(out).items()
    run(objects.sweep(plus=[1, 7, 9]), raw, tmp_path / "fresh")
    assert chunks(out) == chunks(tmp_path / "fresh")
    again = objects.sweep(plus=[1, 7, 9]).plan(raw=raw, out=out, update=True, **HOW)
    assert again.changes.same


def test_an_update_with_one_value_less_removes_it(raw, tmp_path):
    out = tmp_path / "o"
    run(objects.sweep(plus=[1, 7]), raw, out)
    run(objects.sweep(plus=[7]), raw, out, update=True)
    assert names(out) == {"plus=7", "sweep.json", "lepton.json", ".lepton"}
    assert verify(out).whole
    assert not verify(out).extra


def test_what_is_damaged_is_made_again(raw, tmp_path):
    out, swept = tmp_path / "o", objects.sweep(times=[1.1, 0.9], size=[9, 3])
    run(swept, raw, out)
    before = fingerprints(out)
    a_chunk(out / "times=1.1,size=3/objects").unlink()
    (out / "times=0.9,size=9/table.parquet").unlink()
    (out / "sweep.json").write_text("[]")
    found = repair(out, pipeline=objects, say=lambda _: None, progress=False)
    assert found.whole
    assert fingerprints(out) == before


def test_a_sweep_that_was_killed_goes_on(raw, tmp_path):
    words = ("sweep", f"{USER}:objects", f"raw={raw}", "--plus", "1,7", "--serial")
    notes = {name: tmp_path / name for name in ("killed", "golden")}
    for folder in notes.values():
        folder.mkdir()
    env = {n: {"LEPTON_TEST_BLOCKS": str(f)} for n, f in notes.items()}
    golden = lepton(*words, f"out={tmp_path / 'g'}", cwd=tmp_path, **env["golden"])
    assert golden.returncode == 0, golden.stderr
    out = tmp_path / "o"
    killed = lepton(
        *words, f"out={out}", cwd=tmp_path, **env["killed"], LEPTON_TEST_KILL_WORKER="3"
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    again = lepton(*words, f"out={out}", cwd=tmp_path, **env["killed"])
    assert again.returncode == 0, again.stderr
    assert fingerprints(out) == fingerprints(tmp_path / "g")
    started = (notes["killed"] / "started").read_text().splitlines()
    once = (notes["golden"] / "started").read_text().splitlines()
    # A block is noted by each of the two variants in it.
    assert len(started) - len(once) <= 2


def test_two_pipelines_over_one_input_are_a_pipeline_of_both(raw, tmp_path):
    @lp.pipeline
    def both(raw: lp.Image):
        return {
            "soft": smooth(raw, sigma=2.0),
            "found": objects(raw),
            "twice": {"found": objects(raw)["objects"]},
        }

    report, calls = run(both, raw, tmp_path / "o")
    assert set(calls.values()) == {1}
    assert names(tmp_path / "o") >= {"soft", "found", "twice"}
    assert (tmp_path / "o/found/values.json").is_file()
    assert not (tmp_path / "o/sweep.json").exists()
    assert "found/table: " in str(report)
    assert "in found/table.parquet" in str(report)
    assert verify(tmp_path / "o").whole
