"""Smooth: correct the light by a flat image, gaussian of sigma (1, 2, 2), rounded to uint16."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.candidate import (
    Job,
    Workload,
    by_hand,
    by_hand_on_disk,
    ours,
    standard,
    whole_array,
)
from tests.benchmarks.rivals import dask_input, dask_store, filter_blocks, reference_filter

SIGMA = (1.0, 2.0, 2.0)
DEPTH = (4, 8, 8)
NAME = "smooth"


def gain(job: Job) -> Any:
    """Return what every plane is multiplied by, float32 ``(y, x)``."""
    flat = job.array("flat").astype(np.float64)
    return (1 / np.maximum(flat / flat.mean(), 0.1)).astype(np.float32)


def smoothed(image: Any, sigma: Any, dtype: Any = np.uint16) -> Any:
    """Return what SciPy makes of an image, rounded."""
    from scipy import ndimage

    result = ndimage.gaussian_filter(image, sigma, output=np.float32)
    return np.rint(result, out=result).astype(dtype)


def corrected(block: Any, light: Any) -> Any:
    """Return a block with even light, smoothed."""
    return smoothed(block * light, SIGMA)


def _on_dask(job: Job) -> None:
    import dask.array as da

    light = gain(job)
    raw = dask_input(job.input("volume"), job.size.block)
    lit = raw * da.from_array(light, chunks=raw.chunks[1:])
    result = lit.map_overlap(
        smoothed, depth=DEPTH, boundary="reflect", dtype=np.uint16, sigma=SIGMA
    )
    dask_store(result, job.image(NAME), job.size.chunks)


def _loop(job: Job, door: Any, pool: Any) -> None:
    light = gain(job)
    raw = door.read(job.input("volume"))
    out = door.create(job.image(NAME), raw.shape, job.size.chunks, np.uint16)
    filter_blocks(pool, raw, out, DEPTH, lambda b, at: corrected(b, light[at[1:]]), job.size.block)


def _whole(job: Job) -> None:
    import zarr

    from tests.benchmarks.arrays import create

    raw = zarr.open_array(str(job.input("volume")), mode="r")[...]
    out = create(job.image(NAME), raw.shape, job.size.chunks, np.uint16)
    out[...] = corrected(raw, gain(job))


def _warm() -> None:
    from tests.benchmarks.limit_gauss import warm

    warm(SIGMA, np.uint16)


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_smooth import smooth_volume

    smooth_volume(job, "volume", NAME, SIGMA, gain(job))


def _reference(job: Job) -> None:
    import zarr

    light = gain(job)
    raw = zarr.open_array(str(job.input("volume")), mode="r")
    reference_filter(job, NAME, raw, DEPTH, lambda b, at: corrected(b, light[at[1:]]))


WORKLOAD = Workload(
    name="smooth",
    title="flat-field, gaussian (1, 2, 2), uint16",
    needs=("volume", "flat"),
    candidates={
        "ours": ours("smooth", raw="volume", flat="flat"),
        "limit": by_hand(_warm, _limit),
        "limit_on_disk": by_hand_on_disk(_warm, _limit),
        **standard(_on_dask, _loop),
        "whole": whole_array(_whole),
    },
    reference=_reference,
    check=lambda got, want: compare.images(got, want, NAME),
)
