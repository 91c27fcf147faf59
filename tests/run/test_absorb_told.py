"""Who is told, measured and blamed where a filter does more steps than its own."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.kernels import gaussian
from lepton_pipe.kernels.flatfield import divide_flat
from lepton_pipe.plan import NOMINAL
from lepton_pipe.plan.memory import task_bytes
from lepton_pipe.plan.rates import measured_name, measured_step, rate_key
from lepton_pipe.report.explain_text import explain_text
from lepton_pipe.run.rates import learn, machine_rates
from lepton_pipe.spec import Absorbing, Voxelwise
from lepton_pipe.worker import Program, run_block
from lepton_pipe.worker.program import Spent
from tests.kernels.blockwise import noise
from tests.run.absorbing import ALL, FLAT, RAW, made_by, plans, rounded

FACTORS = {"level": np.full(1, 900.0)}


def dividing():
    """Return a pipeline of one stage: its level is known."""

    @lp.pipeline
    def even(raw: lp.Image, flat: lp.Image):
        made = divide_flat(raw, flat, 3.0, **FACTORS)
        return {"out": rounded(gaussian(made, 0.8))}

    return even


class Target:
    """Takes what a block writes."""

    def __init__(self):
        self.written = []

    def write(self, region, array):
        self.written.append(array)
        return []


def program_of(pipeline, **images) -> Program:
    _, sources, plan = plans(pipeline, images)
    stage = plan.stages[0]
    targets = {(w.array, w.level): Target() for w in stage.writes}
    return Program(plan.spec, stage, {r.step: sources[r.step] for r in stage.reads}, targets, {})


def test_the_time_of_a_group_is_kept_apart_from_that_of_its_steps():
    program = program_of(dividing(), raw=RAW, flat=FLAT)
    run_block(program, 0, {})
    assert list(run_block(program, 0, {}).stats.steps) == ["divide_flat+gaussian+astype"]


def test_a_group_has_a_rate_of_its_own():
    _, _, plan = plans(dividing(), {"raw": RAW, "flat": FLAT})
    spec = plan.spec
    step, key = measured_step(spec, measured_name(ALL))
    assert step.id == "gaussian"
    alone = rate_key(spec, step)
    assert measured_step(spec, "gaussian") == (step, alone)
    assert key != alone
    nominal = plan.stages[0].estimate.core_seconds
    told = _told(plan, NOMINAL)
    assert f"divide_flat+gaussian+astype {step.cost:.1f}" in told
    for factors, times in (({key: 3.0}, 3), ({alone: 2.0}, 2), ({key: 3.0, alone: 2.0}, 3)):
        rates = replace(NOMINAL, factors=factors)
        _, _, other = plans(dividing(), {"raw": RAW, "flat": FLAT}, rates=rates)
        more = other.stages[0].estimate.core_seconds - nominal
        extra = (times - 1) * step.cost * RAW.size / 1e9
        assert more == pytest.approx(extra, rel=1e-6)
        star = "*" if key in factors else ""
        assert f"divide_flat+gaussian+astype {times * step.cost:.1f}{star}" in _told(other, rates)


def _told(plan, rates):
    return " ".join(explain_text(plan, rates).split())


def test_a_group_teaches_nothing_of_its_steps_alone(tmp_path):
    plan = dividing().plan(raw=RAW, flat=FLAT, out=tmp_path / "out", serial=True)
    report = plan.run(progress=False)
    report.stages[0].stats.steps[measured_name(ALL)] = Spent(10.0, RAW.size)
    before = machine_rates().factors
    learn(plan.data, report)
    _, key = measured_step(plan.data.spec, measured_name(ALL))
    learned = {k: f for k, f in machine_rates().factors.items() if before.get(k) != f}
    assert learned == {key: pytest.approx(0.7 + 0.3 * 4)}


def _no_light(image, place):
    raise ValueError("no light")


@lp.kernel(dtype="float", scratch=1.0, absorb=Voxelwise(_no_light))
def unlit(image, *, place):
    """Never called itself."""


def _no_pass(image, *, place, around):
    raise ValueError("no pass")


def _too_much(image, *, place, around):
    return np.zeros(image.shape, around.dtype or np.float32)


def _filter(run):
    @lp.kernel(dtype="float", depth=1, scratch=1.0, absorb=Absorbing(lambda image: True, run))
    def filtered(image):
        """Never called itself."""

    return filtered


@pytest.mark.parametrize(
    ("fn", "told"),
    [
        (lambda r, f: gaussian(unlit(r), 1), "unlit failed on block .*no light"),
        (lambda r, f: rounded(_filter(_no_pass)(r)), "filtered failed on block .*no pass"),
        (lambda r, f: rounded(_filter(_too_much)(r)), "returned uint16 of shape .* in filtered"),
    ],
)
def test_the_step_that_fails_is_named(fn, told):
    program = program_of(made_by(fn), raw=noise((300, 300), np.uint16, 1), flat=FLAT)
    program = replace(program, stage=replace(program.stage, block=(100, 100)))
    with pytest.raises(KernelError) as caught:
        run_block(program, 0, {})
    text = " ".join(str(caught.value).split())
    assert re.search(told, text)
    assert "worker/block.py" not in text


@lp.pipeline
def with_dark(raw: lp.Image, flat: lp.Image, less: lp.Image):
    """Correct with two planes, smooth, round."""
    return {"out": rounded(gaussian(divide_flat(raw, flat, less, **FACTORS), 0.8))}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(48, 128, 128), (1, 700, 700), (900, 900)])
def test_memory_of_a_group_is_what_was_planned(shape, dtype):
    images = {"raw": noise(shape, dtype, 1)}
    images |= {n: noise(shape[-2:], np.uint16, 2) for n in ("flat", "less")}
    program = program_of(with_dark, **images)
    stage = replace(program.stage, block=shape)
    program = replace(program, stage=stage)
    _, _, plan = plans(with_dark, images)
    planned = task_bytes(plan.spec, stage, plan.arrays, plan.inputs)
    run_block(program, 0, {})
    tracemalloc.start()
    result = run_block(program, 0, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert next(iter(result.stats.steps)) == measured_name(ALL)
    assert peak <= planned
    if shape[0] > 1 and len(shape) == 3:
        between = images["raw"].size * np.promote_types(dtype, np.float32).itemsize
        assert planned < images["raw"].nbytes + 2 * between
