"""Measure kernels that do not say what they need, on a part of the image, before planning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from lepton_pipe.plan import Plan, Rates
from lepton_pipe.plan.rates import rate_key
from lepton_pipe.run.machine import default_memory, free_memory
from lepton_pipe.spec import ImageType, Spec
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH
from lepton_pipe.store.part import cut_out_voxels
from lepton_pipe.store.source import Source

if TYPE_CHECKING:
    from lepton_pipe.run.trial import Outcome

PROBE_VOXELS = 2**18
# For networks on cores, which first load what they have learned.
TRIAL_SECONDS = 300.0

Bind = Callable[[Mapping[str, ImageType]], Spec]


@dataclass
class Probe:
    """What was measured, by `rate_key` of each step, and what could not be and why.

    Attributes
    ----------
    lost
        Id of the step whose kernel ended its process, or had to be ended with it; empty where none
        did.
    """

    factors: dict[str, float] = field(default_factory=dict)
    scratch: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: str = ""

    def added_to(self, rates: Rates) -> Rates:
        """Return the rates with what was measured."""
        return replace(
            rates,
            factors={**rates.factors, **self.factors},
            scratch={**rates.scratch, **self.scratch},
        )

    def add(self, spec: Spec, outcome: Outcome) -> None:
        """Add what was found by trying a pipeline on a part of its images.

        Parameters
        ----------
        spec
            As it was tried: bound to the parts.
        """
        for id_, took in outcome.measured.items():
            step = spec[id_]
            key, voxels = rate_key(spec, step), spec.leading_grid(step).size
            # A pipeline may use a kernel on several images: the dearest counts.
            self.scratch[key] = max(took.bytes_besides / voxels, self.scratch.get(key, 0.0))
            if step.declared > 0:
                factor = took.seconds * 1e9 / voxels / step.declared
                self.factors[key] = max(factor, self.factors.get(key, 0.0))
        if outcome.error:
            self.notes.append(_not_measured(outcome.error))
        if outcome.lost:
            self.lost = outcome.last
            self.notes.append(_lost_note(spec, outcome))


def _lost_note(spec: Spec, outcome: Outcome) -> str:
    """Say what became of a kernel that was not done, and what is counted on instead."""
    if not outcome.last:
        return _not_measured(f"their process came to nothing: {outcome.lost}")
    step = spec[outcome.last]
    return (
        f"{step.id} could not be measured on a part of the image, {step.where}: {outcome.lost}. It "
        "and those after it that do not say what they need are taken to need "
        f"{UNDECLARED_SCRATCH:g} bytes per voxel; say it with scratch= and cost="
    )


def lost_notes(plan: Plan) -> list[str]:
    """Return what a run is to be told whose kernels ended the process in which they were tried."""
    if plan.resources.in_process:
        return [
            "blocks run in this process: if a kernel ends it, the run ends without a word; with "
            "--workers 1 it has a process of its own"
        ]
    return ["blocks run in worker processes, which are replaced where a kernel ends them or hangs"]


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


def probe(
    spec: Spec,
    bind: Bind,
    sources: Mapping[str, Source],
    rates: Rates,
    memory: int | None = None,
    seconds: float = TRIAL_SECONDS,
) -> Probe:
    """Run a pipeline on a part of its images, and measure the kernels that declare no scratch.

    They run in a process of their own, see `lepton_pipe.run.trial`.

    Parameters
    ----------
    bind
        Binds the same pipeline to images of other shapes.
    memory
        Bytes that the run may take; those kernels may, too, as far as they are free. By default
        the share of what is free that a run takes.
    seconds
        How long each run of a kernel may take there.

    Returns
    -------
    Probe
        Empty where every kernel is known. Where the pipeline cannot be run on a part, a note
        says why, and the planner counts on what it counts for any kernel that declares nothing.
    """
    found = Probe()
    if not unknown_kernels(spec, rates):
        return found
    # Loaded where there is something to measure alone, which is seldom.
    from lepton_pipe.run.measure import Part
    from lepton_pipe.run.trial import Limits, try_out

    parts = {n: cut_out_voxels(s, PROBE_VOXELS) for n, s in sources.items()}
    try:
        small = bind({n: s.type for n, s in parts.items()})
        arrays = {n: s.read(s.type.grid.region) for n, s in parts.items()}
        part = Part(small, arrays, frozenset(unknown_kernels(small, rates)))
        most = min(default_memory() if memory is None else memory, free_memory())
        found.add(small, try_out(part, Limits(most, seconds)))
    except Exception as error:  # noqa: BLE001  whatever it is, the run will say it
        found.notes.append(_not_measured(f"{type(error).__name__}: {error}"))
    return found


def _not_measured(why: str) -> str:
    return f"kernels could not be measured on a part of the image: {why}"


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
