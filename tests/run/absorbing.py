"""Images, and pipelines of which a filter may do more than one step."""

from __future__ import annotations

from typing import Any

import numpy as np

import lepton_pipe as lp
from lepton_pipe.kernels import astype
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.store import open_source
from tests.kernels.blockwise import noise


def plans(pipeline, images, tiling=None, **more):
    """Return a bound pipeline, its sources, and its plan."""
    sources = {n: open_source(a) for n, a in images.items()}
    spec = pipeline.bind({n: s.type for n, s in sources.items()}, {})
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    return spec, sources, make_plan(spec, inputs, Resources(2**33, serial=True), tiling, **more)


RAW, FLAT = noise((12, 20, 30), np.uint16, 1), noise((20, 30), np.uint16, 2)
ALL = ("divide_flat", "gaussian", "astype")


def made_by(fn) -> Any:
    def one(raw: lp.Image, flat: lp.Image):
        made = fn(raw, flat)
        return made if isinstance(made, dict) else {"out": made}

    return lp.pipeline(one)


def rounded(image, dtype="uint16", cast="clip"):
    return astype(image, dtype, cast=cast)
