"""What things cost on a machine: nominal figures, corrected by what was measured on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log

from lepton_pipe.spec import Absorbing, Ref, Spec, Step, plain
from lepton_pipe.spec.canonical import kernel_name

# Nanoseconds per byte before compression to write chunks that are stored already.
COPY_NS = 0.7
# A measured need is raised by this share: the probe block may not be the worst.
SCRATCH_MARGIN = 1.25


@dataclass(frozen=True)
class Rates:
    """Time and memory of the things a plan is made of, on one core.

    Attributes
    ----------
    decode_ns, encode_ns
        Nanoseconds per byte before compression, of inputs read and of results written.
    store_ns, load_ns
        The same for what is stored between stages.
    task_seconds
        What the driver, scheduler and worker take for a task besides its work.
    factors
        Measured time of a kernel as a share of the cost it declares, by `rate_key`.
    scratch
        Measured bytes per voxel of kernels that declare none, by `rate_key`.
    """

    decode_ns: float = 1.0
    encode_ns: float = 2.0
    store_ns: float = 1.2
    load_ns: float = 0.5
    task_seconds: float = 0.003
    factors: Mapping[str, float] = field(default_factory=dict)
    scratch: Mapping[str, float] = field(default_factory=dict)

    def apply(self, spec: Spec) -> Spec:
        """Return a pipeline with the costs of this machine, and measured scratch if undeclared."""
        if not self.factors and not self.scratch:
            return spec
        return replace(spec, steps=tuple(self._apply(spec, s) for s in spec.steps))

    def _apply(self, spec: Spec, step: Step) -> Step:
        if step.kernel is None:
            return step
        key, scratch = rate_key(spec, step), step.scratch
        if not step.kernel.declares_scratch and key in self.scratch:
            scratch = self.scratch[key] * SCRATCH_MARGIN
        return replace(step, cost=step.cost * self.factors.get(key, 1.0), scratch=scratch)

    def cost(self, spec: Spec, steps: Sequence[str]) -> float:
        """Return nanoseconds per voxel of one step, or of several that run as one.

        Parameters
        ----------
        spec
            With the costs of this machine, see `apply`.
        """
        step, key = measured_step(spec, measured_name(steps))
        if len(steps) == 1 or key not in self.factors:
            return step.cost
        return step.cost * self.factors[key] / self.factors.get(rate_key(spec, step), 1.0)


def rate_key(spec: Spec, step: Step) -> str:
    """Return the name that the rates of a step's kernel are kept under.

    Another when its code changes, or where it costs several times as much: that may be another way
    of computing, such as that of a very wide filter, which is as fast as it is whatever the narrow
    ones are. What a kernel that declares nothing needs may depend on its parameters and dtypes, so
    these belong to its name.
    """
    assert step.kernel is not None
    key = f"{kernel_name(step.kernel)}:{spec.codes[step.kernel][:16]}"
    if step.kernel.declares_scratch:
        return f"{key}~{cost_band(step.declared)}"
    parameters = {n: plain(a) for n, a in step.args.items() if not isinstance(a, Ref)}
    dtypes = [spec.image_type(i).dtype.str for i in spec.image_inputs(step)]
    text = json.dumps([parameters, dtypes], sort_keys=True)
    return f"{key}:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def cost_band(ns: float) -> int:
    """Return which power of 4 a cost is near."""
    return round(log(ns, 4)) if ns > 0 else 0


def measured_name(steps: Sequence[str]) -> str:
    """Return what the time of steps that ran as one is kept under in a run's figures."""
    return "+".join(steps)


def measured_step(spec: Spec, name: str) -> tuple[Step, str]:
    """Return the step that takes the time kept under a name, and the key of its rate.

    Of steps that ran as one it is the filter that did the others. It has a rate of its own then,
    also as a share of what it costs alone.
    """
    steps = [spec[s] for s in name.split("+")]
    filters = (s for s in steps if s.kernel and s.kernel.absorbs(Absorbing))
    return next(filters, steps[0]), "+".join(rate_key(spec, s) for s in steps)


NOMINAL = Rates()
"""Of a core of a server of 2024, with data that looks like microscopy."""
