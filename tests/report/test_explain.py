"""The answer to why blocks are as they are: true to the plan, and fit to be read."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import gaussian, label, otsu, regionprops
from lepton_pipe.plan import NOMINAL, InputInfo, Resources, make_plan
from lepton_pipe.plan.estimate import Shape, Work
from lepton_pipe.plan.rates import rate_key
from lepton_pipe.report.explain_text import explain_text
from lepton_pipe.report.plan_text import WIDTH
from lepton_pipe.spec import Definition, ImageType

GIB = 2**30
LARGE, SMALL = (512, 2048, 2048), (8, 64, 64)


def objects(raw: lp.Image) -> dict[str, lp.Node]:
    """Find objects."""
    smooth = gaussian(raw, sigma=2.0)
    labels = label(smooth > otsu(smooth))
    return {"labels": labels, "table": regionprops(labels, raw)}


def plan_of(shape=LARGE, memory=4 * GIB, rates=NOMINAL, fn=objects):
    grid = Grid.of(shape, axes="zyx")
    type_ = ImageType(grid, np.dtype(np.uint16))
    chunks = tuple(min(c, n) for c, n in zip((64, 256, 256), shape, strict=True))
    inputs = {"raw": InputInfo(type_, chunks, "memory")}
    spec = Definition(fn).bind({"raw": type_}, {})
    return make_plan(spec, inputs, Resources(memory, workers=1, threads=2), rates=rates)


def section(text, start):
    """Return the lines of the stage whose heading begins so, without line breaks."""
    sections = re.split(r"\n  (?=\S)", text.replace("\n      ", " "))
    (found,) = [s for s in sections if s.startswith(start)]
    return found


def test_every_stage_is_told_with_its_block_memory_and_alternatives():
    plan = plan_of()
    text = explain_text(plan, NOMINAL)
    for number, stage in enumerate(plan.stages, start=1):
        assert f"stage {number}, {stage.name}" in text
    first = plan.stages[0]
    told = section(text, "stage 1,")
    best, *others = first.considered
    assert f"block {'x'.join(map(str, first.block))}: {best.work.total:.1f} s of one core" in told
    assert f"{first.slots} blocks at once" in told
    assert told.count("\n    not ") == len(others) > 0
    assert max(map(len, text.splitlines())) <= WIDTH


def test_parts_of_the_work_add_up():
    told = section(explain_text(plan_of(), NOMINAL), "stage 1,")
    total, parts = re.search(r"([\d.]+) s of one core \((.*?)\)", told).groups()
    assert sum(float(p.split()[-1]) for p in parts.split(",")) == pytest.approx(
        float(total), abs=0.2
    )


def test_stages_that_must_have_the_same_blocks_are_told_together():
    text = explain_text(plan_of(), NOMINAL)
    told = section(text, "stage 3, label_join; stage 4, label_apply+regionprops")
    assert ", the same for both:" in told
    assert "stage 3: " in told
    assert "stage 4: " in told


def test_a_small_image_has_no_other_shape_and_no_more_blocks_at_once_than_there_are():
    told = section(explain_text(plan_of(SMALL), NOMINAL), "stage 1,")
    assert "the image is no larger than one block" in told
    assert "1 block at once" in told
    assert " ms of one core" in told


def told_of(best, other):
    """Return what is said of a stage that has the first of two shapes."""
    plan = plan_of()
    stages = (replace(plan.stages[0], considered=(best, other)), *plan.stages[1:])
    return section(explain_text(replace(plan, stages=stages), NOMINAL), "stage 1,")


def shape(seconds, work, block=(64, 256, 256), at_once=2):
    return Shape(block, 2**20, at_once, work, seconds)


def test_a_shape_is_told_with_what_it_takes_more_of():
    best = shape(10.0, Work(compute=60.0, decode=20.0))
    other = shape(14.2, Work(compute=60.0, decode=52.5), (128, 256, 256), at_once=1)
    told = told_of(best, other)
    assert "80.0 s of one core (kernels 60.0, decoding 20.0)" in told
    assert "not 128x256x256: 42 % more time, decoding +32.5 s, 1 at once, 1.0 MiB each" in told


def test_fewer_blocks_than_keep_the_cores_busy_are_told_as_such():
    best = shape(10.0, Work(compute=60.0, tasks=0.8))
    other = shape(11.0, Work(compute=60.0, tasks=0.2), (128, 256, 256))
    told = told_of(best, other)
    assert "10 % more time, task overhead -0.6 s, leaves cores idle at the end, 1.0 MiB" in told


def test_a_tie_is_told_as_such():
    work = Work(compute=60.0)
    told = told_of(shape(10.0, work), shape(10.01, work, (64, 512, 256)))
    assert "not 64x512x256: the same time, 1.0 MiB each" in told


@pytest.mark.parametrize(
    ("block", "why"),
    [((512, 512, 512), "too large for a core's caches"), ((64, 64, 64), "makes no scale level")],
)
def test_a_quicker_shape_that_was_not_taken_is_told_with_the_reason(block, why):
    work = Work(compute=1.0)
    told = told_of(shape(10.0, work), shape(9.0, work, block))
    assert f"not {'x'.join(map(str, block))}: 10 % less time, 1.0 MiB each, {why}" in told


def test_rates_are_told_with_where_they_come_from():
    plan = plan_of()
    assert "(assumed, until longer runs were measured)" in joined(explain_text(plan, NOMINAL))
    learned = replace(NOMINAL, decode_ns=0.5)
    text = joined(explain_text(plan_of(rates=learned), learned))
    assert "decoding 0.50" in text
    assert "(learned on this machine)" in text


def test_kernels_that_were_measured_are_marked():
    plan = plan_of()
    step = plan.spec["gaussian"]
    rates = replace(NOMINAL, factors={rate_key(plan.spec, step): 3.0})
    assert "learned" not in joined(explain_text(plan, NOMINAL))
    text = joined(explain_text(plan_of(rates=rates), rates))
    assert f"gaussian {3 * step.cost:.1f}*, moments" in text
    assert "(* learned on this machine)" in text


def test_two_uses_of_a_kernel_are_told_apart():
    def edges(raw: lp.Image):
        return gaussian(raw, sigma=1.0) - gaussian(raw, sigma=8.0)

    plan = plan_of(fn=edges)
    costs = [plan.spec[s].cost for s in ("gaussian", "gaussian_2")]
    text = joined(explain_text(plan, NOMINAL))
    assert f"gaussian {costs[0]:.1f}, gaussian_2 {costs[1]:.1f}" in text


def joined(text):
    return re.sub(r"\n +", " ", text)
