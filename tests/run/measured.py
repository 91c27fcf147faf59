"""A small pipeline whose result is an image and a value, and a run of it."""

from __future__ import annotations

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, mean
from tests.run.five import picture


@lp.pipeline
def measured(raw: lp.Image, *, sigma: float = 1.0):
    smooth = gaussian(raw, sigma=sigma)
    return {"smooth": smooth, "level": mean(smooth)}


IMAGE = picture((30, 40), "uint16", 1)


def made(out, image=IMAGE, overwrite=False, **parameters):
    return measured.plan(raw=image, out=out, serial=True, overwrite=overwrite, **parameters).run(
        progress=False
    )
