"""Segment: gaussian (1, 2, 2), Otsu, connected components, their table, and scale levels."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from tests.benchmarks import compare
from tests.benchmarks.arrays import boxes
from tests.benchmarks.candidate import (
    Job,
    Workload,
    by_hand,
    on_cluster,
    ours,
    standard,
    whole_array,
)
from tests.benchmarks.limit_stats import otsu
from tests.benchmarks.rivals import dask_input, dask_store, each, filter_blocks, reference_filter
from tests.benchmarks.rivals_labels import faces, fold, join, measure_block
from tests.benchmarks.workloads.reduce import BINS, histogram
from tests.benchmarks.workloads.smooth import DEPTH, SIGMA, smoothed

NAME, TABLE = "labels", "objects"


def _smooth(block: Any) -> Any:
    return smoothed(block, SIGMA)


def _lattice(shape: Any, block: Any) -> list[tuple[int, ...]]:
    return list(product(*(range(-(-n // b)) for n, b in zip(shape, block, strict=True))))


def _labelled(image: Any, threshold: int) -> tuple[Any, int]:
    from scipy import ndimage

    labels, count = ndimage.label(image > threshold)
    return labels, int(count)


# -- loops ----------------------------------------------------------------------------------


def _loop(job: Job, door: Any, pool: Any) -> None:
    """Store the smooth image, then provisional labels, then final ones: three passes."""
    block = job.size.block
    raw = door.read(job.input("volume"))
    places = dict(zip(_lattice(raw.shape, block), boxes(raw.shape, block), strict=True))
    passing = {n: job.out.parent / "passing" / n for n in ("smooth", "labels")}
    smooth = door.create(passing["smooth"], raw.shape, job.size.chunks, np.uint16)
    filter_blocks(pool, raw, smooth, DEPTH, lambda b, _: _smooth(b), block)
    smooth = door.read(passing["smooth"])
    threshold = otsu(histogram(job, door, pool, passing["smooth"]))
    labels = door.create(passing["labels"], raw.shape, job.size.chunks, np.int32)
    counts, edges = {}, {}

    def label(at: Any) -> None:
        own, counts[at] = _labelled(smooth[places[at]], threshold)
        edges[at] = faces(own)
        labels[places[at]] = own

    each(pool, label, places)
    final = join(counts, edges)
    rows, own = [], door.read(passing["labels"])
    out = door.create(job.image(NAME), raw.shape, job.size.chunks, np.int32)

    def finish(at: Any) -> None:
        box = places[at]
        numbers = final[at][own[box]]
        out[box] = numbers
        rows.append(measure_block(numbers, raw[box], [s.start for s in box]))

    each(pool, finish, places)
    job.save_table(TABLE, fold(rows))
    _pick_levels(job, door, pool)


def _pick_levels(job: Job, door: Any, pool: Any) -> None:
    for level in range(1, job.size.volume_levels):
        fine = door.read(job.image(NAME, level - 1))
        shape = [-(-n // 2) for n in fine.shape]
        coarse = door.create(job.image(NAME, level), shape, job.size.chunks, np.int32)

        def one(box: Any, fine: Any = fine, coarse: Any = coarse) -> None:
            wide = tuple(
                slice(2 * s.start, min(2 * s.stop, n)) for s, n in zip(box, fine.shape, strict=True)
            )
            coarse[box] = fine[wide][::2, ::2, ::2]

        each(pool, one, boxes(shape, job.size.block))


# -- Dask -----------------------------------------------------------------------------------


def _smooth_on_dask(job: Job) -> tuple[Any, int]:
    """Store the smooth image, as one that is needed twice, and return it and the threshold."""
    import dask.array as da

    raw = dask_input(job.input("volume"), job.size.block)
    smooth = raw.map_overlap(_smooth, depth=DEPTH, boundary="reflect", dtype=np.uint16)
    passing = job.out.parent / "passing"
    dask_store(smooth, passing, job.size.chunks)
    smooth = dask_input(passing, job.size.block)
    counts = da.bincount(smooth.ravel(), minlength=BINS).compute()
    return smooth, otsu(np.asarray(counts))


def _finish_on_dask(job: Job, labels: Any) -> None:
    """Write labels and levels, measure, in one computation."""
    import dask

    raw = dask_input(job.input("volume"), job.size.block)
    stores = [dask_store(labels, job.image(NAME), job.size.chunks, compute=False)]
    level = labels
    for k in range(1, job.size.volume_levels):
        level = level[::2, ::2, ::2]
        stores.append(dask_store(level, job.image(NAME, k), job.size.chunks, compute=False))
    corners = [[s.start for s in box] for box in boxes(raw.shape, job.size.block)]
    measure = dask.delayed(measure_block)
    blocks = [
        measure(a, b, corner)
        for a, b, corner in zip(
            labels.to_delayed().ravel(), raw.to_delayed().ravel(), corners, strict=True
        )
    ]
    *_, tables = dask.compute(*stores, blocks)
    job.save_table(TABLE, fold(tables))


def _dask_image(job: Job) -> None:
    """Label with dask-image."""
    from dask_image.ndmeasure import label

    smooth, threshold = _smooth_on_dask(job)
    _finish_on_dask(job, label(smooth > threshold)[0].astype(np.int32))


def _label_on_dask(image: Any, threshold: int) -> tuple[int, Any]:
    labels, count = _labelled(image, threshold)
    return count, faces(labels)


def _on_dask(job: Job) -> None:
    """Label blocks, join their faces on the client, label again: what a skilled user writes."""
    import dask
    import dask.array as da

    smooth, threshold = _smooth_on_dask(job)
    lattice = _lattice(smooth.shape, job.size.block)
    blocks = smooth.to_delayed().ravel()
    found = dask.compute(*(dask.delayed(_label_on_dask)(b, threshold) for b in blocks))
    final = join(
        {at: f[0] for at, f in zip(lattice, found, strict=True)},
        {at: f[1] for at, f in zip(lattice, found, strict=True)},
    )

    def relabel(image: Any, block_info: Any = None) -> Any:
        return final[tuple(block_info[0]["chunk-location"])][_labelled(image, threshold)[0]]

    _finish_on_dask(job, da.map_blocks(relabel, smooth, dtype=np.int32, meta=np.empty(0, np.int32)))


def _whole(job: Job) -> None:
    """Take scikit-image, the whole array at once."""
    import zarr
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    from tests.benchmarks.arrays import create
    from tests.benchmarks.workloads.table import table_of_scikit_image

    raw = zarr.open_array(str(job.input("volume")), mode="r")[...]
    smooth = _smooth(raw)
    labels = label(smooth > threshold_otsu(smooth), connectivity=1)
    job.save_table(TABLE, table_of_scikit_image(labels, raw))
    for level in range(job.size.volume_levels):
        out = create(job.image(NAME, level), labels.shape, job.size.chunks, np.int32)
        out[...] = labels
        labels = labels[::2, ::2, ::2]


# -- limit, reference, check ----------------------------------------------------------------


def _warm() -> None:
    from tests.benchmarks.limit_segment import warm

    warm()


def _limit(job: Job) -> None:
    from tests.benchmarks.limit_segment import segment

    segment(job, SIGMA, NAME, TABLE)


def _reference(job: Job) -> None:
    """Label the whole smooth image at once."""
    from concurrent.futures import ThreadPoolExecutor

    import zarr

    from tests.benchmarks.arrays import ZarrDoor, create

    raw = zarr.open_array(str(job.input("volume")), mode="r")
    reference_filter(job, "smooth", raw, DEPTH, lambda b, _: _smooth(b))
    smooth = zarr.open_array(str(job.image("smooth")), mode="r")
    with ThreadPoolExecutor(job.threads) as pool:
        threshold = otsu(histogram(job, ZarrDoor(), pool, job.image("smooth")))
    mask = np.empty(smooth.shape, bool)
    for z in range(0, smooth.shape[0], smooth.chunks[0]):
        mask[z : z + smooth.chunks[0]] = smooth[z : z + smooth.chunks[0]] > threshold
    labels, _ = _labelled(mask, 0)
    out = create(job.image(NAME), labels.shape, job.size.chunks, np.int32)
    slabs = list(boxes(labels.shape, (smooth.chunks[0], *labels.shape[1:])))
    for box in slabs:
        out[box] = labels[box]
    rows = [measure_block(labels[b], raw[b], [s.start for s in b]) for b in slabs]
    job.save_table(TABLE, fold(rows))


def _check(got: Job, want: Job) -> list[str]:
    wrong = compare.partition(got, want, NAME)
    wrong += compare.coarser_labels(got, NAME, want.size.volume_levels)
    a, b = compare.read_table(got, TABLE), compare.read_table(want, TABLE)
    for what, x, y in (
        ("rows", len(a["label"]), len(b["label"])),
        ("voxels", a["area"].sum(), b["area"].sum()),
        ("light", _light(a), _light(b)),
    ):
        if abs(float(x) - float(y)) > max(2.0, 1e-3 * float(y)):
            wrong.append(f"{TABLE}: {x} {what}, not {y}")
    return wrong


def _light(table: dict[str, Any]) -> float:
    return float((table["area"] * table["intensity_mean"]).sum())


WORKLOAD = Workload(
    name="segment",
    title="gaussian, Otsu, label, table, scale levels",
    needs=("volume",),
    candidates={
        "ours": ours("segment", raw="volume"),
        "limit": by_hand(_warm, _limit),
        **standard(_on_dask, _loop),
        "dask_image": on_cluster(_dask_image),
        "whole": whole_array(_whole),
    },
    reference=_reference,
    check=_check,
    limits={"dask_image": 200.0},
)
