"""Rates of a machine: kept, blended, believed only when plausible; and kernels that are probed."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from threading import Thread

import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian
from lepton_pipe.plan import NOMINAL, Rates, baseline
from lepton_pipe.plan.rates import SCRATCH_MARGIN, rate_key
from lepton_pipe.report.report import Report, StageReport
from lepton_pipe.run.probe import probe, unknown_kernels
from lepton_pipe.run.rates import learn, machine_rates, rates_path, save
from lepton_pipe.spec import ImageType
from lepton_pipe.store import open_source
from lepton_pipe.worker.block import _is_warm
from lepton_pipe.worker.program import Spent, Stats

IMAGE = np.random.default_rng(0).integers(0, 1000, (40, 200, 210)).astype(np.uint16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@lp.kernel(depth=0, dtype="float64")
def greedy(block):
    """Take eight float64 copies at once."""
    copies = [block.astype(np.float64) + i for i in range(8)]
    return sum(copies) / len(copies)


@lp.kernel(depth=1, dtype="same", scratch=0.0, cost=1.0)
def told(block):
    """Say what it needs."""
    return block.copy()


@lp.pipeline
def uses_both(raw: lp.Image, *, offset: float = 0.0):
    """Use a kernel that says nothing of itself between two that do."""
    return {"out": gaussian(greedy(told(raw) + offset), 1)}


def bound(pipeline, image=IMAGE, **parameters):
    sources = {"raw": open_source(image)}

    def bind(types):
        return pipeline.bind(types, {"offset": 0.0, **parameters})

    return bind({n: s.type for n, s in sources.items()}), bind, sources


def test_only_kernels_that_declare_nothing_are_unknown():
    spec, _, _ = bound(uses_both)
    assert unknown_kernels(spec, NOMINAL) == {"greedy"}
    key = rate_key(spec, spec["greedy"])
    assert unknown_kernels(spec, replace(NOMINAL, scratch={key: 3.0})) == set()


def test_a_probe_measures_what_a_kernel_takes():
    spec, bind, sources = bound(uses_both)
    found = probe(spec, bind, sources, NOMINAL)
    (scratch,) = found.scratch.values()
    # Eight copies, and one more for the sum; the result itself is counted apart.
    assert 8 * 8 - 1 <= scratch <= 10 * 8
    assert found.notes == []
    rates = found.added_to(NOMINAL)
    step = rates.apply(spec)["greedy"]
    assert step.scratch == pytest.approx(scratch * SCRATCH_MARGIN)
    assert step.cost > 0
    assert rates.apply(spec)["told"] == spec["told"]


def test_a_kernel_is_probed_once_and_again_when_its_code_changes():
    spec, bind, sources = bound(uses_both)
    rates = probe(spec, bind, sources, NOMINAL).added_to(NOMINAL)
    assert probe(spec, bind, sources, rates).scratch == {}


@lp.kernel(depth=0, dtype="same")
def picky(block):
    """Fail on any part of an image."""
    raise RuntimeError(f"no such luck with {block.shape}")


def test_what_cannot_be_measured_is_told_and_planned_for_as_before():
    @lp.pipeline
    def fails(raw: lp.Image, *, offset: float = 0.0):
        return picky(raw) + offset

    spec, bind, sources = bound(fails)
    found = probe(spec, bind, sources, NOMINAL)
    assert found.scratch == {}
    assert "no such luck" in found.notes[0]


def test_the_plan_of_a_users_kernel_rests_on_the_probe(tmp_path):
    plan = uses_both.plan(raw=IMAGE, out=tmp_path / "out", memory="2GiB")
    assert machine_rates().scratch
    again = uses_both.plan(raw=IMAGE, out=tmp_path / "out", memory="2GiB")
    assert again.to_json() == plan.to_json()
    assert "greedy" in plan.explain()


def test_runs_are_learned_from(tmp_path):
    plan = uses_both.plan(raw=IMAGE, out=tmp_path / "out", serial=True)
    report = plan.run(progress=False)
    before = machine_rates()
    stage = report.stages[0]
    stage.stats.read_core_seconds, stage.stats.write_core_seconds = 3.0, 5.0
    stage.stats.steps["told"] = Spent(10.0, IMAGE.size)
    learn(plan.data, report)
    after = machine_rates()
    decoded = plan.data.stages[0].estimate.bytes_decoded
    slow = min(3e9 / decoded, 4 * NOMINAL.decode_ns)
    assert after.decode_ns == pytest.approx(0.7 * before.decode_ns + 0.3 * slow, rel=1e-3)
    assert after.encode_ns > before.encode_ns
    key = rate_key(plan.data.spec, plan.data.spec["told"])
    assert after.factors[key] == pytest.approx(0.7 + 0.3 * 4)


@lp.pipeline
def two_widths(raw: lp.Image):
    return {"narrow": gaussian(raw, 1), "wide": gaussian(raw, (0, 60, 60))}


def test_a_wide_filter_is_not_thought_as_slow_as_a_narrow_one(tmp_path):
    image = np.zeros((2, 250, 250), np.uint16)
    plan = two_widths.plan(raw=image, out=tmp_path / "out", serial=True)
    report = plan.run(progress=False)
    rates_path().unlink(missing_ok=True)  # it may have taken long enough to be learned from
    spec = plan.data.spec
    narrow, wide = (rate_key(spec, spec[s]) for s in ("gaussian", "gaussian_2"))
    for stage in report.stages:
        for name, spent in stage.stats.steps.items():
            took = 10.0 if name == "gaussian" else 0.0
            stage.stats.steps[name] = Spent(took, spent.voxels)
    learn(plan.data, report)
    factors = machine_rates().factors
    assert factors[narrow] == pytest.approx(0.7 + 0.3 * 4)
    assert wide not in factors
    again = machine_rates().apply(spec)
    assert again["gaussian"].cost == pytest.approx(1.9 * spec["gaussian"].declared)
    assert again["gaussian_2"].cost == spec["gaussian_2"].declared
    # What is learned of a plan that was made with rates is a share of what kernels declare.
    learn(two_widths.plan(raw=image, out=tmp_path / "other", serial=True).data, report)
    assert machine_rates().factors[narrow] == pytest.approx(0.7 * 1.9 + 0.3 * 4)


def test_a_thread_is_warm_for_the_dtypes_and_widths_that_it_has_met():
    def bound_to(dtype):
        return two_widths.bind({"raw": ImageType(Grid.of((2, 250, 250)), np.dtype(dtype))}, {})

    def first(spec, step):
        return not _is_warm(spec, [step])

    met = []
    thread = Thread(
        target=lambda: met.extend(
            first(bound_to(dtype), step)
            for dtype, step in [
                ("uint16", "gaussian"),
                ("uint16", "gaussian"),
                ("float32", "gaussian"),
                ("uint16", "gaussian_2"),
                ("uint16", "gaussian_2"),
            ]
        )
    )
    thread.start()
    thread.join()
    assert met == [True, False, True, True, False]


@lp.pipeline
def stored_again(raw: lp.Image):
    return {"out": raw}


def test_nothing_is_learned_of_decoding_from_chunks_that_are_copied(tmp_path):
    zarr.create_array(tmp_path / "raw.zarr", data=IMAGE, chunks=(20, 100, 105))
    plan = stored_again.plan(raw=tmp_path / "raw.zarr", out=tmp_path / "out", serial=True)
    (stage, *_) = (report := plan.run(progress=False)).stages
    before = machine_rates()
    stage.stats.read_core_seconds = 3.0  # of which writing is a part, where chunks are copied
    learn(plan.data, report)
    assert machine_rates() == before


@lp.pipeline
def uses_greedy(raw: lp.Image):
    return {"out": greedy(raw)}


def ran(tmp_path):
    """A plan of the kernel that says nothing of itself, and the report of a run that fitted."""
    plan = uses_greedy.plan(raw=IMAGE, out=tmp_path / "out", serial=True, overwrite=True)
    report = Report(tmp_path / "out", planned_bytes=plan.data.peak_bytes)
    report.stages = [StageReport(s.name, 1.0, Stats()) for s in plan.data.stages]
    return plan, replace(report, peak_bytes=plan.data.peak_bytes)


def test_what_a_probe_missed_is_added_when_a_run_outgrows_its_plan(tmp_path):
    plan, report = ran(tmp_path)
    (before,) = machine_rates().scratch.values()
    learn(plan.data, report)
    assert list(machine_rates().scratch.values()) == [before]
    (stage,) = plan.data.stages
    voxels = prod(stage.block) * stage.slots
    report.peak_bytes += 8 * voxels
    learn(plan.data, report)
    assert list(machine_rates().scratch.values()) == [pytest.approx(before + 8)]
    again, _ = ran(tmp_path)
    smaller = prod(again.data.stages[0].block) < prod(stage.block)
    assert smaller or again.data.peak_bytes >= report.peak_bytes
    report.peak_bytes += 2**40
    learn(plan.data, report)
    assert list(machine_rates().scratch.values()) == [pytest.approx(2 * (before + 8))]


def test_what_a_process_held_before_is_not_the_kernels(tmp_path):
    plan, report = ran(tmp_path)
    before = machine_rates().scratch
    own, arrays_of_the_user = baseline(plan.data.resources), 2**33
    report.peak_bytes += arrays_of_the_user
    learn(plan.data, report, own + arrays_of_the_user)
    assert machine_rates().scratch == before
    report.peak_bytes += 2**20
    learn(plan.data, report, own + arrays_of_the_user)
    assert machine_rates().scratch != before


def test_rates_survive_being_kept():
    rates = Rates(decode_ns=0.3, factors={"a": 2.0}, scratch={"b": 12.5})
    save(rates)
    assert machine_rates() == rates


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 99}',
        "[" * 100_000,
        '{"format": 1, "cpu": "another", "rates": {"decode_ns": 7.0}}',
    ],
)
def test_a_file_that_means_nothing_here_is_passed_over(text):
    rates_path().parent.mkdir(parents=True)
    rates_path().write_text(text)
    assert machine_rates() == NOMINAL


@pytest.mark.parametrize("value", ["7", None, -1.0, 1e12, {"x": 1.0}])
def test_rates_that_are_no_rates_are_passed_over(value):
    save(NOMINAL)
    data = json.loads(rates_path().read_text())
    data["rates"]["decode_ns"] = value
    rates_path().write_text(json.dumps(data))
    assert machine_rates() == NOMINAL


def test_without_a_place_to_keep_rates_plans_go_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    save(Rates(decode_ns=0.5))
    assert machine_rates() == NOMINAL


@lp.kernel(depth=0, dtype="float64")
def hungry(block, copies=1):
    """Take as many copies as it is told."""
    return sum([block.astype(np.float64) + i for i in range(copies)]) / copies


def test_a_kernel_is_measured_anew_for_other_parameters_and_dtypes():
    @lp.pipeline
    def uses(raw: lp.Image, *, offset: int = 1):
        return hungry(raw, offset)

    rates = NOMINAL
    measured = []
    for image, copies in ((IMAGE, 1), (IMAGE, 20), (IMAGE.astype(np.float32), 20)):
        spec, bind, sources = bound(uses, image, offset=copies)
        found = probe(spec, bind, sources, rates)
        measured += found.scratch.values()
        rates = found.added_to(rates)
    assert len(measured) == 3
    assert measured[1] > measured[0] + 8 * 10


def test_no_more_rates_are_kept_than_are_of_use():
    many = {f"kernel{i}": 1.0 for i in range(5000)}
    save(Rates(factors=many, scratch=many))
    kept = machine_rates()
    assert "kernel4999" in kept.scratch
    assert len(kept.scratch) == len(kept.factors) < 5000


def test_without_a_home_plans_go_on(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    save(Rates(decode_ns=0.5))
    assert machine_rates() == NOMINAL


def test_what_cannot_be_put_in_place_leaves_no_file_behind():
    rates_path().mkdir(parents=True)
    save(Rates(decode_ns=0.5))
    assert [p.name for p in rates_path().parent.iterdir()] == [rates_path().name]
