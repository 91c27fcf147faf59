"""Measure kernels that do not say what they need, on a part of the image, before planning."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from lepton_pipe.plan import Plan, Rates
from lepton_pipe.plan.rates import rate_key
from lepton_pipe.spec import ImageType, Spec, Step, compute_step
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH
from lepton_pipe.store.part import cut_out_voxels
from lepton_pipe.store.source import Source

PROBE_VOXELS = 2**18
# What Python itself takes besides a kernel's arrays.
_PYTHON_BYTES = 2**16
# A kernel as slow as this is not run again for a better figure.
_SLOW_SECONDS = 2.0

Bind = Callable[[Mapping[str, ImageType]], Spec]


@dataclass
class Probe:
    """What was measured, by `rate_key` of each step, and what could not be and why."""

    factors: dict[str, float] = field(default_factory=dict)
    scratch: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def added_to(self, rates: Rates) -> Rates:
        """Return the rates with what was measured."""
        return replace(
            rates,
            factors={**rates.factors, **self.factors},
            scratch={**rates.scratch, **self.scratch},
        )


def unknown_kernels(spec: Spec, rates: Rates) -> set[str]:
    """Return the steps whose kernel declares no scratch and was not measured before."""
    return {
        s.id
        for s in spec.steps
        if s.kernel is not None
        and not s.kernel.declares_scratch
        and spec.image_inputs(s)
        and rate_key(spec, s) not in rates.scratch
    }


def probe(spec: Spec, bind: Bind, sources: Mapping[str, Source], rates: Rates) -> Probe:
    """Run a pipeline on a part of its images, and measure the kernels that declare no scratch.

    Parameters
    ----------
    bind
        Binds the same pipeline to images of other shapes.

    Returns
    -------
    Probe
        Empty where every kernel is known. Where the pipeline cannot be run on a part, a note
        says why, and the planner counts on what it counts for any kernel that declares nothing.
    """
    found = Probe()
    if not unknown_kernels(spec, rates):
        return found
    parts = {n: cut_out_voxels(s, PROBE_VOXELS) for n, s in sources.items()}
    try:
        small = bind({n: s.type for n, s in parts.items()})
        _measure(small, {n: s.read(s.type.grid.region) for n, s in parts.items()}, rates, found)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, the run will say it
        found.notes.append(
            f"kernels could not be measured on a part of the image: {type(error).__name__}: {error}"
        )
    return found


def _measure(spec: Spec, results: dict[str, Any], rates: Rates, found: Probe) -> None:
    wanted = unknown_kernels(spec, rates)
    for step in spec.steps:
        if step.kernel is None:
            continue
        if not wanted:
            return
        started = time.perf_counter()
        results[step.id] = compute_step(spec, step, results)
        seconds = time.perf_counter() - started
        if step.id in wanted:
            _measure_step(spec, step, results, seconds, found)
            wanted.remove(step.id)


def _measure_step(
    spec: Spec, step: Step, results: dict[str, Any], seconds: float, found: Probe
) -> None:
    assert step.kernel is not None
    key, voxels = rate_key(spec, step), spec.leading_grid(step).size
    if seconds < _SLOW_SECONDS:
        started = time.perf_counter()
        compute_step(spec, step, results)
        seconds = min(seconds, time.perf_counter() - started)
    scratch = max(0, _bytes_besides(lambda: compute_step(spec, step, results)) - _PYTHON_BYTES)
    # A pipeline may use a kernel on several images: the dearest counts.
    found.scratch[key] = max(scratch / voxels, found.scratch.get(key, 0.0))
    if step.declared > 0:
        factor = seconds * 1e9 / voxels / step.declared
        found.factors[key] = max(factor, found.factors.get(key, 0.0))


def _bytes_besides(compute: Callable[[], Any]) -> int:
    """Return the most bytes that a computation holds besides its result."""
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        made = compute()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before - int(getattr(made, "nbytes", 0))


def corrected(plan: Plan, scratch: Mapping[str, float], over: int) -> dict[str, float]:
    """Return the scratch of probed kernels of a run that took more memory than its plan said.

    A run cannot tell its kernels apart: tracing what each allocates would slow down all of them.
    So every kernel that declares nothing is held to have taken all of what was too much. None is
    raised beyond twice what was counted on, as something else may have taken it; a run
    that still takes too much raises it again.

    Parameters
    ----------
    scratch
        What was measured before, by `rate_key`.
    over
        Bytes beyond the plan; where they are none, nothing is corrected.
    """
    found: dict[str, float] = {}
    for stage in plan.stages if over > 0 else ():
        at_once = prod(stage.block) * stage.slots
        for step in (plan.spec[s] for s in stage.steps):
            if step.kernel is None or step.kernel.declares_scratch:
                continue
            key = rate_key(plan.spec, step)
            if key in scratch:
                most = 2 * max(scratch[key], UNDECLARED_SCRATCH)
                raised = min(scratch[key] + over / at_once, most)
                found[key] = max(raised, found.get(key, 0.0))
    return found
