"""Planned memory against measured: twelve pipelines, three sizes, three budgets.

Each run is a process tree of its own, looked at from outside. The table says, for each, what the
plan stated and what was measured at the worst moment: resident bytes summed over all processes,
and the same with pages that processes share counted once. What blocks take is compared without
what the processes hold anyway: of the stated, the plan's figure for that; of the measured, the
peak of the same pipeline in the same processes over a tiny image.

With `--first` nothing is compiled yet when a run starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.kernels import (
    astype,
    downsample,
    find_peaks,
    flatfield,
    gaussian,
    label,
    mean,
    median,
    opening,
    otsu,
    project,
    quantile,
    regionprops,
    std,
)
from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT, tree, tree_bytes

MIB = 2**20
BUDGETS = ("512MiB", "1GiB", "4GiB")
SIZES = {"small": 2**25, "medium": 2**27, "large": 2**29}
"""Voxels of the input image, uint16."""
SMALL = 32
"""MiB measured for blocks below which a ratio says nothing, and is left out."""
LEGEND = """\
All figures in MiB. Measured: resident bytes summed over all processes; beside it with shared pages
counted once. For blocks: the stated without what the plan counts for the processes themselves, the
measured without the peak of the same pipeline in the same processes over a tiny image; their ratio
is left out where blocks take next to nothing."""


@lp.kernel(depth=2, dtype="float32")
def own_kernel(block):
    """Smooth as a user would who knows NumPy and declares nothing."""
    block = block.astype(np.float32)
    for axis in range(block.ndim):
        block = (np.roll(block, 1, axis) + block + np.roll(block, -1, axis)) / 3
    return np.sqrt(block)


def _segment(raw: Any) -> dict[str, Any]:
    labels = label((smooth := gaussian(raw, sigma=2)) > otsu(smooth), min_size=20)
    return {"labels": labels, "cells": regionprops(labels, raw)}


def _shapes_3d(voxels: int) -> tuple[int, ...]:
    side = max(16, int((voxels / 4) ** (1 / 3)) // 16 * 16)
    return (max(1, voxels // (4 * side * side)), 2 * side, 2 * side)


def _shapes_2d(voxels: int) -> tuple[int, ...]:
    side = int(voxels**0.5)
    return (side, voxels // side)


def _shapes_4d(voxels: int) -> tuple[int, ...]:
    return (3, *_shapes_3d(voxels // 3))


@dataclass(frozen=True)
class Case:
    """A pipeline with the axes, shape and chunks of its input."""

    fn: Callable[[Any], dict[str, Any]]
    axes: str
    shape: Callable[[int], tuple[int, ...]]
    chunks: tuple[int, ...]


BRICK, TILE = (64, 128, 128), (1024, 1024)
CASES = {
    "smooth 3-D": Case(
        lambda raw: {"out": astype(gaussian(flatfield(raw), (1, 2, 2)), "uint16", cast="clip")},
        "zyx",
        _shapes_3d,
        BRICK,
    ),
    "segment 3-D": Case(_segment, "zyx", _shapes_3d, BRICK),
    "segment 2-D": Case(_segment, "yx", _shapes_2d, TILE),
    "pyramid 2-D": Case(lambda raw: {"out": raw}, "yx", _shapes_2d, TILE),
    "reduce 3-D": Case(
        lambda raw: {"mean": mean(raw), "std": std(raw), "high": quantile(raw, 0.99)},
        "zyx",
        _shapes_3d,
        BRICK,
    ),
    "median 3-D": Case(lambda raw: {"out": median(raw, 3)}, "zyx", _shapes_3d, BRICK),
    "opening 2-D": Case(lambda raw: {"out": opening(raw, 9)}, "yx", _shapes_2d, TILE),
    "project 4-D": Case(
        lambda raw: {"out": project(raw, "z", "mean")}, "czyx", _shapes_4d, (1, *BRICK)
    ),
    "flatfield 4-D": Case(lambda raw: {"out": flatfield(raw)}, "czyx", _shapes_4d, (1, *BRICK)),
    "downsample 4-D": Case(
        lambda raw: {"out": downsample(raw, 2)}, "tzyx", _shapes_4d, (1, *BRICK)
    ),
    "peaks 3-D": Case(
        lambda raw: {"peaks": find_peaks(gaussian(raw, 2), threshold=900)}, "zyx", _shapes_3d, BRICK
    ),
    "own kernel 3-D": Case(
        lambda raw: {"out": own_kernel(raw) * np.float32(2) > 30}, "zyx", _shapes_3d, BRICK
    ),
}


def tiny(case: Case) -> tuple[int, ...]:
    """Return the shape of an image that is next to nothing, but has scale levels."""
    return tuple({"z": 8, "y": 288, "x": 288}.get(axis, 1) for axis in case.axes)


def make_input(home: Path, name: str, shape: tuple[int, ...]) -> Path:
    """Write an image of blobs on noise, slab by slab, unless it is there."""
    case = CASES[name]
    path = home / f"{name.replace(' ', '-')}-{'x'.join(map(str, shape))}.zarr"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    chunks = tuple(map(min, case.chunks, shape))
    array = zarr.create_array(
        part, shape=shape, chunks=chunks, dtype="uint16", dimension_names=list(case.axes)
    )
    random = np.random.default_rng(0)
    y, x = (np.sin(np.arange(n, dtype=np.float32) / 9) for n in shape[-2:])
    blobs = 700 * (y[:, None] * x > 0.8).astype(np.float32)
    axis = max(0, len(shape) - 3)
    for start in range(0, shape[axis], chunks[axis]):
        slab = slice(start, min(start + chunks[axis], shape[axis]))
        size = (*shape[:axis], slab.stop - slab.start, *shape[axis + 1 :])
        noise = random.standard_normal(size, np.float32) * 20 + 200
        noise += blobs if axis or len(shape) > 2 else blobs[slab]
        array[(*[slice(None)] * axis, slab)] = np.clip(noise, 0, 65535).astype(np.uint16)
    part.rename(path)
    return path


@dataclass
class Peak:
    """The worst moment of a process tree, in bytes.

    Attributes
    ----------
    resident
        Summed over all processes: shared pages count once for each.
    proportional
        With shared pages counted once.
    """

    resident: int = 0
    proportional: int = 0

    def look(self, pid: int, *, closely: bool) -> None:
        """Look at a process and all below it; what it shares is found out `closely` alone."""
        self.resident = max(self.resident, sum(map(_resident, tree(pid))))
        if closely:
            self.proportional = max(self.proportional, tree_bytes(pid))


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


@dataclass
class Row:
    """One run of the table, in MiB; `refused` says what memory would have been enough.

    Attributes
    ----------
    stated, resident, proportional
        What the plan said; what was measured, see `Peak`.
    stated_base, base
        What the processes hold without blocks: as the plan says, and measured (resident).
    processes
        That compute blocks, beside the driver; 0 where it computes itself.
    """

    pipeline: str
    size: str
    budget: str
    processes: int = 0
    stated: float = 0.0
    resident: float = 0.0
    proportional: float = 0.0
    stated_base: float = 0.0
    base: float = 0.0
    seconds: float = 0.0
    refused: str = ""

    @property
    def share(self) -> float:
        """Stated over measured, without what the processes hold before any block."""
        return (self.stated - self.stated_base) / max(1.0, self.resident - self.base)

    @property
    def kept(self) -> bool:
        """Whether the plan was kept."""
        return self.resident <= self.stated <= _mib(self.budget)


def _mib(budget: str) -> float:
    return float(budget[:-3]) * {"MiB": 1, "GiB": 1024}[budget[-3:]]


def run_one(pipeline: str, source: str, out: str, options: dict[str, Any]) -> None:
    """Run one case in this process, and print what was planned."""
    case = CASES[pipeline]

    def measured(raw: lp.Image) -> dict[str, lp.Node]:
        return case.fn(raw)

    try:
        plan = lp.pipeline(measured).plan(raw=source, out=out, overwrite=True, **options)
    except MemoryRefusedError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
        return
    from lepton_pipe.plan import baseline

    resources = plan.data.resources
    found = {"stated": plan.data.peak_bytes / MIB, "stated_base": baseline(resources) / MIB}
    found |= {"processes": resources.workers, "threads": resources.threads}
    print(json.dumps(found | {"seconds": plan.run(progress=False).seconds}), flush=True)


LOOKS_PER_SECOND = 50


def look_at(words: list[str], home: Path, *, first: bool) -> tuple[dict[str, Any], Peak]:
    """Run one case; return what it printed and the most memory that its processes held."""
    # What was learned of this machine before does not turn plans.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home / "cache")}
    for folder in ("cache", *(["compiled"] if first else [])):
        shutil.rmtree(home / folder, ignore_errors=True)
    if first:
        env["NUMBA_CACHE_DIR"] = str(home / "compiled")
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", *words]
    log = home / "stderr.txt"
    peak, looks = Peak(), 0
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
        )
        while process.poll() is None:
            # A close look stops a process for as long as it takes.
            peak.look(process.pid, closely=looks % 10 == 0)
            looks += 1
            time.sleep(1 / LOOKS_PER_SECOND)
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    if process.returncode or not lines:
        raise RuntimeError(f"{words}: {log.read_text().strip().splitlines()[-1:]}")
    return json.loads(lines[-1]), peak


class Table:
    """Runs the cases, and the same over a tiny image for what the processes hold anyway."""

    def __init__(self, home: Path, *, first: bool) -> None:
        self.home, self.first = home, first
        self._bases: dict[tuple[str, int, int], float] = {}

    def rows(self, sizes: list[str], names: list[str], budgets: list[str]) -> Iterator[Row]:
        """Run every case of the table."""
        for name in names:
            for size in sizes:
                source = make_input(self.home, name, CASES[name].shape(SIZES[size]))
                for budget in budgets:
                    yield self.row(name, size, source, budget)

    def row(self, name: str, size: str, source: Path, budget: str) -> Row:
        """Run one case."""
        found, peak = self._look(name, source, {"memory": budget})
        row = Row(name, size, budget, refused=found.get("refused", ""))
        if row.refused:
            return row
        row.resident, row.proportional = peak.resident / MIB, peak.proportional / MIB
        row.stated, row.stated_base = found["stated"], found["stated_base"]
        row.processes, row.seconds = found["processes"], found["seconds"]
        row.base = self._base(name, row.processes, found["threads"])
        return row

    def _look(
        self, name: str, source: Path, options: dict[str, Any]
    ) -> tuple[dict[str, Any], Peak]:
        words = [name, str(source), str(self.home / "out"), json.dumps(options)]
        return look_at(words, self.home, first=self.first)

    def _base(self, name: str, workers: int, threads: int) -> float:
        key = (name, workers, threads)
        if key not in self._bases:
            options = {"memory": "4GiB"}
            if workers:
                options |= {"workers": workers, "threads": threads}
            _, peak = self._look(name, make_input(self.home, name, tiny(CASES[name])), options)
            self._bases[key] = peak.resident / MIB
        return self._bases[key]


HEADER = """\
| pipeline | input | `--memory` | processes | stated | measured | shared once | stated for blocks \
| measured for blocks | ratio | s |
|---|---|---|---|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    """Return a row of the table as Markdown."""
    start = f"| {row.pipeline} | {row.size} | {row.budget} |"
    if row.refused:
        return f"{start} refused | | | | | | | |"
    where = f"{row.processes} + driver" if row.processes else "1"
    over = "" if row.kept else " **over**"
    blocks = row.resident - row.base
    ratio = f"{row.share:.2f}" if blocks >= SMALL else ""
    return (
        f"{start} {where} | {row.stated:.0f} | {row.resident:.0f}{over} | {row.proportional:.0f} "
        f"| {row.stated - row.stated_base:.0f} | {blocks:.0f} "
        f"| {ratio} | {row.seconds:.1f} |"
    )


def table(found: list[Row]) -> str:
    """Return the table as Markdown, all figures in MiB."""
    return "\n".join([HEADER, *map(line, found)])


def main() -> None:
    """Run the table, or one case of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("PIPELINE", "SOURCE", "OUT", "OPTIONS"))
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--pipelines", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--budgets", nargs="*", default=list(BUDGETS))
    parser.add_argument("--first", action="store_true", help="compile anew in every run")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "lepton-memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if chosen.one:
        name, source, out, options = chosen.one
        run_one(name, source, out, json.loads(options))
        return
    chosen.data.mkdir(parents=True, exist_ok=True)
    print(HEADER, flush=True)
    done = []
    for row in Table(chosen.data, first=chosen.first).rows(
        chosen.sizes, chosen.pipelines, chosen.budgets
    ):
        done.append(row)
        print(line(row), flush=True)
        write(chosen.out, done)


def write(out: Path, done: list[Row]) -> None:
    """Write the table, and the figures it is made of; after each run, as all take their time."""
    facts = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    text = f"{machine.sentence(facts)}\n\n{LEGEND}\n\n{table(done)}\n"
    (out / "memory.md").write_text(text)
    data = {"machine": facts, "rows": [asdict(r) for r in done]}
    (out / "memory.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
