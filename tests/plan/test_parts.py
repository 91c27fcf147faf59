"""Variants of a sweep run in as few stages as fit the memory, and any parts give the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import label, maximum, maximum_of, regionprops
from lepton_pipe.pipelines.nuclei import nuclei
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.plan.parts import first_parts, halved
from lepton_pipe.spec import ImageType, evaluate, variants
from tests.plan.pipelines import GIB, MIB
from tests.plan.test_random_runs import run, same

LARGE = ImageType(Grid.of((256, 1024, 1024)), np.dtype("uint16"))
CHUNKS = (64, 256, 256)


def planned(pipeline, memory=4 * GIB, parts=(), **parameters):
    usual = {n: p.usual() for n, p in pipeline.parameters.items()}
    spec = pipeline.bind({"raw": LARGE}, {**usual, **parameters})
    inputs = {"raw": InputInfo(LARGE, CHUNKS, "memory")}
    return make_plan(spec, inputs, Resources(memory, 0, 2), parts=parts)


def least_memory(pipeline, **parameters):
    """Return memory in MiB with which a pipeline can be planned, and is refused with 2 % less."""
    low, high = 300, 1000
    while high > 1.02 * low:
        middle = (low + high) // 2
        try:
            planned(pipeline, middle * MIB, **parameters)
            high = middle
        except MemoryRefusedError:
            low = middle
    return high


@lp.pipeline
def objects(raw: lp.Image, *, radius: int = 1, above: int = 3, size: int = 0):
    bright = maximum(raw, 2 * radius + 1)
    labels = label(bright - minimum_like(bright) > above, min_size=size)
    return {"bright": bright, "labels": labels, "table": regionprops(labels, raw)}


def minimum_like(image):
    """Return a value that must be known of the whole image first."""
    return maximum_of(image) // 4


@settings(max_examples=15, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "radius": st.sampled_from([(0, 1), (1,), (0, 1, 2)]),
            "size": st.sampled_from([(0, 3), (2,)]),
        }
    ),
    st.fixed_dictionaries({}, optional={a: st.integers(5, 20) for a in "yx"}),
    st.randoms(use_true_random=False),
)
def test_any_parts_give_what_the_whole_array_gives(values, tiling, random):
    type_ = ImageType(Grid.of((23, 31)), np.dtype("uint8"))
    raw = np.random.default_rng(random.getrandbits(32)).integers(0, 9, (23, 31)).astype(np.uint8)
    spec = objects.sweep(**values).bind({"raw": type_}, {"above": 3})
    names = list(variants(spec.swept))
    random.shuffle(names)
    cuts = sorted(random.choices(range(len(names) + 1), k=2))
    parts = [p for p in (names[: cuts[0]], names[cuts[0] : cuts[1]], names[cuts[1] :]) if p]
    inputs = {"raw": InputInfo(type_, (8, 8), "memory")}
    plan = make_plan(spec, inputs, Resources(4 * GIB), tiling, parts=parts)
    assert [list(p) for p in plan.parts] == parts
    got, _ = run(plan, {"raw": raw}, lambda n: random.sample(range(n), n))
    for name, expected in evaluate(spec, {"raw": raw}).items():
        same(got[name], expected)


def test_variants_are_in_the_same_stages_where_there_is_room():
    one, ten = planned(nuclei), planned(nuclei.sweep(sigma=[1 + i / 10 for i in range(10)]))
    assert len(ten.parts) == 1
    first = ten.stages[0]
    assert [r.step for r in first.reads] == ["raw"]
    assert sum(s.startswith("gaussian") for s in first.steps) == 10
    assert len(ten.stages) <= len(one.stages) + 1
    # All ten decode the input as often as one of them does alone.
    decoded = planned(nuclei, sigma=1.9).stages[0].estimate.bytes_decoded
    assert first.estimate.bytes_decoded == decoded


def test_what_is_shared_is_one_stage_of_one_variant():
    ten = planned(nuclei.sweep(min_size=range(10)))
    assert [s.partition("[")[0] for s in ten.stages[0].steps] == ["gaussian", "moments"]


def test_a_task_holds_one_variant_at_a_time():
    """Images are read before their first use and let go after their last."""
    two, ten = (
        max(s.estimate.task_bytes for s in planned(nuclei.sweep(sigma=sigmas)).stages)
        for sigmas in ([1.0, 1.9], [1 + i / 10 for i in range(10)])
    )
    assert ten < 1.5 * two


@pytest.mark.parametrize(
    ("swept", "most", "split"),
    [
        ({"sigma": [1, 2, 5]}, {"sigma": 5.0}, False),
        # What these share is held beside each of them.
        ({"min_size": range(5)}, {"min_size": 0}, True),
    ],
    ids=["sigma", "min_size"],
)
def test_a_sweep_fits_wherever_each_of_its_variants_does(swept, most, split):
    pipeline = nuclei.sweep(**swept)
    memory = least_memory(nuclei, **most) * MIB
    plan = planned(pipeline, memory)
    assert (len(plan.parts) > 1) is split
    assert sorted(v for part in plan.parts for v in part) == sorted(variants(pipeline.swept))
    assert plan.peak_bytes <= memory


def test_variants_stay_together_that_were():
    pipeline = nuclei.sweep(sigma=[1, 2, 3])
    first = planned(pipeline)
    more = planned(nuclei.sweep(sigma=[1, 2, 3, 4]), parts=first.parts)
    assert [list(p) for p in more.parts] == [["sigma=1", "sigma=2", "sigma=3"], ["sigma=4"]]
    before = [s for s in more.stages if "sigma=4" not in str(s.steps)]
    assert [(s.steps, s.writes, s.block) for s in before] == [
        (s.steps, s.writes, s.block) for s in first.stages
    ]


def test_first_parts_and_halves():
    spec = nuclei.sweep(sigma=[1, 2, 3]).bind({"raw": LARGE}, {"threshold": 1.0, "min_size": 1})
    a, b, c = variants(spec.swept)
    assert first_parts(spec) == ((a, b, c),)
    assert first_parts(spec, [[b, "gone"], ["other"]]) == ((b,), (a, c))
    assert halved([(a, b, c)]) == ((a, b), (c,))
    assert halved(halved([(a, b, c)])) == ((a,), (b,), (c,))
    assert halved([(a,), (b,)]) == ()
    alone = nuclei.bind({"raw": LARGE}, {"sigma": 1.0, "threshold": 1.0, "min_size": 1})
    assert first_parts(alone, [[a, b]]) == ()
    assert halved(()) == ()
