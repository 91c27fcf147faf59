"""Files: 2,000 TIFFs, background taken off, gaussian, statistics of each, stacked in one zarr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.candidate import (
    Job,
    Workload,
    by_hand,
    by_hand_on_disk,
    on_cluster,
    on_threads,
    ours,
    through_tensorstore,
    through_zarr,
)

NAME, TABLE = "stack", "planes"
STATISTICS = ("mean", "std", "min", "max")
BATCH = 16


def paths(job: Job) -> list[Path]:
    """Return all files in order."""
    return sorted(job.input("files").glob("*.tif"))


def corrected(plane: Any, background: Any) -> Any:
    """Return one plane without background, smoothed and rounded."""
    from scipy import ndimage

    bright = np.maximum(plane - background.astype(np.float32), 0)
    smooth = ndimage.gaussian_filter(bright, 1.0)
    return np.rint(smooth, out=smooth).astype(np.uint16)


def described(plane: Any) -> tuple[float, ...]:
    """Return the statistics of a plane."""
    return plane.mean(), plane.std(), plane.min(), plane.max()


def _save(job: Job, rows: Sequence[Any]) -> None:
    columns = np.array(rows, np.float64).T
    table = dict(zip(STATISTICS, columns, strict=True))
    job.save_table(TABLE, {"t": np.arange(len(rows)), **table})


def _chunks(job: Job) -> tuple[int, ...]:
    return (1, *job.size.plane)


def _shape(job: Job) -> tuple[int, ...]:
    return (job.size.files, *job.size.plane)


def _batch(files: Sequence[Path], background: Any, target: Any, first: int) -> list[Any]:
    import tifffile

    rows = []
    for i, path in enumerate(files, first):
        plane = corrected(tifffile.imread(path), background)
        target[i : i + 1] = plane[None]
        rows.append(described(plane))
    return rows


def _on_dask(job: Job) -> None:
    """Give each task a batch of files: one task for each would drown in overhead."""
    import dask

    from tests.benchmarks.arrays import create

    files, background = paths(job), job.array("background")
    target = create(job.image(NAME), _shape(job), _chunks(job), np.uint16)
    batch = dask.delayed(_batch)
    starts = range(0, len(files), BATCH)
    tasks = [batch(files[i : i + BATCH], background, target, i) for i in starts]
    _save(job, [row for rows in dask.compute(*tasks) for row in rows])


def _loop(job: Job, door: Any, pool: Any) -> None:
    files, background = paths(job), job.array("background")
    target = door.create(job.image(NAME), _shape(job), _chunks(job), np.uint16)

    def one(first: int) -> list[Any]:
        return _batch(files[first : first + BATCH], background, target, first)

    starts = range(0, len(files), BATCH)
    _save(job, [row for rows in pool.map(one, starts) for row in rows])


def _warm() -> None:
    import tifffile  # noqa: F401

    from tests.benchmarks.limit_files import warm

    warm()


def _limit(job: Job) -> None:
    """Read pixels at the place where the first file has them."""
    import tifffile

    from tests.benchmarks.limit_chunks import Writer, buffer, in_threads
    from tests.benchmarks.limit_files import smooth_plane

    files, background = paths(job), job.array("background").astype(np.float32)
    with tifffile.TiffFile(files[0]) as tiff:
        offset = tiff.pages.first.dataoffsets[0]
    writer = Writer(job.image(NAME), _shape(job), _chunks(job), np.uint16)
    rows: list[Any] = [None] * len(files)

    def one(i: int) -> None:
        with open(files[i], "rb", buffering=0) as file:  # noqa: PTH123
            data = file.read()
        raw = np.frombuffer(data, np.uint16, background.size, offset).reshape(background.shape)
        out = buffer("out", raw.shape, np.uint16)
        n, total, squares, low, high = smooth_plane(raw, background, out)
        mean = total / n
        rows[i] = (mean, np.sqrt(squares / n - mean * mean), low, high)
        writer.write((i, 0, 0), out[None])

    in_threads(one, range(len(files)), job.threads)
    _save(job, rows)


def _reference(job: Job) -> None:
    import tifffile

    from tests.benchmarks.arrays import create

    background = job.array("background")
    target = create(job.image(NAME), _shape(job), _chunks(job), np.uint16)
    rows = []
    for i, path in enumerate(paths(job)):
        plane = corrected(tifffile.imread(path), background)
        target[i] = plane
        rows.append(described(plane))
    _save(job, rows)


def _check(got: Job, want: Job) -> list[str]:
    """Compare the stack to the grey level, and so the statistics, which follow from it."""
    wrong = compare.images(got, want, NAME)
    a, b = compare.read_table(got, TABLE), compare.read_table(want, TABLE)
    for column, within in {"mean": 1e-3, "std": 1e-3, "min": 1, "max": 1}.items():
        if a[column].shape != b[column].shape or np.abs(a[column] - b[column]).max() > within:
            wrong.append(f"{TABLE}: {column} differs")
    return wrong


WORKLOAD = Workload(
    name="files",
    title="TIFFs: background, gaussian, statistics, stack",
    needs=("files", "background"),
    candidates={
        "ours": ours("files", files="files", background="background"),
        "limit": by_hand(_warm, _limit),
        "limit_on_disk": by_hand_on_disk(_warm, _limit),
        "dask_delayed": on_cluster(_on_dask),
        "dask_threads": on_threads(_on_dask),
        "block_loop": through_zarr(_loop),
        "tensorstore": through_tensorstore(_loop),
    },
    reference=_reference,
    check=_check,
)
