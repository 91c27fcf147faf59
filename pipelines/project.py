"""Project an image along an axis."""

from __future__ import annotations

from typing import Literal

import lepton_pipe as lp
from lepton_pipe.kernels import project as project_kernel


@lp.pipeline
def project(
    raw: lp.Image, *, axis: str = "z", how: Literal["max", "mean", "sum", "min"] = "max"
) -> dict[str, lp.Node]:
    """Project an image along an axis: maximum, mean, sum or minimum.

    Parameters
    ----------
    raw
        Image with the axis to project along.
    axis
        Name of the axis.
    how
        What becomes of the voxels along it.
    """
    return {"projection": project_kernel(raw, axis, how)}
