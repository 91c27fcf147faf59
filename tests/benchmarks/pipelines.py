"""The workloads as a user of lepton_pipe writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import lepton_pipe as lp
from lepton_pipe.kernels import (
    astype,
    clip,
    downsample,
    flatfield,
    gaussian,
    histogram,
    label,
    maximum_of,
    mean,
    minimum_of,
    opening,
    otsu,
    project,
    quantile,
    regionprops,
    std,
    sum_of,
)
from lepton_pipe.kernels import median as median_filter

PROPERTIES = ("area", "centroid", "bbox", "intensity_mean")
QUANTILES = (0.01, 0.5, 0.99)
SIGMAS = (1.0, 1.5, 2.0, 2.5, 3.0)


def opened(image: str, path: Path) -> Any:
    """Return an input as `plan` takes it."""
    if image == "files":
        return lp.open_image(f"{path}/*.tif", axes="tyx")
    return path


def warm(pipeline: str, inputs: dict[str, str]) -> None:
    """Compute a pipeline on tiny arrays: what it imports and compiles is then in this process."""
    tiny = {
        "volume": np.ones((8, 16, 24), np.uint16),
        "labels": np.ones((8, 16, 24), np.uint32),
        "slide": np.ones((16, 24), np.uint8),
        "files": lp.open_image(np.ones((2, 16, 24), np.uint16), axes="tyx"),
        "flat": np.ones((16, 24), np.uint16),
    }
    tiny |= {"part": tiny["volume"], "background": tiny["flat"]}
    globals()[pipeline](**{n: tiny[i] for n, i in inputs.items()})
    for image in tiny["volume"], tiny["flat"], tiny["slide"]:
        downsample(image, 2)  # as the scale levels of results are made


def rounded(image: Any, dtype: str = "uint16") -> Any:
    """Round to integers."""
    return astype(image, dtype, cast="clip")


@lp.pipeline
def smooth(raw: lp.Image, flat: lp.Image) -> dict[str, lp.Node]:
    """Correct the light, then smooth."""
    return {"smooth": rounded(gaussian(flatfield(raw, flat), sigma=(1.0, 2.0, 2.0)))}


@lp.pipeline
def segment(raw: lp.Image) -> dict[str, lp.Node]:
    """Find and measure nuclei."""
    light = rounded(gaussian(raw, sigma=(1.0, 2.0, 2.0)))
    labels = label(light > otsu(light))
    return {"labels": labels, "objects": regionprops(labels, raw, PROPERTIES)}


@lp.pipeline
def pyramid(raw: lp.Image) -> dict[str, lp.Node]:
    """Make scale levels."""
    return {"image": raw}


@lp.pipeline
def reduce(raw: lp.Image) -> dict[str, lp.Node]:
    """Describe the whole image by numbers."""
    return {
        "histogram": histogram(raw, 65536, (0, 65536)),
        "mean": mean(raw),
        "std": std(raw),
        "min": minimum_of(raw),
        "max": maximum_of(raw),
        "quantiles": quantile(raw, QUANTILES),
    }


@lp.pipeline
def median(raw: lp.Image) -> dict[str, lp.Node]:
    """Take out single voxels."""
    return {"median": median_filter(raw, 3)}


@lp.pipeline
def morphology(raw: lp.Image) -> dict[str, lp.Node]:
    """Take out what is bright and small."""
    return {"opened": opening(raw, 3)}


@lp.pipeline
def projection(raw: lp.Image) -> dict[str, lp.Node]:
    """Look from above."""
    return {"projection": project(raw, "z", "max")}


@lp.pipeline
def rechunk(raw: lp.Image) -> dict[str, lp.Node]:
    """Store bricks as planes."""
    return {"planes": raw}


@lp.pipeline
def table(labels: lp.Image, raw: lp.Image) -> dict[str, lp.Node]:
    """Measure objects that are given."""
    return {"objects": regionprops(labels, raw, PROPERTIES)}


@lp.pipeline
def blurred(raw: lp.Image, *, sigma: float = 2.0) -> dict[str, lp.Node]:
    """Smooth, twice as wide in a plane as across planes."""
    return {"smooth": rounded(gaussian(raw, sigma=(sigma / 2, sigma, sigma)))}


sweep = blurred.sweep(sigma=SIGMAS)


@lp.pipeline
def slide(raw: lp.Image) -> dict[str, lp.Node]:
    """Smooth a slide."""
    return {"smooth": rounded(gaussian(raw, sigma=2.0), "uint8")}


# -- files: a kernel of the user's own, for numbers of each plane ---------------------------------


def _joined(a: Any, b: Any) -> Any:
    return np.concatenate([a, b])


def _per_plane(rows: Any) -> dict[str, Any]:
    """Fold the rows of one plane, which may come from several blocks."""
    t, at = np.unique(rows[:, 0].astype(np.int64), return_inverse=True)
    low, high = np.full(len(t), np.inf), np.full(len(t), -np.inf)
    np.minimum.at(low, at, rows[:, 4])
    np.maximum.at(high, at, rows[:, 5])
    n, total, squares = (np.bincount(at, rows[:, k]) for k in (1, 2, 3))
    spread = np.sqrt(squares / n - (total / n) ** 2)
    return {"t": t, "mean": total / n, "std": spread, "min": low, "max": high}


@lp.kernel(combine=_joined, finalize=_per_plane, returns="table", scratch=10, cost=3)
def plane_statistics(image: Any, *, place: Any) -> Any:
    """Return number, sum, sum of squares, minimum and maximum of each plane t."""
    rows = []
    for t, plane in enumerate(image, place.write.start[0]):
        total, squares = plane.sum(dtype=np.float64), np.square(plane, dtype=np.float64).sum()
        rows.append([t, plane.size, total, squares, plane.min(), plane.max()])
    return np.array(rows, np.float64)


@lp.pipeline
def files(files: lp.Image, background: lp.Image) -> dict[str, lp.Node]:
    """Take off the background, smooth, stack, and describe each plane."""
    bright = clip(astype(files, "float32") - background, 0, None)
    stack = rounded(gaussian(bright, sigma=1.0))
    return {"stack": stack, "planes": plane_statistics(stack)}


# -- next to no work, to measure what a block costs ------------------------------------------------


@lp.pipeline
def total(raw: lp.Image) -> dict[str, lp.Node]:
    """Reduce to a number."""
    return {"total": sum_of(raw)}


@lp.pipeline
def copied(raw: lp.Image) -> dict[str, lp.Node]:
    """Store as it is, but for one."""
    return {"copied": raw + 1}


def options(pipeline: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what is said to `plan` besides images.

    Planes as chunks, to rechunk a volume; and no scale levels where the task asks for none, as
    nobody else makes them there.
    """
    if pipeline in ("pyramid", "segment", "slide"):
        return {}
    if pipeline != "rechunk":
        return {"levels": 1}
    _, y, x = shape
    return {"chunks": {"z": 1, "y": y, "x": x}, "levels": 1}
