"""Sweep: five gaussians of one image in one run, of a part of the volume."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.arrays import boxes, grow
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard
from tests.benchmarks.rivals import dask_input, dask_store, each, reference_filter
from tests.benchmarks.workloads.smooth import smoothed

WIDTHS = (1.0, 1.5, 2.0, 2.5, 3.0)
SIGMAS = tuple((s / 2, s, s) for s in WIDTHS)
NAMES = tuple(f"sigma={s:g}/smooth" for s in WIDTHS)


def depth(sigma: Any) -> tuple[int, ...]:
    """Return how far SciPy's gaussian reaches."""
    return tuple(int(4 * s + 0.5) for s in sigma)


def _on_dask(job: Job) -> None:
    import dask

    raw = dask_input(job.input("part"), job.size.block)
    stores = []
    for name, sigma in zip(NAMES, SIGMAS, strict=True):
        result = raw.map_overlap(
            smoothed, depth=depth(sigma), boundary="reflect", dtype=np.uint16, sigma=sigma
        )
        stores.append(dask_store(result, job.image(name), job.size.chunks, compute=False))
    dask.compute(stores)


def _loop(job: Job, door: Any, pool: Any) -> None:
    """Read each block once, with the largest overlap, for all five."""
    raw = door.read(job.input("part"))
    targets = [door.create(job.image(n), raw.shape, job.size.chunks, np.uint16) for n in NAMES]

    def one(box: Any) -> None:
        grown, inner = grow(box, depth(SIGMAS[-1]), raw.shape)
        block = raw[grown]
        for target, sigma in zip(targets, SIGMAS, strict=True):
            target[box] = smoothed(block, sigma)[inner]

    each(pool, one, boxes(raw.shape, job.size.block))


def _warm() -> None:
    from tests.benchmarks.limit_gauss import warm

    for sigma in SIGMAS:
        warm(sigma, np.uint16)


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_chunks import Chunks, Shared, Writer, buffer, by_columns, in_threads
    from tests.benchmarks.limit_gauss import radii, smooth_block
    from tests.benchmarks.limit_smooth import even_gain

    source = Chunks(job.input("part"))
    most = radii(SIGMAS[-1])
    shared = Shared(source, most)
    writers = [Writer(job.image(n), source.shape, source.chunks, np.uint16) for n in NAMES]

    def one(at: Any) -> None:
        block = shared.grown(at)
        out = buffer("out", [n - 2 * r for n, r in zip(block.shape, most, strict=True)], np.uint16)
        for writer, sigma in zip(writers, SIGMAS, strict=True):
            cut = [m - r for m, r in zip(most, radii(sigma), strict=True)]
            inside = block[tuple(slice(c, n - c) for c, n in zip(cut, block.shape, strict=True))]
            part = buffer("part", inside.shape, inside.dtype)
            part[...] = inside
            smooth_block(part, even_gain(part.shape), sigma, out)
            writer.write(at, out)

    in_threads(one, by_columns(source), job.threads)


def _reference(job: Job) -> None:
    import zarr

    raw = zarr.open_array(str(job.input("part")), mode="r")
    for name, sigma in zip(NAMES, SIGMAS, strict=True):
        reference_filter(
            job, name, raw, depth(sigma), lambda block, _, sigma=sigma: smoothed(block, sigma)
        )


def _check(got: Job, want: Job) -> list[str]:
    return [wrong for name in NAMES for wrong in compare.images(got, want, name)]


WORKLOAD = Workload(
    name="sweep",
    title="five gaussians in one run (part of the volume)",
    needs=("part",),
    candidates={
        "ours": ours("sweep", raw="part"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
    },
    reference=_reference,
    check=_check,
)
