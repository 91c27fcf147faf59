"""Rechunk: bricks of 64 x 256 x 256 voxels to planes, one z in each chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.candidate import Job, Workload, by_hand, by_hand_on_disk, ours, standard
from tests.benchmarks.rivals import dask_input, dask_store, each, reference_filter

NAME = "planes"


def plane_chunks(job: Job) -> tuple[int, ...]:
    """Return the chunk shape wanted."""
    return (1, *job.size.volume[1:])


def _on_dask(job: Job) -> None:
    raw = dask_input(job.input("volume"), job.size.chunks)
    planes = raw.rechunk((16, *job.size.volume[1:]))
    dask_store(planes, job.image(NAME), plane_chunks(job))


def _loop(job: Job, door: Any, pool: Any) -> None:
    """Read rows of bricks; encode their planes in parallel."""
    raw = door.read(job.input("volume"))
    out = door.create(job.image(NAME), raw.shape, plane_chunks(job), raw.dtype)
    rows = job.size.chunks[0]
    width = job.size.chunks[1]
    for z in range(0, raw.shape[0], rows):
        slab = np.empty((min(rows, raw.shape[0] - z), *raw.shape[1:]), raw.dtype)

        def read(y: int, z: int = z, slab: Any = slab) -> None:
            below, right = min(z + rows, raw.shape[0]), min(y + width, raw.shape[1])
            slab[:, y:right] = raw[z:below, y:right]

        def write(k: int, z: int = z, slab: Any = slab) -> None:
            out[z + k : z + k + 1] = slab[k : k + 1]

        each(pool, read, range(0, raw.shape[1], width))
        each(pool, write, range(len(slab)))


def _warm() -> None:
    """Nothing is compiled: bytes are moved by NumPy."""


def _limit(job: Job) -> None:
    """Decode the bricks of a row straight into planes, then encode the planes."""
    from tests.benchmarks.limit_chunks import Chunks, Writer, in_threads

    source = Chunks(job.input("volume"))
    writer = Writer(job.image(NAME), source.shape, plane_chunks(job), source.dtype)
    slab = np.empty((source.chunks[0], *source.shape[1:]), source.dtype)
    for row in range(source.counts[0]):
        first = row * source.chunks[0]

        def decode(at: Any) -> None:
            start, stop = source.box(at)
            box = tuple(slice(a, b) for a, b in zip(start[1:], stop[1:], strict=True))
            slab[(slice(0, stop[0] - start[0]), *box)] = source.decode_inside(at)

        def encode(k: int, first: int = first) -> None:
            writer.write((first + k, 0, 0), slab[k : k + 1])

        in_threads(decode, [at for at in source.all() if at[0] == row], job.threads)
        in_threads(encode, range(min(len(slab), source.shape[0] - first)), job.threads)


def _reference(job: Job) -> None:
    import zarr

    raw = zarr.open_array(str(job.input("volume")), mode="r")
    reference_filter(job, NAME, raw, (0, 0, 0), lambda block, _: block)


def _check(got: Job, want: Job) -> list[str]:
    """Compare voxels exactly, and see that chunks are whole planes."""
    import zarr

    chunks = zarr.open_array(str(got.image(NAME)), mode="r").chunks
    wrong = [] if chunks == plane_chunks(want) else [f"chunks are {chunks}, not planes"]
    return wrong + compare.images(got, want, NAME, share=0)


WORKLOAD = Workload(
    name="rechunk",
    title="bricks to planes",
    needs=("volume",),
    candidates={
        "ours": ours("rechunk", raw="volume"),
        "limit": by_hand(_warm, _limit),
        "limit_on_disk": by_hand_on_disk(_warm, _limit),
        **standard(_on_dask, _loop),
    },
    reference=_reference,
    check=_check,
)
