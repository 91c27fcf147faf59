"""Which steps a filter does along with its own, and that the bits are the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.check import run_in_blocks
from lepton_pipe.compiled.separable import fits
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import astype, clip, flatfield, gaussian, mean, uniform
from lepton_pipe.kernels.correlation import fits_around
from lepton_pipe.plan import InputInfo, Resources, fusion, make_plan
from lepton_pipe.plan.absorb import Group, absorbing_groups
from lepton_pipe.spec import ImageType
from lepton_pipe.store import open_source
from tests.kernels.blockwise import noise
from tests.run.absorbing import ALL, FLAT, RAW, made_by, plans, rounded

DTYPES = ("bool", "uint8", "uint16", "int16", "int32", "float16", "float32", "float64")
FILTERS = {
    "gaussian": lambda image: gaussian(image, 0.7),
    "along one axis": lambda image: gaussian(image, {"x": 1.2}),
    "wide": lambda image: gaussian(image, {"x": 60}),
    "uniform": lambda image: uniform(image, 4),
}


def groups_of(pipeline, **images) -> list[tuple[str, ...]]:
    """Return the groups of several steps that a filter does."""
    _, _, plan = plans(pipeline, images)
    found = (g for s in plan.stages for g in absorbing_groups(plan.spec, s, s.steps))
    return [g.steps for g in found if g.filter]


def alone(spec, stage, steps):
    """Cut steps into groups of one, as if no filter could do any other step."""
    return (Group((s,)) for s in steps)


@lp.pipeline
def smooth(raw: lp.Image, flat: lp.Image):
    """Correct, smooth, round."""
    return {"out": astype(gaussian(flatfield(raw, flat, 3.0), 0.8), "uint16", cast="clip")}


CHAIN = ("astype", "subtract", "clip", "gaussian", "astype_2")
MANY = ("astype", "multiply", "add", "maximum", "gaussian")


# -- what is grouped ------------------------------------------------------------------------


def test_a_filter_takes_in_what_is_before_and_after_it():
    assert groups_of(smooth, raw=RAW, flat=FLAT) == [ALL]


def floats(image):
    return astype(image, "float32")


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda r, f: rounded(uniform(flatfield(r, f), 3)), [("divide_flat", "uniform", "astype")]),
        (lambda r, f: gaussian(flatfield(r, f), 1), [ALL[:2]]),
        (lambda r, f: rounded(gaussian(r, 1)) > 3, [ALL[1:]]),
        # It rounds otherwise, to something else, or not what a filter gave.
        (lambda r, f: rounded(gaussian(r, 1), "int32"), []),
        (lambda r, f: rounded(gaussian(r, 1), cast="raise"), []),
        (lambda r, f: rounded(gaussian(r, 1) + 1), []),
        # What lies between is wanted too.
        (lambda r, f: {"a": (g := gaussian(flatfield(r, f), 1)), "b": rounded(g)}, [ALL[:2]]),
        (lambda r, f: {"a": (x := flatfield(r, f)), "b": rounded(gaussian(x, 1))}, [ALL[1:]]),
        (lambda r, f: gaussian(x := flatfield(r, f), 1) - x, []),
        (lambda r, f: gaussian(x := flatfield(r, f), 1) - uniform(x, 3), []),
        (lambda r, f: rounded(g := gaussian(r, 1)) - g, []),
        # Operators of NumPy, and what else does one thing to each voxel.
        (lambda r, f: rounded(gaussian(clip(floats(r) - f, 0, None), 1)), [CHAIN]),
        (lambda r, f: gaussian(np.maximum(floats(r) * 2 + f, f), 1), [MANY]),
        (lambda r, f: gaussian(floats(f) - r, 1), []),  # the image comes first
        (lambda r, f: gaussian(floats(r) - r, 1), []),  # not the same for every plane
        (lambda r, f: gaussian((x := floats(r) - f) * 2 + x, 1), []),
        (lambda r, f: gaussian(r * 2.0 - f, 1), [("subtract", "gaussian")]),  # 2.0 makes float64
        (lambda r, f: gaussian((r - f) * np.float32(2), 1), [("multiply", "gaussian")]),
        (lambda r, f: gaussian(clip(floats(r), mean(f), 9), 1), []),
        (lambda r, f: gaussian(np.sqrt(floats(r)) - f, 1), [("subtract", "gaussian")]),
        # The flat differs from plane to plane.
        (lambda r, f: gaussian(flatfield(r, r), 1), []),
        (lambda r, f: gaussian(flatfield(r, f, r), 1), []),
        # Without a flat it is no multiplication, and without depth all runs tile by tile.
        (lambda r, f: gaussian(flatfield(r), 1), []),
        (lambda r, f: rounded(gaussian(flatfield(r, f), 0)), []),
        # The loops do not read these.
        (lambda r, f: gaussian(flatfield(astype(r, "int32"), f), 1), []),
    ],
)
def test_what_a_filter_takes_in(fn, expected):
    assert groups_of(made_by(fn), raw=RAW, flat=FLAT) == expected


def test_a_filter_too_wide_for_one_pass_takes_in_nothing():
    raw, flat = np.ones((2, 3, 450), np.uint16), np.ones((3, 450), np.uint16)
    narrow, wide = (made_by(lambda r, f, s=s: gaussian(flatfield(r, f), {"x": s})) for s in (1, 51))
    assert groups_of(narrow, raw=raw, flat=flat) == [("divide_flat", "gaussian")]
    assert groups_of(wide, raw=raw, flat=flat) == []


def test_only_neighbours_are_taken_in():
    pipeline = made_by(lambda r, f: {"a": rounded(gaussian(r, 1)), "b": mean(r)})
    _, _, plan = plans(pipeline, {"raw": RAW, "flat": FLAT})
    steps = ("gaussian", "integer_counts", "astype")
    assert set(steps) <= set(plan.stages[0].steps)
    stage = replace(plan.stages[0], steps=steps)
    assert list(absorbing_groups(plan.spec, stage, steps)) == [Group((s,)) for s in steps]


def test_a_flat_for_each_channel_is_not_taken_in():
    raw, flat = noise((2, 3, 20, 30), np.uint16, 1), noise((2, 1, 20, 30), np.uint16, 1)
    sources = {"raw": open_source(raw, axes="czyx"), "flat": open_source(flat, axes="czyx")}
    spec = smooth.bind({n: s.type for n, s in sources.items()}, {})
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, Resources(2**33, serial=True))
    found = [g.steps for s in plan.stages for g in absorbing_groups(plan.spec, s, s.steps)]
    assert ALL[1:] in found
    assert ALL not in found


@given(st.sampled_from(DTYPES), st.integers(1, 450))
def test_what_is_planned_can_be_computed(dtype, taps):
    type_ = ImageType(Grid.of((3, 4)), np.dtype(dtype))
    if fits_around(type_, (1, taps)):
        assert fits(np.zeros((3, 4), dtype), [None, np.ones(taps)])
    elif dtype == "uint16":
        assert not fits(np.zeros((3, 4), dtype), [None, np.ones(taps)])


# -- the same bits --------------------------------------------------------------------------


@dataclass
class Case:
    """Images, how they are cut, and a pipeline that a filter may do parts of."""

    images: dict[str, np.ndarray]
    tiling: dict[str, int]
    pipeline: Any
    told: str

    def __repr__(self) -> str:
        raw = self.images["raw"]
        return f"{raw.dtype} {raw.shape} in {self.tiling}: {self.told}"


@st.composite
def cases(draw):
    shape = tuple(draw(st.integers(1, n)) for n in draw(st.sampled_from([(40, 70), (9, 20, 31)])))
    lead = draw(st.sampled_from([(), (), (2,)]))
    seed = draw(st.integers(0, 99))
    images = {"raw": noise((*lead, *shape), draw(st.sampled_from(DTYPES)), seed, nan=True)}
    plane = tuple(draw(st.sampled_from([n, n, 1])) for n in shape[-2:])
    whole = draw(st.integers(0, 7)) == 0
    flat = noise(shape if whole else plane, draw(st.sampled_from(["uint16", "float32"])), seed + 1)
    images["flat"] = np.abs(flat.astype(np.float32)).astype(flat.dtype)
    dark = draw(st.sampled_from([0.0, 2.5, "mean", "image"]))
    images["dark"] = noise(plane, "uint8", seed + 2)
    filter_ = draw(st.sampled_from(sorted(FILTERS)))
    dtype = draw(st.sampled_from([None, "uint8", "uint16", "int16"]))
    kept = draw(st.sampled_from(["", "", "flat", "filtered", "twice"]))
    tiling = {a: draw(st.integers(3, 40)) for a in "czyx"}

    def fn(raw: lp.Image, flat: lp.Image, dark_: lp.Image):
        less = {"mean": mean(dark_), "image": dark_}.get(dark, dark)
        even = flatfield(raw, flat, less)
        made = FILTERS[filter_](even)
        out = made if dtype is None else rounded(made, dtype)
        more = {"flat": {"even": even}, "filtered": {"made": made}, "twice": {"two": out + even}}
        return {"out": out, **more.get(kept, {})}

    images["dark_"] = images.pop("dark")
    return Case(images, tiling, lp.pipeline(fn), f"{dark}, {filter_}, {dtype}, {kept}, {plane}")


OPERATIONS = {
    "less a plane": lambda image, plane: image - plane,
    "less a number": lambda image, plane: image - 3,
    "less a value": lambda image, plane: image - mean(plane),
    "times a plane": lambda image, plane: image * plane,
    "times a float": lambda image, plane: image * 1.7,
    "and more": lambda image, plane: image + 0.3,
    "not below": lambda image, plane: np.maximum(image, plane),
    "not above": lambda image, plane: np.minimum(image, 60),
    "low": lambda image, plane: clip(image, 2, None),
    "both": lambda image, plane: clip(image, 2.5, 70.1),
    "floats": lambda image, plane: astype(image, "float32", cast="wrap"),
}


@st.composite
def chains(draw):
    shape = tuple(draw(st.integers(1, n)) for n in draw(st.sampled_from([(40, 70), (9, 20, 31)])))
    seed = draw(st.integers(0, 99))
    raw = noise(shape, draw(st.sampled_from(DTYPES)), seed, nan=True)
    plane = noise(tuple(draw(st.sampled_from([n, n, 1])) for n in shape[-2:]), "uint8", seed + 1)
    names = draw(st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=5))
    filter_ = draw(st.sampled_from(sorted(FILTERS)))
    kept = draw(st.integers(0, 9))
    dtype = draw(st.sampled_from([None, "uint16"]))
    tiling = {a: draw(st.integers(3, 40)) for a in "zyx"}

    def fn(raw: lp.Image, plane: lp.Image):
        made, found = raw if raw.dtype.kind == "f" else floats(raw), {}
        for i, name in enumerate(names):
            made = OPERATIONS[name](made, plane)
            found |= {"kept": made} if i == kept else {}
        smooth = FILTERS[filter_](made)
        return {"out": smooth if dtype is None else rounded(smooth, dtype), **found}

    return Case({"raw": raw, "plane": plane}, tiling, lp.pipeline(fn), f"{names}, {filter_}")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases() | chains())
def test_absorbed_steps_give_the_bits_of_steps_one_by_one(case, fast_disk):
    spec, sources, _ = plans(case.pipeline, case.images)
    got = run_in_blocks(spec, sources, case.tiling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "absorbing_groups", alone)
        expected = run_in_blocks(spec, sources, case.tiling)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)
