"""Median of 3 x 3 x 3 voxels, of a part of the volume."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard, whole_array
from tests.benchmarks.rivals import dask_input, dask_store, filter_blocks, reference_filter

DEPTH = (1, 1, 1)
NAME = "median"


def filtered(block: Any) -> Any:
    """Return what SciPy makes of it."""
    from scipy import ndimage

    return ndimage.median_filter(block, 3)


def _on_dask(job: Job) -> None:
    raw = dask_input(job.input("part"), job.size.block)
    result = raw.map_overlap(filtered, depth=1, boundary="reflect", dtype=raw.dtype)
    dask_store(result, job.image(NAME), job.size.chunks)


def _loop(job: Job, door: Any, pool: Any) -> None:
    raw = door.read(job.input("part"))
    out = door.create(job.image(NAME), raw.shape, job.size.chunks, raw.dtype)
    filter_blocks(pool, raw, out, DEPTH, lambda b, _: filtered(b), job.size.block)


def _whole(job: Job) -> None:
    """Take scikit-image's median, the whole array at once."""
    import zarr
    from skimage.filters import median

    from tests.benchmarks.arrays import create

    raw = zarr.open_array(str(job.input("part")), mode="r")[...]
    out = create(job.image(NAME), raw.shape, job.size.chunks, raw.dtype)
    out[...] = median(raw, np.ones((3, 3, 3), bool), mode="reflect")


def _warm() -> None:
    from tests.benchmarks.limit_rank import median

    median(np.ones((3, 3, 3), np.uint16), np.ones((1, 1, 1), np.uint16))


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_chunks import Chunks, Shared, Writer, buffer, by_columns, in_threads
    from tests.benchmarks.limit_rank import median

    source = Chunks(job.input("part"))
    shared = Shared(source, DEPTH)
    writer = Writer(job.image(NAME), source.shape, source.chunks, source.dtype)

    def one(at: Any) -> None:
        block = shared.grown(at)
        out = buffer("out", [n - 2 for n in block.shape], source.dtype)
        median(block, out)
        writer.write(at, out)

    in_threads(one, by_columns(source), job.threads)


def _reference(job: Job) -> None:
    import zarr

    raw = zarr.open_array(str(job.input("part")), mode="r")
    reference_filter(job, NAME, raw, DEPTH, lambda b, _: filtered(b))


WORKLOAD = Workload(
    name="median",
    title="median 3 x 3 x 3 (part of the volume)",
    needs=("part",),
    candidates={
        "ours": ours("median", raw="part"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
        "whole": whole_array(_whole),
    },
    reference=_reference,
    check=lambda got, want: compare.images(got, want, NAME, share=0),
)
