"""Write kernels of one's own: one that looks at neighbours, and one that reduces to a value.

Run it with ``python own_kernel.py``. It finds the blood vessels in a photograph of a retina with
a ridge filter that lepton_pipe does not have, and proves that the filter may be run in blocks.
"""

import math
from typing import Any

import numpy as np
from skimage import data
from skimage.measure import shannon_entropy

import lepton_pipe as lp
from lepton_pipe.check import check
from lepton_pipe.device import array_module, ndimage, to_host
from lepton_pipe.kernels import erosion, otsu


def _ridge_depth(sigma: float) -> int:
    """Return how far `ridges` looks: scipy cuts its gaussians off at 4 sigma, rounded."""
    if sigma <= 0:
        raise ValueError(f"sigma={sigma} must be positive")
    return math.floor(4 * sigma + 0.5)


# A kernel is a function of a block. The decorator says what the planner must know: how many
# voxels beyond its own a block needs (a number, or a rule over the kernel's parameters), and the
# dtype that comes out. What it may know: the bytes that a voxel takes for a moment, here six arrays
# of float32, and the nanoseconds. Without them the kernel is measured before it is first planned
# with, as `entropy` below. `array_module` and `ndimage` make one body work for NumPy and CuPy.
@lp.kernel(depth=_ridge_depth, dtype="float32", scratch=24, cost=50)
def ridges(image: Any, sigma: float = 2.0) -> Any:
    """Return how strongly dark lines are bent across: the larger eigenvalue of the Hessian."""
    xp, ndi = array_module(image), ndimage(image)
    smooth = image.astype(xp.float32)
    yy, xy, xx = (ndi.gaussian_filter(smooth, sigma, order=o) for o in ((2, 0), (1, 1), (0, 2)))
    larger = (yy + xx) / 2 + xp.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return xp.maximum(larger, 0).astype(xp.float32)


# The same with a promise that is not kept: it looks further than it says.
@lp.kernel(depth=1, dtype="float32", scratch=24, cost=50)
def hasty_ridges(image: Any, sigma: float = 2.0) -> Any:
    return ridges(image, sigma)  # kernels may be called in kernels: on arrays they compute


# A reduction returns a small partial for each block, here the counts of 256 grey values.
# `combine` folds two of them and `finalize` makes the value. Partials are folded in the order of
# the blocks, so that the result does not depend on who was first.
def _add(a: Any, b: Any) -> Any:
    return a + b


def _bits(counts: Any) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


@lp.kernel(combine=_add, finalize=_bits)
def entropy(image: Any) -> Any:
    """Return the Shannon entropy of a uint8 image in bits."""
    return to_host(array_module(image).bincount(image.ravel(), minlength=256))


@lp.pipeline
def vessels(raw: lp.Image, *, sigma: float = 4.0) -> dict[str, lp.Node]:
    """Find blood vessels in a photograph of a retina."""
    strength = ridges(raw, sigma=sigma)
    eye = erosion(raw > 10, size=31)  # without its rim, which is a ridge, too
    return {"vessels": eye & (strength > otsu(strength)), "entropy": entropy(raw)}


@lp.pipeline
def hasty_vessels(raw: lp.Image, *, sigma: float = 4.0) -> lp.Node:
    """Do the same with the kernel that looks further than it says."""
    return hasty_ridges(raw, sigma=sigma)


def main() -> None:
    colours = lp.open_image(data.retina(), axes="yxc")
    green = colours.read(colours.type.grid.region)[1]  # vessels are darkest in green

    found = vessels(green)
    print(f"{100 * found['vessels'].mean():.1f} % vessels, entropy {found['entropy']:.4f} bits")
    assert math.isclose(found["entropy"], shannon_entropy(green), rel_tol=1e-12)

    # Blocks of random shapes, serial and on Dask, against the whole in memory.
    good = check(vessels, raw=green, part=200)
    print(good)
    assert good.equal

    bad = check(hasty_vessels, raw=green, part=200, dask=False)
    print(bad)
    assert not bad.equal, "a depth that is too small must be found out"


if __name__ == "__main__":
    main()
