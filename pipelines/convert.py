"""Turn any image that can be read into an OME-Zarr pyramid."""

from __future__ import annotations

import lepton_pipe as lp


@lp.pipeline
def convert(raw: lp.Image) -> dict[str, lp.Node]:
    """Convert any readable image into an OME-Zarr 0.5 pyramid, values unchanged.

    Parameters
    ----------
    raw
        Image to convert.
    """
    return {"image": raw}
