"""Correct uneven illumination."""

from __future__ import annotations

import lepton_pipe as lp
from lepton_pipe.kernels import flatfield as flatfield_kernel


@lp.pipeline
def flatfield(raw: lp.Image, *, dark: float = 0.0) -> dict[str, lp.Node]:
    """Correct uneven illumination, estimated from the image itself.

    Parameters
    ----------
    raw
        Image of one field of view, or a stack of them.
    dark
        Signal of the camera without light, subtracted first.
    """
    return {"corrected": flatfield_kernel(raw, dark=dark)}
