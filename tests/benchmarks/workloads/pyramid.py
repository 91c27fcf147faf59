"""Pyramid: the image itself and its coarser levels by the mean of 2 x 2 x 2 voxels."""

from __future__ import annotations

from collections.abc import Iterator
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
    warm_imports,
)
from tests.benchmarks.rivals import dask_input, dask_levels, each, levels_by_loop, reference_filter

NAME = "image"


def _on_dask(job: Job) -> None:
    raw = dask_input(job.input("volume"), job.size.block)
    dask_levels(job, raw, NAME, job.size.chunks, job.size.volume_levels)


def _loop(job: Job, door: Any, pool: Any) -> None:
    from tests.benchmarks.arrays import boxes

    raw = door.read(job.input("volume"))
    out = door.create(job.image(NAME), raw.shape, job.size.chunks, raw.dtype)

    def copy(box: Any) -> None:
        out[box] = raw[box]

    each(pool, copy, boxes(raw.shape, job.size.block))
    levels_by_loop(pool, door, job.out / NAME, job.size.volume_levels, job.size.chunks)


def _codec() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=2)


def _ngff_zarr(job: Job) -> Iterator[None]:
    import dask
    import ngff_zarr

    warm_imports()
    with dask.config.set(scheduler="threads", num_workers=job.threads):
        yield
        image = ngff_zarr.to_ngff_image(
            dask_input(job.input("volume"), job.size.chunks), dims=("z", "y", "x")
        )
        scales = ngff_zarr.to_multiscales(
            image,
            scale_factors=[2**k for k in range(1, job.size.volume_levels)],
            method=ngff_zarr.Methods.DASK_BIN_SHRINK,
            chunks=job.size.chunks,
            cache=False,
        )
        ngff_zarr.to_ngff_zarr(str(job.out / NAME), scales, version="0.5", compressors=_codec())


def _ome_zarr(job: Job) -> Iterator[None]:
    import dask
    import zarr
    from ome_zarr.scale import Methods
    from ome_zarr.writer import write_image

    warm_imports()
    with dask.config.set(scheduler="threads", num_workers=job.threads):
        yield
        group = zarr.open_group(str(job.out / NAME), mode="w", zarr_format=3)
        write_image(
            dask_input(job.input("volume"), job.size.block),
            group,
            axes="zyx",
            scale_factors=[dict.fromkeys("zyx", 2**k) for k in range(1, job.size.volume_levels)],
            method=Methods.LOCAL_MEAN,
            storage_options={"chunks": job.size.chunks, "compressors": _codec()},
        )


def _warm() -> None:
    from tests.benchmarks.limit_pyramid import halve

    halve(np.ones((2, 2, 2), np.uint16))


def _limit(job: Job) -> None:
    """Copy the finest level as bytes; make the others while a chunk is decoded."""
    from tests.benchmarks.limit_chunks import Chunks, Writer, in_threads
    from tests.benchmarks.limit_pyramid import Coarser

    source = Chunks(job.input("volume"))
    writer = Writer(job.image(NAME), source.shape, source.chunks, source.dtype)
    coarser = Coarser(job.out / NAME, writer, job.size.volume_levels)

    def one(at: Any) -> None:
        with open(source.file(at), "rb", buffering=0) as file:  # noqa: PTH123
            writer.write_bytes(at, file.read())
        coarser.add(at, source.decode_inside(at))

    in_threads(one, source.all(), job.threads)
    coarser.finish()


def _reference(job: Job) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import zarr

    from tests.benchmarks.arrays import ZarrDoor

    raw = zarr.open_array(str(job.input("volume")), mode="r")
    reference_filter(job, NAME, raw, (0, 0, 0), lambda block, _: block)
    with ThreadPoolExecutor(job.threads) as pool:
        levels_by_loop(pool, ZarrDoor(), job.out / NAME, job.size.volume_levels, job.size.block)


def _check(got: Job, want: Job) -> list[str]:
    """Compare the finest level exactly, and each coarser one to one grey level more.

    Libraries round means in their own ways: some to even, some down, at each level again.
    """
    coarser = range(1, want.size.volume_levels)
    exact = compare.images(got, want, NAME, share=0)
    return exact + compare.images(got, want, NAME, coarser, share=1, by_level=True)


WORKLOAD = Workload(
    name="pyramid",
    title="scale levels by the mean",
    needs=("volume",),
    candidates={
        "ours": ours("pyramid", raw="volume"),
        "limit": by_hand(_warm, _limit),
        "limit_on_disk": by_hand_on_disk(_warm, _limit),
        **standard(_on_dask, _loop),
        "ngff_zarr": _ngff_zarr,
        "ome_zarr": _ome_zarr,
    },
    reference=_reference,
    check=_check,
)
