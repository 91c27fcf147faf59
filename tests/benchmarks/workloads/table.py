"""Table: area, mean intensity, centroid and box of every object of a given label image."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.arrays import boxes
from tests.benchmarks.candidate import Job, Workload, by_hand, ours, standard, whole_array
from tests.benchmarks.rivals import dask_input
from tests.benchmarks.rivals_labels import fold, measure_block

NAME = "objects"


def _on_dask(job: Job) -> None:
    import dask

    labels, raw = (dask_input(job.input(n), job.size.block) for n in ("labels", "volume"))
    corners = [[s.start for s in box] for box in boxes(raw.shape, job.size.block)]
    measure = dask.delayed(measure_block)
    blocks = [
        measure(a, b, corner)
        for a, b, corner in zip(
            labels.to_delayed().ravel(), raw.to_delayed().ravel(), corners, strict=True
        )
    ]
    job.save_table(NAME, fold(dask.compute(*blocks)))


def _loop(job: Job, door: Any, pool: Any) -> None:
    labels, raw = (door.read(job.input(n)) for n in ("labels", "volume"))

    def one(box: Any) -> Any:
        return measure_block(labels[box], raw[box], [s.start for s in box])

    job.save_table(NAME, fold(list(pool.map(one, boxes(raw.shape, job.size.block)))))


def _whole(job: Job) -> None:
    import zarr

    labels, raw = (zarr.open_array(str(job.input(n)), mode="r")[...] for n in ("labels", "volume"))
    job.save_table(NAME, table_of_scikit_image(labels, raw))


def table_of_scikit_image(labels: Any, raw: Any) -> dict[str, Any]:
    """Return scikit-image's table, with our names of columns."""
    from skimage.measure import regionprops_table

    wanted = ("label", "area", "intensity_mean", "centroid", "bbox")
    found = regionprops_table(labels, raw, wanted)
    table = {n: found[n] for n in wanted[:3]}
    table["area"] = np.rint(table["area"]).astype(np.int64)
    for i, axis in enumerate("zyx"):
        table[f"centroid-{axis}"] = found[f"centroid-{i}"]
        table[f"bbox_min-{axis}"] = found[f"bbox-{i}"]
        table[f"bbox_max-{axis}"] = found[f"bbox-{i + 3}"]
    return table


def _warm() -> None:
    from tests.benchmarks.limit_label import empty_tables, measure_labels

    measure_labels(
        np.ones((1, 1, 1), np.uint32), np.ones((1, 1, 1), np.uint16), (0, 0, 0), *empty_tables(2)
    )


def _limit(job: Job) -> None:
    """Add runs of a label to tables indexed by label, a table for each thread."""
    import threading

    from tests.benchmarks.limit_chunks import Chunks, in_threads
    from tests.benchmarks.limit_label import columns, empty_tables, measure_labels

    labels, raw = (Chunks(job.input(n)) for n in ("labels", "volume"))
    own, made = threading.local(), []

    def one(at: Any) -> None:
        numbers, light = labels.decode_inside(at), raw.decode_inside(at)
        _make_room(own, made, int(numbers.max()) + 1, empty_tables)
        measure_labels(numbers, light, raw.box(at)[0], *own.tables)

    in_threads(one, raw.all(), job.threads)
    job.save_table(NAME, columns(*_merged(made, empty_tables)))


def _make_room(own: Any, made: list[Any], count: int, empty: Any) -> None:
    """See that this thread's tables have a row for each label below `count`."""
    held = getattr(own, "tables", None)
    if held is None or len(held[0]) < count:
        own.tables = empty(2 * count)
        made.append(own.tables)


def _merged(made: list[Any], empty: Any) -> Any:
    sums, box = empty(max(len(t[0]) for t in made))
    for more, corners in made:
        n = len(more)
        sums[:n] += more
        np.minimum(box[:n, :3], corners[:, :3], out=box[:n, :3])
        np.maximum(box[:n, 3:], corners[:, 3:], out=box[:n, 3:])
    return sums, box


def _reference(job: Job) -> None:
    import zarr

    labels, raw = (zarr.open_array(str(job.input(n)), mode="r") for n in ("labels", "volume"))
    slabs = boxes(raw.shape, (raw.chunks[0], *raw.shape[1:]))
    blocks = [measure_block(labels[b], raw[b], [s.start for s in b]) for b in slabs]
    job.save_table(NAME, fold(blocks))


WORKLOAD = Workload(
    name="table",
    title="area, intensity, centroid, box of given labels",
    needs=("volume", "labels"),
    candidates={
        "ours": ours("table", labels="labels", raw="volume"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
        "whole": whole_array(_whole),
    },
    reference=_reference,
    check=lambda got, want: compare.tables(got, want, NAME),
)
