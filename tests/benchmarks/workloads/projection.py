"""Projection: the maximum along z."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.arrays import boxes
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard, whole_array
from tests.benchmarks.rivals import dask_input, dask_store, each

NAME = "projection"


def _on_dask(job: Job) -> None:
    raw = dask_input(job.input("volume"), job.size.block)
    result = raw.max(axis=0)
    dask_store(result, job.image(NAME), job.size.chunks[1:])


def _loop(job: Job, door: Any, pool: Any) -> None:
    raw = door.read(job.input("volume"))
    out = door.create(job.image(NAME), raw.shape[1:], job.size.chunks[1:], raw.dtype)
    depth = job.size.block[0]

    def one(box: Any) -> None:
        slabs = [slice(z, min(z + depth, raw.shape[0])) for z in range(0, raw.shape[0], depth)]
        best = raw[(slabs[0], *box)].max(axis=0)
        for slab in slabs[1:]:
            np.maximum(best, raw[(slab, *box)].max(axis=0), out=best)
        out[box] = best

    each(pool, one, boxes(raw.shape[1:], job.size.block[1:]))


def _whole(job: Job) -> None:
    import zarr

    from tests.benchmarks.arrays import create

    raw = zarr.open_array(str(job.input("volume")), mode="r")[...]
    out = create(job.image(NAME), raw.shape[1:], job.size.chunks[1:], raw.dtype)
    out[...] = raw.max(axis=0)


def _warm() -> None:
    """NumPy's maximum along the slowest axis is as fast as memory."""


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_chunks import Chunks, Writer, in_threads

    source = Chunks(job.input("volume"))
    writer = Writer(job.image(NAME), source.shape[1:], source.chunks[1:], source.dtype)

    def one(at: Any) -> None:
        best = source.decode_inside((0, *at)).max(axis=0)
        for z in range(1, source.counts[0]):
            for plane in source.decode_inside((z, *at)):
                np.maximum(best, plane, out=best)
        writer.write(at, best)

    in_threads(one, writer.all(), job.threads)


def _reference(job: Job) -> None:
    import zarr

    from tests.benchmarks.arrays import create

    raw = zarr.open_array(str(job.input("volume")), mode="r")
    best = raw[0]
    for z in range(0, raw.shape[0], raw.chunks[0]):
        best = np.maximum(best, raw[z : z + raw.chunks[0]].max(axis=0))
    create(job.image(NAME), best.shape, job.size.chunks[1:], best.dtype)[...] = best


WORKLOAD = Workload(
    name="projection",
    title="maximum along z",
    needs=("volume",),
    candidates={
        "ours": ours("projection", raw="volume"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
        "whole": whole_array(_whole),
    },
    reference=_reference,
    check=lambda got, want: compare.images(got, want, NAME, share=0),
)
