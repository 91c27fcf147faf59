"""Slide: a plane of up to 50,000 x 50,000 pixels, gaussian of sigma 2, and its coarser levels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard
from tests.benchmarks.rivals import (
    dask_input,
    dask_levels,
    filter_blocks,
    levels_by_loop,
    reference_filter,
)
from tests.benchmarks.workloads.smooth import smoothed

SIGMA = (2.0, 2.0)
DEPTH = (8, 8)
NAME = "smooth"


def _filtered(block: Any) -> Any:
    return smoothed(block, SIGMA, np.uint8)


def _on_dask(job: Job) -> None:
    raw = dask_input(job.input("slide"), job.size.area)
    result = raw.map_overlap(_filtered, depth=8, boundary="reflect", dtype=np.uint8)
    dask_levels(job, result, NAME, job.size.tile, job.size.slide_levels)


def _loop(job: Job, door: Any, pool: Any) -> None:
    raw = door.read(job.input("slide"))
    out = door.create(job.image(NAME), raw.shape, job.size.tile, np.uint8)
    filter_blocks(pool, raw, out, DEPTH, lambda b, _: _filtered(b), job.size.area)
    levels_by_loop(pool, door, job.out / NAME, job.size.slide_levels, job.size.area)


def _warm() -> None:
    from tests.benchmarks.limit_gauss import warm
    from tests.benchmarks.limit_pyramid import halve

    warm((0.0, *SIGMA), np.uint8)
    halve(np.ones((2, 2), np.uint8))


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_chunks import Chunks, Writer
    from tests.benchmarks.limit_pyramid import Coarser
    from tests.benchmarks.limit_smooth import smooth_chunks

    source = Chunks(job.input("slide"))
    writer = Writer(job.image(NAME), source.shape, source.chunks, source.dtype)
    coarser = Coarser(job.out / NAME, writer, job.size.slide_levels)

    def done(at: Any, chunk: Any) -> None:
        writer.write(at, chunk)
        coarser.add(at, chunk)

    smooth_chunks(job, source, (0.0, *SIGMA), None, done)
    coarser.finish()


def _reference(job: Job) -> None:
    import zarr

    from tests.benchmarks.arrays import ZarrDoor

    raw = zarr.open_array(str(job.input("slide")), mode="r")
    reference_filter(job, NAME, raw, DEPTH, lambda b, _: _filtered(b))
    with ThreadPoolExecutor(job.threads) as pool:
        levels_by_loop(pool, ZarrDoor(), job.out / NAME, job.size.slide_levels, job.size.area)


def _check(got: Job, want: Job) -> list[str]:
    """Compare all levels; some loops round means of coarser cells another way."""
    coarser = range(1, want.size.slide_levels)
    return compare.images(got, want, NAME) + compare.images(got, want, NAME, coarser, share=0.01)


WORKLOAD = Workload(
    name="slide",
    title="plane: gaussian 2, scale levels",
    needs=("slide",),
    candidates={
        "ours": ours("slide", raw="slide"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
    },
    reference=_reference,
    check=_check,
)
