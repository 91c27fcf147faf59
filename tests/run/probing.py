"""Pipelines of one kernel that says nothing of itself, and what a probe finds of it."""

from __future__ import annotations

from functools import partial

import numpy as np

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian
from lepton_pipe.plan import NOMINAL
from lepton_pipe.run.probe import probe
from lepton_pipe.store import open_source

IMAGE = np.random.default_rng(0).integers(0, 1000, (40, 200, 210)).astype(np.uint16)


def probed(kernel, before=lambda raw: gaussian(raw, 1), **limits):
    """Probe a pipeline of one kernel, after one that is known; return it and what was found."""

    @lp.pipeline
    def uses(raw: lp.Image):
        return {"out": kernel(before(raw))}

    sources = {"raw": open_source(IMAGE)}
    bind = partial(uses.bind, parameters={})
    spec = bind({n: s.type for n, s in sources.items()})
    return spec, probe(spec, bind, sources, NOMINAL, **limits)
