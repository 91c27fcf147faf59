"""Correct uneven illumination."""

from __future__ import annotations

import lepton_pipe as lp
from lepton_pipe.kernels import flatfield as flatfield_kernel


@lp.pipeline
def flatfield(
    raw: lp.Image, flat: lp.Image | None = None, *, dark: float = 0.0
) -> dict[str, lp.Node]:
    """Correct uneven illumination, by a reference image or as estimated from the image itself.

    Parameters
    ----------
    raw
        Image of one field of view, or a stack of them.
    flat
        Image of an even field under the same light; without it, the light is estimated.
    dark
        Signal of the camera without light, subtracted first.
    """
    return {"corrected": flatfield_kernel(raw, flat, dark=dark)}
