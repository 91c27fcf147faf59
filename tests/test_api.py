"""Pipelines from Python: called, planned, run."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import (
    InputError,
    MemoryRefusedError,
    OutputExistsError,
    SpecError,
    UsageError,
)
from lepton_pipe.kernels import gaussian, maximum_of, mean, project, regionprops
from lepton_pipe.kernels import label as label_kernel
from lepton_pipe.store import open_source
from tests.run.five import picture

IMAGE = picture((30, 40), "uint16", 1)


@lp.pipeline
def smooth(raw: lp.Image, *, sigma: float = 1.0):
    """Smooth it."""
    return gaussian(raw, sigma=sigma)


@lp.pipeline
def everything(raw: lp.Image, *, sigma: float = 1.0):
    inner = smooth(raw, sigma=sigma)
    found = label_kernel(inner > mean(inner))
    return {"found": found, "table": regionprops(found, raw), "top": maximum_of(raw)}


def test_called_on_an_array_it_computes():
    np.testing.assert_array_equal(smooth(IMAGE, sigma=2.0), gaussian(IMAGE, sigma=2.0))
    results = everything(IMAGE)
    assert set(results) == {"found", "table", "top"}
    assert results["top"] == int(IMAGE.max())
    assert isinstance(results["top"], int)


def test_called_on_a_path_it_computes_too(tmp_path):
    np.save(tmp_path / "raw.npy", IMAGE)
    np.testing.assert_array_equal(smooth(tmp_path / "raw.npy"), smooth(IMAGE))


def test_run_gives_what_the_call_gives(tmp_path):
    report = everything.plan(raw=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    called = everything(IMAGE)
    source = open_source(report.path("found"))
    np.testing.assert_array_equal(source.read(source.type.grid.region), called["found"])
    assert report.values == {"top": called["top"]}
    assert report.outputs["table"]["rows"] == len(called["table"]["label"])


def test_a_plan_computes_and_writes_nothing(tmp_path):
    plan = everything.plan(raw=IMAGE, out=tmp_path / "o", memory="1GiB", workers=2, threads=3)
    assert list(tmp_path.iterdir()) == []
    planned = plan.to_json()
    assert json.loads(json.dumps(planned)) == planned
    assert planned["resources"]["workers"] == 2
    assert planned["resources"]["threads"] == 3
    assert planned["resources"]["memory"] == 2**30
    text = str(plan)
    for word in ("everything", "gaussian", "label", "regionprops", "peak memory", "2 x 3 threads"):
        assert word in text


def test_the_plan_of_a_run_can_be_compared_and_pickled(tmp_path):
    one, two = (smooth.plan(raw=IMAGE, out=tmp_path / "o", serial=True) for _ in range(2))
    assert one.to_json()["stages"] == two.to_json()["stages"]
    assert pickle.loads(pickle.dumps(one.data)).to_json() == one.data.to_json()  # noqa: S301


@pytest.mark.parametrize("memory", ["1GB", 10**9, "0.5 GiB"])
def test_memory_is_given_in_words_or_bytes(tmp_path, memory):
    plan = smooth.plan(raw=IMAGE, out=tmp_path / "o", memory=memory, workers=1)
    assert plan.data.resources.memory in (10**9, 2**29)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"memory": "much"}, UsageError, "'much'"),
        ({"memory": "-1GiB"}, (UsageError, MemoryRefusedError), "-1"),
        ({"memory": 0}, (UsageError, MemoryRefusedError), "0"),
        ({"memory": "nan"}, UsageError, "nan"),
        ({"workers": 0}, UsageError, "workers=0"),
        ({"threads": -1}, UsageError, "threads=-1"),
        ({"device": "tpu"}, UsageError, "tpu"),
        ({"sigma": "wide"}, SpecError, "sigma must be float"),
        ({"sgima": 1.0}, SpecError, "'sgima'"),
        ({"raw": "gone.npy"}, InputError, "gone.npy"),
        ({"raw": object()}, InputError, "object"),
        ({"raw": np.zeros((2, 2), complex)}, UsageError, "complex"),
        ({"raw": np.zeros((0, 5))}, InputError, "is empty"),
        ({"out": "https://host/o"}, UsageError, "nothing can be written"),
        ({"staging": "there"}, UsageError, "staging=there is for results at a URL"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(tmp_path, options, error, told):
    given = {"raw": IMAGE, "out": tmp_path / "o", **options}
    with pytest.raises(error, match=told):
        smooth.plan(**given)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_when_planned(tmp_path):
    with pytest.raises(OutputExistsError):
        smooth.plan(raw=IMAGE, out=tmp_path)


def test_names_of_options_cannot_be_parameters():
    with pytest.raises(UsageError, match="'memory' is the name of an option"):

        @lp.pipeline
        def greedy(raw: lp.Image, *, memory: int = 3):
            return raw


def test_axes_scale_and_unit_travel_to_the_output(tmp_path):
    @lp.pipeline
    def flat(raw: lp.Image):
        return {"flat": project(raw, "z"), "same": gaussian(raw, sigma=1)}

    image = picture((3, 20, 30), "uint8", 3)
    source = lp.open_image(image, axes="zyx", scale=[2.0, 0.5, 0.25], unit="micrometer")
    report = flat.plan(raw=source, out=tmp_path / "o", serial=True).run(progress=False)
    grid = open_source(report.path("flat")).type.grid
    assert (grid.axes, grid.scale) == (("y", "x"), (0.5, 0.25))
    assert grid.unit == ("micrometer", "micrometer")
    assert open_source(report.path("same")).type.grid == source.type.grid


def test_the_report_is_for_people_and_for_programs(tmp_path):
    report = everything.plan(raw=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    told = report.to_json()
    assert json.loads(json.dumps(told)) == told
    assert told["stages"]
    assert sum(s["blocks"] for s in told["stages"]) >= len(told["stages"])
    assert f"top: {IMAGE.max()}" in str(report)
    assert "labels 30 x 40 int32" in str(report)


def test_values_that_json_cannot_hold_are_written_as_text(tmp_path):
    @lp.pipeline
    def worst(raw: lp.Image):
        return {"top": maximum_of(raw), "middle": mean(raw)}

    image = np.full((8, 8), np.nan, np.float32)
    report = worst.plan(raw=image, out=tmp_path / "o", serial=True).run(progress=False)
    assert json.loads((tmp_path / "o" / "values.json").read_text()) == {
        "top": "nan",
        "middle": "nan",
    }
    json.dumps(report.to_json(), allow_nan=False)


def test_one_array_may_be_two_images(tmp_path):
    @lp.pipeline
    def both(a: lp.Image, b: lp.Image):
        return {"sum": a + b}

    report = both.plan(a=IMAGE, b=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    source = open_source(report.path("sum"))
    np.testing.assert_array_equal(source.read(source.type.grid.region), IMAGE + IMAGE)


def test_one_result_under_two_names(tmp_path):
    @lp.pipeline
    def twice(raw: lp.Image):
        one = gaussian(raw, sigma=1)
        return {"a": one, "b": one, "raw": raw}

    report = twice.plan(raw=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    read = {}
    for name in ("a", "b", "raw"):
        source = open_source(report.path(name))
        read[name] = source.read(source.type.grid.region)
    np.testing.assert_array_equal(read["a"], read["b"])
    np.testing.assert_array_equal(read["raw"], IMAGE)


def test_a_value_of_values_is_computed_once_and_used_by_a_later_stage(tmp_path):
    @lp.pipeline
    def scaled(raw: lp.Image):
        top = maximum_of(raw)
        half = top / 2
        return {"above": raw > half, "half": half, "most": maximum_of(raw * 1.0 - half)}

    report = scaled.plan(raw=IMAGE, out=tmp_path / "o", serial=True).run(progress=False)
    assert report.values["half"] == int(IMAGE.max()) / 2
    assert report.values["most"] == int(IMAGE.max()) / 2
    source = open_source(report.path("above"))
    half = IMAGE.max() / 2
    np.testing.assert_array_equal(source.read(source.type.grid.region), half < IMAGE)
