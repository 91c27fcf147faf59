"""Morphology: a grey opening with a box of 3 x 3 x 3 voxels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard, whole_array
from tests.benchmarks.rivals import dask_input, dask_store, filter_blocks, reference_filter

DEPTH = (2, 2, 2)
NAME = "opened"


def filtered(block: Any) -> Any:
    """Return what SciPy makes of it."""
    from scipy import ndimage

    return ndimage.grey_opening(block, 3)


def _on_dask(job: Job) -> None:
    raw = dask_input(job.input("volume"), job.size.block)
    result = raw.map_overlap(filtered, depth=2, boundary="reflect", dtype=raw.dtype)
    dask_store(result, job.image(NAME), job.size.chunks)


def _loop(job: Job, door: Any, pool: Any) -> None:
    raw = door.read(job.input("volume"))
    out = door.create(job.image(NAME), raw.shape, job.size.chunks, raw.dtype)
    filter_blocks(pool, raw, out, DEPTH, lambda b, _: filtered(b), job.size.block)


def _whole(job: Job) -> None:
    """Take scikit-image's opening, the whole array at once."""
    import zarr
    from skimage.morphology import opening

    from tests.benchmarks.arrays import create

    raw = zarr.open_array(str(job.input("volume")), mode="r")[...]
    out = create(job.image(NAME), raw.shape, job.size.chunks, raw.dtype)
    out[...] = opening(raw, np.ones((3, 3, 3), np.uint8))


def _warm() -> None:
    from tests.benchmarks.limit_rank import opening

    opening(*(np.ones((n, n, n), np.uint16) for n in (5, 3, 1)))


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_chunks import Chunks, Shared, Writer, buffer, by_columns, in_threads
    from tests.benchmarks.limit_rank import opening

    source = Chunks(job.input("volume"))
    shared = Shared(source, DEPTH)
    writer = Writer(job.image(NAME), source.shape, source.chunks, source.dtype)

    def one(at: Any) -> None:
        block = shared.grown(at)
        eroded = buffer("eroded", [n - 2 for n in block.shape], source.dtype)
        out = buffer("out", [n - 4 for n in block.shape], source.dtype)
        opening(block, eroded, out)
        writer.write(at, out)

    in_threads(one, by_columns(source), job.threads)


def _reference(job: Job) -> None:
    import zarr

    raw = zarr.open_array(str(job.input("volume")), mode="r")
    reference_filter(job, NAME, raw, DEPTH, lambda b, _: filtered(b))


WORKLOAD = Workload(
    name="morphology",
    title="grey opening 3 x 3 x 3",
    needs=("volume",),
    candidates={
        "ours": ours("morphology", raw="volume"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
        "whole": whole_array(_whole),
    },
    reference=_reference,
    check=lambda got, want: compare.images(got, want, NAME, share=0),
)
