"""The hand-written limit: segmentation in three passes, nothing written but the result.

Smooth chunks stay in memory, compressed. A chunk's labels are never an image before they are
final: they are runs, whose ends take a hundredth of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from tests.benchmarks import limit_label as runs
from tests.benchmarks.candidate import Job
from tests.benchmarks.limit_chunks import (
    At,
    Chunks,
    Writer,
    buffer,
    encode,
    in_threads,
)
from tests.benchmarks.limit_gauss import warm as warm_gauss
from tests.benchmarks.limit_pyramid import Coarser, pick
from tests.benchmarks.limit_smooth import smooth_chunks
from tests.benchmarks.limit_stats import count, otsu, tables


@dataclass
class Part:
    """What is known of one chunk: its runs, the number of each (from 0), and sums over objects."""

    ends: NDArray[np.int32]
    first: NDArray[np.int64]
    number: NDArray[np.int64]
    count: int
    faces: list[tuple[Any, Any]]
    sums: NDArray[np.int64]
    box: NDArray[np.int64]
    shape: tuple[int, ...]
    offset: int = 0


def segment(job: Job, sigma: Sequence[float], name: str, table: str) -> None:
    """Segment the volume: labels and their levels, and a table."""
    source = Chunks(job.input("volume"))
    smooth, threshold = _smooth(job, source, sigma)
    parts: dict[At, Part] = {}

    def label(at: At) -> None:
        parts[at] = _label(source, at, smooth.pop(at), threshold)

    in_threads(label, source.all(), job.threads)
    final, total = _join(source, parts)
    _save_table(job, table, parts, final, total)
    writer = Writer(job.image(name), source.shape, source.chunks, np.uint32)
    coarser = Coarser(job.out / name, writer, job.size.volume_levels, pick)

    def paint(at: At) -> None:
        part = parts[at]
        out = buffer("paint", part.shape, np.uint32)
        value = final[part.number + 1 + part.offset]
        runs.paint(part.ends, part.first, value, part.shape[1], out)
        writer.write(at, out)
        coarser.add(at, out)

    in_threads(paint, source.all(), job.threads)
    coarser.finish()


def _smooth(job: Job, source: Chunks, sigma: Sequence[float]) -> tuple[dict[At, bytes], int]:
    """Return smooth chunks, encoded with LZ4, and Otsu's threshold."""
    import threading

    held: dict[At, bytes] = {}
    own, made = threading.local(), []

    def done(at: At, chunk: Any) -> None:
        if not hasattr(own, "tables"):
            own.tables = tables()
            made.append(own.tables)
        count(chunk, own.tables)
        held[at] = encode(chunk, b"lz4")

    smooth_chunks(job, source, sigma, None, done)
    return held, otsu(sum(t.sum(axis=0) for t in made))


def _label(source: Chunks, at: At, data: bytes, threshold: int) -> Part:
    start, stop = source.box(at)
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    smooth = buffer("smooth", shape, source.dtype)
    blosc.decompress(data, smooth)
    ends, first = runs.find_runs(smooth, threshold)
    number, objects = runs.label_runs(ends, first, *shape[:2])
    raw = source.decode_inside(at)
    sums, box = runs.measure_runs(raw, ends, first, number, objects, np.array(start))
    image = buffer("provisional", shape, np.int32)
    runs.paint(ends, first, number + 1, shape[1], image)
    faces = []
    for axis in range(3):
        rows = np.moveaxis(image, axis, 0)
        faces.append((rows[0].copy(), rows[-1].copy()))
    return Part(ends, first, number, objects, faces, sums, box, shape)


def _join(source: Chunks, parts: dict[At, Part]) -> tuple[NDArray[np.int64], int]:
    """Return the final number of every object of a chunk, and how many there are."""
    total = 0
    for at in source.all():
        parts[at].offset = total
        total += parts[at].count
    parent = np.arange(total + 1)
    for at in source.all():
        for axis in range(3):
            after = parts.get(tuple(n + (i == axis) for i, n in enumerate(at)))
            if after is not None:
                pair = (parts[at].faces[axis][1], after.faces[axis][0])
                a, b = (
                    np.where(face > 0, face + np.int64(part.offset), 0)
                    for face, part in zip(pair, (parts[at], after), strict=True)
                )
                runs.join_faces(parent, a, b)
    return runs.roots(parent)


def _save_table(job: Job, name: str, parts: dict[At, Part], final: Any, total: int) -> None:
    sums, box = runs.empty_tables(total + 1)
    for part in parts.values():
        rows = final[1 + part.offset : 1 + part.offset + part.count]
        np.add.at(sums, rows, part.sums)
        np.minimum.at(box[:, :3], rows, part.box[:, :3])
        np.maximum.at(box[:, 3:], rows, part.box[:, 3:])
    job.save_table(name, runs.columns(sums, box))


def warm() -> None:
    """Compile (or load) all that is needed."""
    warm_gauss((1.0, 2.0, 2.0), np.uint16)
    image = np.ones((1, 2, 2), np.uint16)
    count(image, tables())
    ends, first = runs.find_runs(image, 0)
    number, objects = runs.label_runs(ends, first, 1, 2)
    runs.measure_runs(image, ends, first, number, objects, np.zeros(3, np.int64))
    runs.paint(ends, first, number + 1, 2, np.empty(image.shape, np.int32))
    runs.paint(ends, first, number + 1, 2, np.empty(image.shape, np.uint32))
    parent = np.arange(3)
    runs.join_faces(parent, np.ones((1, 1), np.int64), np.ones((1, 1), np.int64))
    runs.roots(parent)
