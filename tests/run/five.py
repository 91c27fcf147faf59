"""Five whole pipelines, and images of awkward shapes to run them over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import lepton_pipe as lp
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import (
    astype,
    clip,
    closing,
    flatfield,
    gaussian,
    label,
    maximum,
    mean,
    median,
    otsu,
    project,
    regionprops,
    std,
    where,
    white_tophat,
)
from lepton_pipe.kernels.peaks import find_peaks
from lepton_pipe.kernels.quantile import quantile
from lepton_pipe.store import open_source

DTYPES = ("uint8", "uint16", "int32", "float32", "bool")


@lp.pipeline
def segment(raw: lp.Image):
    """Smooth, threshold, label, measure."""
    smooth = gaussian(astype(raw, "float32"), sigma=1.2)
    mask = smooth > otsu(smooth)
    objects = label(mask, min_size=2)
    return {"mask": mask, "objects": objects, "table": regionprops(objects, raw)}


@lp.pipeline
def shading(raw: lp.Image):
    """Correct the illumination, then smooth."""
    flat = flatfield(astype(raw, "float32"))
    return {"flat": flat, "smooth": gaussian(flat, sigma=0.8)}


@lp.pipeline
def background(raw: lp.Image):
    """Project a filtered image, and use the projection against the image."""
    axis = raw.axes[0]
    even = median(raw, 1)
    floor = project(even, axis, "min", keepdims=True)
    top = project(even, axis, "max", keepdims=True)
    return {
        "above": astype(even, "float32") - astype(floor, "float32"),
        "is_top": even == top,
        "mean": project(even, axis, "mean"),
    }


@lp.pipeline
def pyramid(raw: lp.Image):
    """Store it as it is."""
    return {"image": raw}


@lp.pipeline
def chain(raw: lp.Image):
    """Ten kernels voxel by voxel, morphology, an exact quantile, and points."""
    x = astype(raw, "float32")
    x = abs(x * 2.0 - 3.0) + 1.0
    x = np.sqrt(x) + x / 7.0
    x = clip(where(x > mean(x), x, -x), -1e4, 1e4) - std(x)
    x = maximum(white_tophat(closing(x, 1), 2), 1)
    bright = x > quantile(x, 0.7)
    return {
        "bright": bright,
        "level": quantile(x, 0.5),
        "chained": x,
        "peaks": find_peaks(x, 2, threshold=quantile(x, 0.2)),
    }


FIVE = (segment, shading, background, pyramid, chain)


def picture(shape, dtype: str, seed: int) -> np.ndarray:
    """Return blobs on noise, so that thresholds, objects and peaks are there to be found."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.normal(size=shape), [min(1.5, n / 3) for n in shape])
    blobs = blobs / max(1e-9, float(np.abs(blobs).max())) + 0.05 * rng.normal(size=shape)
    dtype_ = np.dtype(dtype)
    if dtype_.kind == "b":
        return blobs > 0.1
    if dtype_.kind == "f":
        return (100 * blobs).astype(dtype_)
    low, high = (0, 255) if dtype_.itemsize == 1 else (0, 60_000)
    if dtype_.kind == "i":
        low = -high
    return np.clip(low + (blobs + 1) / 2 * (high - low), low, high).astype(dtype_)


@dataclass(frozen=True)
class Case:
    """An image, told by what it is made from, and the length of blocks along each axis."""

    shape: tuple[int, ...]
    dtype: str
    seed: int
    tiling: dict[str, int]

    @property
    def image(self) -> np.ndarray:
        return picture(self.shape, self.dtype, self.seed)


@st.composite
def cases(draw, most: int = 40_000):
    """Draw an image of 2 to 5 axes, one of them 1 or 257 voxels long now and then, and blocks."""
    ndim = draw(st.integers(2, 5))
    longest = {2: 120, 3: 40, 4: 14, 5: 8}[ndim]
    shape = [draw(st.integers(1, longest)) for _ in range(ndim)]
    if draw(st.booleans()):
        shape[draw(st.integers(0, ndim - 1))] = draw(st.sampled_from([1, 2, 257]))
    while np.prod(shape) > most:
        shape[int(np.argmax([n if n != 257 else 0 for n in shape]))] //= 2
    dtype = draw(st.sampled_from(DTYPES))
    axes = Grid.of(shape).axes
    tiling = {a: draw(st.integers(max(1, n // 4), n)) for a, n in zip(axes, shape, strict=True)}
    return Case(tuple(shape), dtype, draw(st.integers(0, 2**31)), tiling)


def bind(pipeline: lp.Pipeline, image, **parameters):
    """Return the bound pipeline and its sources, as `run_in_blocks` takes them."""
    source = open_source(image)
    return pipeline.bind({"raw": source.type}, parameters), {"raw": source}


def fingerprints(out: Path) -> dict[str, str]:
    """Return the sha256 of every published file but the record, which holds times."""
    return {
        str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(out.rglob("*"))
        if f.is_file() and f.name != "lepton.json" and ".lepton" not in f.parts
    }
