"""Segment bright, roundish objects and measure each of them."""

from __future__ import annotations

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, label, otsu, regionprops


@lp.pipeline
def nuclei(
    raw: lp.Image, *, sigma: float = 2.0, threshold: float | None = None, min_size: int = 64
) -> dict[str, lp.Node]:
    """Segment nuclei (or any bright objects) and measure each of them.

    Parameters
    ----------
    raw
        Intensity image with axes among t, c, z, y, x.
    sigma
        Width of the smoothing, in voxels.
    threshold
        Smoothed intensity above which a voxel belongs to an object; by default Otsu's.
    min_size
        Objects of fewer voxels are dropped.
    """
    smooth = gaussian(raw, sigma=sigma)
    level = otsu(smooth) if threshold is None else threshold
    labels = label(smooth > level, min_size=min_size)
    return {"labels": labels, "nuclei": regionprops(labels, raw)}
