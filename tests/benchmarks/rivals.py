"""What several rivals share: filters over blocks, on Dask and in a loop; levels of a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.arrays import Door, boxes, create, grow
from tests.benchmarks.candidate import Job

Filter = Callable[[Any], Any]


def each(pool: ThreadPoolExecutor, work: Callable[[Any], None], tasks: Any) -> None:
    """Do all tasks in the pool."""
    for _ in pool.map(work, tasks):
        pass


def filter_blocks(
    pool: ThreadPoolExecutor,
    source: Any,
    target: Any,
    depth: Sequence[int],
    fn: Callable[[Any, Any], Any],
    block: Sequence[int],
) -> None:
    """Filter an array block by block.

    Parameters
    ----------
    fn
        Called with a grown block and its place, returns a block of the same shape.
    """

    def one(box: Any) -> None:
        grown, inner = grow(box, depth, source.shape)
        target[box] = fn(source[grown], grown)[inner]

    each(pool, one, boxes(source.shape, block))


def halve(image: Any) -> Any:
    """Return the mean of cells of two voxels a side, rounded; the last may be smaller."""
    total, count = image.astype(np.float32), np.float32(1)
    for axis, n in enumerate(image.shape):
        at = np.arange(0, n, 2)
        total = np.add.reduceat(total, at, axis=axis)
        sizes = np.diff(np.append(at, n)).astype(np.float32)
        count = count * sizes.reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    return np.rint(total / count).astype(image.dtype)


def halve_even(image: Any) -> Any:
    """Return the same where all sides are even: what a user writes who knows reshape."""
    if any(n % 2 for n in image.shape):
        return halve(image)
    split = [k for n in image.shape for k in (n // 2, 2)]
    axes = tuple(range(1, 2 * image.ndim, 2))
    mean = image.reshape(split).mean(axis=axes, dtype=np.float32)
    return np.rint(mean).astype(image.dtype)


def levels_by_loop(
    pool: ThreadPoolExecutor, door: Door, image: Path, count: int, block: Sequence[int]
) -> None:
    """Make levels 1, 2, ..., each from the one before, block by block."""
    for level in range(1, count):
        fine = door.read(image / str(level - 1))
        shape = [-(-n // 2) for n in fine.shape]
        coarse = door.create(image / str(level), shape, fine.chunks, fine.dtype)

        def one(box: Any, fine: Any = fine, coarse: Any = coarse) -> None:
            wide = tuple(
                slice(2 * s.start, min(2 * s.stop, n)) for s, n in zip(box, fine.shape, strict=True)
            )
            coarse[box] = halve_even(fine[wide])

        each(pool, one, boxes(shape, block))


# -- on Dask --------------------------------------------------------------------------------


def dask_input(path: Path, block: Sequence[int]) -> Any:
    """Return a zarr array as a dask array in blocks of several chunks."""
    import dask.array as da

    source: Any = da.from_zarr(str(path), chunks=tuple(block))
    return source


def dask_store(array: Any, path: Path, chunks: Sequence[int], compute: bool = True) -> Any:
    """Write a dask array as zarr.

    Blocks are cut anew where two would write to one chunk: `map_overlap` joins small ones.
    """
    import dask.array as da

    target = create(path, array.shape, chunks, array.dtype)
    return da.store(array.rechunk(_multiple(array, chunks)), target, lock=False, compute=compute)


def dask_halve(array: Any) -> Any:
    """Return the next coarser level of a dask array, its blocks half as long."""
    import dask.array as da

    chunks = [tuple(-(-c // 2) for c in along) for along in array.chunks]
    return da.map_blocks(halve_even, array, chunks=chunks, dtype=array.dtype)


def dask_levels(job: Job, array: Any, name: str, chunks: Sequence[int], count: int) -> None:
    """Write a dask array and its coarser levels in one computation."""
    import dask

    stores = []
    for level in range(count):
        if level:
            array = dask_halve(array)
        stores.append(dask_store(array, job.image(name, level), chunks, compute=False))
    dask.compute(stores)


def _multiple(array: Any, chunks: Sequence[int]) -> tuple[int, ...]:
    """Return block lengths that are multiples of the chunks', about as they are."""
    return tuple(max(c, along[0] // c * c) for along, c in zip(array.chunks, chunks, strict=True))


def reference_filter(
    job: Job, name: str, source: Any, depth: Sequence[int], fn: Callable[[Any, Any], Any]
) -> None:
    """Filter by whole rows of chunks along the first axis, with zarr-python."""
    rows = (max(source.chunks[0], 2 * depth[0]), *source.shape[1:])
    target = create(job.image(name), source.shape, source.chunks, source.dtype)
    with ThreadPoolExecutor(job.threads) as pool:
        filter_blocks(pool, source, target, depth, fn, rows)
