"""Recipes: what makes a stage's blocks what they are, whatever things are called."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.projection import project
from lepton_pipe.kernels.reductions import mean
from lepton_pipe.ledger import keys_recipe
from lepton_pipe.ledger.keys import KEY_BYTES, library_versions, recipe
from lepton_pipe.plan import Resources
from lepton_pipe.spec import ImageType
from tests.ledger.keys_cases import GIB, planned

PLANE = ImageType(Grid.of((40, 48)), np.dtype("u2"))
OTHER = ImageType(Grid.of((30, 48)), np.dtype("u2"))
TILES = {"y": 8, "x": 8}


def smooth(raw: lp.Image, *, sigma: float = 1.0) -> dict[str, lp.Node]:
    return {"out": gaussian(raw, sigma)}


def plan_of(pipeline=smooth, types=None, tiling=TILES, chunks=(8, 8), **parameters):
    return planned(pipeline, types or {"raw": PLANE}, chunks, None, tiling, **parameters)


def only(plan, array="out"):
    """The recipe of the stage that writes an array."""
    (stage,) = (s for s in plan.stages if any(w.array == array for w in s.writes))
    return recipe(plan, stage)


def test_it_is_short_and_the_same_again():
    assert len(only(plan_of())) == KEY_BYTES
    assert only(plan_of()) == only(plan_of())


def test_steps_elsewhere_that_take_the_names():
    def more(first: lp.Image, raw: lp.Image):
        return {"before": gaussian(first, 2.0) - 1, "out": gaussian(raw, 1.0)}

    plan = plan_of(more, {"first": OTHER, "raw": PLANE})
    assert plan.spec.outputs["out"] == "gaussian_2"
    assert only(plan) == only(plan_of())


def test_names_of_inputs_and_parameters():
    def renamed(image: lp.Image, *, width: float = 1.0):
        return {"out": gaussian(image, width)}

    assert only(plan_of(renamed, {"image": PLANE})) == only(plan_of())


def test_which_step_reads_which_image():
    def apart(a: lp.Image, b: lp.Image):
        return {"out": a - gaussian(b, 1.0)}

    def exchanged(a: lp.Image, b: lp.Image):
        return {"out": b - gaussian(a, 1.0)}

    types = {"a": PLANE, "b": PLANE}
    assert only(plan_of(apart, types)) != only(plan_of(exchanged, types))


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(sigma=2.0),
        plan_of(tiling={"y": 8, "x": 16}),
        plan_of(types={"raw": ImageType(PLANE.grid, np.dtype("u1"))}),
        plan_of(types={"raw": ImageType(Grid.of((40, 48), scale=(2, 1)), PLANE.dtype)}),
        replace(plan_of(), resources=Resources(GIB, 0, 1, "gpu")),
    ],
    ids=["parameter", "blocks", "dtype", "voxel size", "device"],
)
def test_what_makes_other_bytes(plan):
    assert only(plan) != only(plan_of())


def test_a_wider_overlap_under_the_same_version():
    def reaching(depth):
        @lp.kernel(depth=depth, version="mine")
        def same(block):
            return block

        def pipeline(raw: lp.Image):
            return {"out": same(raw)}

        return only(plan_of(pipeline))

    assert reaching(1) == reaching(1)
    assert reaching(1) != reaching(2)


def test_how_results_are_stored():
    plan = plan_of()
    (array,) = plan.arrays.values()
    (level,) = array.levels
    before, found = only(plan), set()
    for other in (
        replace(array, levels=(replace(level, chunks=(4, 8)),)),
        replace(array, levels=(replace(level, shards=(8, 8)),)),
        replace(array, output=False),
    ):
        found.add(only(replace(plan, arrays={"out": other})))
    assert len(found | {before}) == 4
    stage = plan.stages[0]
    assert recipe(plan, stage, {("out", 0)}) != before
    assert recipe(plan, stage, {("out", 1), ("other", 0)}) == before


def test_slabs():
    def flat(raw: lp.Image):
        return {"out": project(raw, "z", "mean")}

    deep = ImageType(Grid.of((12, 40, 48)), np.dtype("u2"))
    plan = plan_of(flat, {"raw": deep}, chunks=(4, 8, 8))
    (stage,) = (s for s in plan.stages if s.sweep)
    thicker = replace(stage, sweep=replace(stage.sweep, thickness=stage.sweep.thickness + 1))
    assert recipe(plan, stage) != recipe(plan, thicker)


def test_partials_have_the_names_of_their_steps():
    """They are looked up by them when a block is not run again."""

    def one(raw: lp.Image):
        return {"out": mean(raw + 1)}

    def second(first: lp.Image, raw: lp.Image):
        return {"before": mean(first), "out": mean(raw + 1)}

    plan = plan_of(one)
    more = plan_of(second, {"first": OTHER, "raw": PLANE})
    (stage,) = plan.stages
    (same,) = (s for s in more.stages if s.grid.shape == PLANE.grid.shape)
    assert same.reduces != stage.reduces
    assert recipe(plan, stage) != recipe(more, same)


def test_versions_of_libraries(monkeypatch):
    before = only(plan_of())
    found = library_versions()
    assert found["numpy"] == np.__version__
    assert found["scipy"]
    assert set(found) < set(library_versions("gpu"))
    monkeypatch.setattr(keys_recipe, "library_versions", lambda device: {**found, "scipy": "0.0"})
    assert only(plan_of()) != before


def test_versions_are_those_of_the_metadata():
    found = library_versions()
    assert set(found) == set(keys_recipe.LIBRARIES)
    for name, told in found.items():
        try:
            expected = metadata.version(name)
        except metadata.PackageNotFoundError:
            expected = ""
        assert told == expected, name
