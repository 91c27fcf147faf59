"""Compare a candidate's result with the reference. All return what is wrong, in words."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tests.benchmarks.arrays import boxes, level_path
from tests.benchmarks.candidate import Job, cores

SHARE = 1e-3
"""Voxels that may differ, by one grey level: sums of floats in another order."""


def images(
    got: Job,
    want: Job,
    name: str,
    levels: range = range(1),
    share: float = SHARE,
    by_level: bool = False,
) -> list[str]:
    """Compare scale levels: at most `share` of the voxels may differ, by one grey level.

    Parameters
    ----------
    by_level
        Allow one grey level for each level: where each is rounded in another way.
    """
    wrong = []
    for level in levels:
        a, b = (
            zarr.open_array(str(level_path(j.out / name, level)), mode="r") for j in (got, want)
        )
        if a.shape != b.shape:
            wrong.append(f"{name}/{level} has shape {a.shape}, not {b.shape}")
            continue
        most, count = _differences(a, b)
        if most > (level if by_level else 1) or count > share * a.size:
            wrong.append(f"{name}/{level}: {count} of {a.size} voxels differ, by {most} at most")
    return wrong


def _differences(a: Any, b: Any) -> tuple[int, int]:
    """Return by how much two arrays differ at most, and in how many voxels."""

    def one(box: Any) -> tuple[int, int]:
        x, y = a[box], b[box]
        if np.array_equal(x, y):
            return 0, 0
        x, y = x.astype(np.int32), y.astype(np.int32)
        np.abs(np.subtract(x, y, out=x), out=x)
        return int(x.max()), int(np.count_nonzero(x))

    block = [max(c, 1 << (22 // a.ndim)) // c * c for c in a.chunks]
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(one, boxes(a.shape, block)))
    return max(f[0] for f in found), sum(f[1] for f in found)


def values(got: Job, want: Job, within: float = 1e-6) -> list[str]:
    """Compare values: integers exactly, floats relatively."""
    a, b = (json.loads((j.out / "values.json").read_text()) for j in (got, want))
    wrong = []
    for name, expected in b.items():
        x, y = np.asarray(a.get(name, np.nan)), np.asarray(expected)
        if x.shape != y.shape or not _close(x, y, within):
            wrong.append(f"{name} is {str(x)[:60]}, not {str(y)[:60]}")
    return wrong


def _close(x: NDArray[Any], y: NDArray[Any], within: float) -> bool:
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        return bool((x == y).all())
    return bool(np.allclose(x, y, rtol=within, atol=within))


def read_table(job: Job, name: str) -> dict[str, NDArray[Any]]:
    """Return the columns of a table."""
    parquet = job.out / f"{name}.parquet"
    if parquet.exists():
        import pyarrow.parquet as pq

        table = pq.read_table(parquet)
        return {n: table[n].to_numpy() for n in table.column_names}
    with np.load(job.out / f"{name}.npz") as held:
        return dict(held)


def tables(got: Job, want: Job, name: str, within: float = 1e-6) -> list[str]:
    """Compare tables row by row."""
    a, b = read_table(got, name), read_table(want, name)
    wrong = []
    for column, expected in b.items():
        found = a.get(column)
        if found is None:
            wrong.append(f"{name} has no column {column}")
        elif found.shape != expected.shape:
            wrong.append(f"{name} has {len(found)} rows, not {len(expected)}")
            break
        elif not _close(found, expected, within):
            wrong.append(f"{name}: {column} differs")
    return wrong


def partition(got: Job, want: Job, name: str, share: float = SHARE) -> list[str]:
    """Compare labels: nearly all of the foreground must be divided alike.

    Grey levels next to the threshold may be rounded differently, so single voxels and the objects
    that hang on them may differ.
    """
    a, b = (zarr.open_array(str(level_path(j.out / name, 0)), mode="r") for j in (got, want))
    if a.shape != b.shape:
        return [f"{name} has shape {a.shape}, not {b.shape}"]
    x, y, n = _pairs(a, b)
    total = int(n.sum())
    both = (x > 0) & (y > 0)
    x, y, n = x[both], y[both], n[both]
    matched = int(n[_largest(x, n) & _largest(y, n)].sum())
    if total == 0 or total - matched > share * total:
        return [f"{name}: {total - matched} of {total} voxels of objects are divided otherwise"]
    return []


def _largest(labels: NDArray[Any], count: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which pair is the largest of its label; of several as large, one."""
    order = np.lexsort((-count, labels))
    ranked = labels[order]
    largest = np.zeros(len(labels), bool)
    largest[order] = np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(ranked)]
    return largest


def _pairs(a: Any, b: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return pairs of labels that occur in one voxel, and in how many; background is 0."""
    base = np.uint64(1 << 32)

    def one(box: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        code = a[box].astype(np.uint64).ravel() * base + b[box].astype(np.uint64).ravel()
        at = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
        length = np.diff(np.append(at, code.size))
        return _summed(code[at], length)

    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(one, boxes(a.shape, [2 * c for c in a.chunks])))
    code, count = _summed(
        np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])
    )
    keep = code > 0
    return (code[keep] // base).astype(np.int64), (code[keep] % base).astype(np.int64), count[keep]


def _summed(code: NDArray[Any], count: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    unique, inverse = np.unique(code, return_inverse=True)
    return unique, np.bincount(inverse, count, len(unique)).astype(np.int64)


def coarser_labels(got: Job, name: str, levels: int) -> list[str]:
    """Check that each level of labels holds the first voxel of each cell of the one before."""
    root: Path = got.out / name
    wrong = []
    for level in range(1, levels):
        fine = zarr.open_array(str(level_path(root, level - 1)), mode="r")
        coarse = zarr.open_array(str(level_path(root, level)), mode="r")
        for z in range(0, coarse.shape[0], 64):
            want = fine[2 * z : 2 * z + 128][::2, ::2, ::2]
            if (coarse[z : z + 64] != want).any():
                wrong.append(
                    f"{name}/{level}: planes from {z} are not picked from level {level - 1}"
                )
                break
    return wrong
