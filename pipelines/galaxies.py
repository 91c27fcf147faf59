"""Find galaxies and stars on a dark sky and measure each of them."""

from __future__ import annotations

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, label, mean, project, regionprops, std


@lp.pipeline
def galaxies(
    raw: lp.Image,
    *,
    sigma: float = 1.5,
    background: float = 25.0,
    contrast: float = 1.5,
    min_size: int = 12,
) -> dict[str, lp.Node]:
    """Find galaxies and stars on a dark sky and measure each of them.

    Parameters
    ----------
    raw
        Picture of the sky; channels, where there are any, are averaged.
    sigma
        Width of the smoothing that takes out the noise, in pixels.
    background
        Width of the smoothing that leaves only the sky's own glow, in pixels.
    contrast
        How far above the background a pixel must be, in standard deviations.
    min_size
        Objects of fewer pixels are dropped.
    """
    light = project(raw, "c", "mean") if "c" in raw.axes else raw
    detail = gaussian(light, sigma=sigma) - gaussian(light, sigma=background)
    sky = detail > mean(detail) + contrast * std(detail)
    objects = label(sky, min_size=min_size)
    return {"light": light, "objects": objects, "catalogue": regionprops(objects, light)}
