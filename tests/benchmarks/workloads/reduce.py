"""Reduce: a histogram of 65,536 bins, mean, standard deviation, extremes and quantiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.arrays import boxes
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard
from tests.benchmarks.limit_stats import from_histogram
from tests.benchmarks.rivals import dask_input

BINS = 1 << 16
QUANTILES = [0.01, 0.5, 0.99]


def _save(job: Job, counts: Any) -> None:
    job.save_values({"histogram": counts, **from_histogram(counts, QUANTILES)})


def _on_dask(job: Job) -> None:
    """Compute the numbers as dask.array offers them, in one pass; quantiles from the histogram."""
    import dask
    import dask.array as da

    from tests.benchmarks.limit_stats import quantiles

    raw = dask_input(job.input("volume"), job.size.block)
    counts = da.bincount(raw.ravel(), minlength=BINS)
    wanted = (counts, raw.mean(), raw.std(), raw.min(), raw.max())
    counts, mean, std, low, high = dask.compute(*wanted)
    job.save_values(
        {
            "histogram": counts,
            "mean": mean,
            "std": std,
            "min": low,
            "max": high,
            "quantiles": quantiles(np.asarray(counts), QUANTILES),
        }
    )


def histogram(job: Job, door: Any, pool: Any, path: Any) -> Any:
    """Return a histogram of a zarr array by a loop over blocks."""
    raw = door.read(path)

    def one(box: Any) -> Any:
        return np.bincount(raw[box].ravel(), minlength=BINS)

    return sum(pool.map(one, boxes(raw.shape, job.size.block)))


def _loop(job: Job, door: Any, pool: Any) -> None:
    _save(job, histogram(job, door, pool, job.input("volume")))


def _warm() -> None:
    from tests.benchmarks.limit_stats import count, tables

    count(np.ones(8, np.uint16), tables())


def count_chunks(job: Job, name: str) -> tuple[Callable[[Any], None], Any]:
    """Return a task that counts a chunk of an input, and the tables it adds to."""
    import threading

    from tests.benchmarks.limit_chunks import Chunks
    from tests.benchmarks.limit_stats import count, tables

    source, own, made = Chunks(job.input(name)), threading.local(), []

    def one(at: Any) -> None:
        if not hasattr(own, "tables"):
            own.tables = tables()
            made.append(own.tables)
        count(source.decode_inside(at), own.tables)

    return one, made


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_chunks import Chunks, in_threads

    one, made = count_chunks(job, "volume")
    in_threads(one, Chunks(job.input("volume")).all(), job.threads)
    _save(job, sum(t.sum(axis=0) for t in made))


def _reference(job: Job) -> None:
    """Compute every number from the voxels themselves, rows of chunks at a time."""
    import zarr

    raw = zarr.open_array(str(job.input("volume")), mode="r")
    counts, total, low, high = np.zeros(BINS, np.int64), 0, BINS, -1
    rows = raw.chunks[0]
    for z in range(0, raw.shape[0], rows):
        part = raw[z : z + rows]
        counts += np.histogram(part, BINS, (0, BINS))[0]
        total += int(part.sum(dtype=np.uint64))
        low, high = min(low, int(part.min())), max(high, int(part.max()))
    mean, spread = total / raw.size, 0.0
    for z in range(0, raw.shape[0], rows):
        spread += float(np.square(raw[z : z + rows] - mean).sum())
    job.save_values(
        {
            "histogram": counts,
            "mean": mean,
            "std": np.sqrt(spread / raw.size),
            "min": low,
            "max": high,
            "quantiles": from_histogram(counts, QUANTILES)["quantiles"],
        }
    )


WORKLOAD = Workload(
    name="reduce",
    title="histogram, mean, std, min, max, quantiles",
    needs=("volume",),
    candidates={
        "ours": ours("reduce", raw="volume"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
    },
    reference=_reference,
    check=compare.values,
)
