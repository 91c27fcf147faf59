"""A user's own file: what is done with a stack of files. Run by path, never imported."""

from __future__ import annotations

import lepton_pipe as lp
from lepton_pipe.kernels import mean, project


@lp.pipeline
def plus(raw: lp.Image) -> dict[str, lp.Node]:
    """Add one, and ask for what is made of all files."""
    return {"plus": raw + 1, "mean": mean(raw), "top": project(raw, "t", "max")}
