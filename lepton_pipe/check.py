"""Prove that a pipeline gives the same result in blocks as on the whole image.

A part of the input is computed whole in memory, then again in blocks of several random shapes,
by the serial executor and by Dask. Integers, masks, labels and tables of them must be identical;
floats may differ by rounding, since sums are taken in another order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_pipe.api import Pipeline, open_images
from lepton_pipe.errors import UsageError
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.driver import run_plan
from lepton_pipe.spec import ImageType, Spec, TableType, evaluate
from lepton_pipe.spec.sent import why_not_sent
from lepton_pipe.store import open_source
from lepton_pipe.store.part import cut_out

# Differences up to this many roundings of the largest value count as rounding.
ROUNDINGS = 64
RUNS = 4
_MEMORY = 2**34


@dataclass(frozen=True)
class Difference:
    """One output compared for one shape of blocks.

    Attributes
    ----------
    verdict
        ``"equal"``, ``"equal within tolerance"`` or ``"different"``.
    detail
        Where the first difference is, how many there are, and by how much at most.
    """

    output: str
    blocks: dict[str, int]
    executor: str
    verdict: str
    detail: str = ""


@dataclass
class CheckResult:
    """Verdict on every output and block shape."""

    pipeline: str
    shapes: dict[str, tuple[int, ...]]
    differences: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every output was the same for every shape of blocks."""
        return all(d.verdict != "different" for d in self.differences)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "pipeline": self.pipeline,
            "equal": self.equal,
            "shapes": {n: list(s) for n, s in self.shapes.items()},
            "checks": [asdict(d) for d in self.differences],
        }

    def __str__(self) -> str:
        part = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in self.shapes.items())
        lines = [f"{self.pipeline} on {part}, whole against blocks:"]
        for d in self.differences:
            blocks = "x".join(map(str, d.blocks.values()))
            lines.append(f"  {d.output:12} blocks {blocks:12} {d.executor:7} {d.verdict}{d.detail}")
        lines.append("equal" if self.equal else "DIFFERENT: the result depends on the blocks")
        return "\n".join(lines)


def check(
    pipeline: Pipeline,
    *,
    part: int = 128,
    runs: int = RUNS,
    seed: int = 0,
    dask: bool = True,
    **arguments: Any,
) -> CheckResult:
    """Compare a pipeline's result in blocks with its result on the whole.

    Parameters
    ----------
    part
        Voxels along each axis of the part that is checked, from the middle of the image: 2 or more,
        and all there are where the image has no more.
    runs
        How many random shapes of blocks, 1 or more; the last one runs on Dask if `dask`.
    **arguments
        The pipeline's images and parameters.

    Returns
    -------
    CheckResult
        Its ``equal`` is the verdict; printed, it says where results differ and by how much.

    Raises
    ------
    UsageError
        When nothing would be compared: `part` or `runs` is too small, or no whole number.
    """
    _refuse_too_little(part, "part", 2, "a part of one voxel or none has no blocks to compare")
    _refuse_too_little(runs, "runs", 1, "nothing would be compared")
    images, parameters = pipeline.split((), arguments)
    sources = open_images(images)
    pieces = {n: cut_out(s, part) for n, s in sources.items()}
    spec = pipeline.bind({n: s.type for n, s in pieces.items()}, parameters)
    arrays = {n: s.read(s.type.grid.region) for n, s in pieces.items()}
    whole = evaluate(spec, arrays, told="the whole part")
    result = CheckResult(pipeline.name, {n: s.type.grid.shape for n, s in pieces.items()})
    random, dask = np.random.default_rng(seed), dask and not why_not_sent(spec)
    for number in range(runs):
        tiling = random_tiling(spec, random)
        on_dask = dask and number == runs - 1
        made = run_in_blocks(spec, pieces, tiling, dask=on_dask)
        for name, expected in whole.items():
            verdict, detail = compare(expected, made[name])
            result.differences.append(
                Difference(name, tiling, "dask" if on_dask else "serial", verdict, detail)
            )
    return result


def _refuse_too_little(value: Any, name: str, least: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        usual = {"part": 128, "runs": RUNS}[name]
        raise UsageError(
            f"{name}={value!r} must be a whole number, at least {least}: {why}; leave it out for "
            f"{usual}"
        )


def random_tiling(spec: Spec, random: np.random.Generator) -> dict[str, int]:
    """Return a random block length for each axis, rarely one that divides the image."""
    lengths: dict[str, int] = {}
    for step in spec.images:
        grid = spec.image_type(step.id).grid
        for axis, n in zip(grid.axes, grid.shape, strict=True):
            longest = max(n, lengths.get(axis, 1))
            lengths[axis] = int(random.integers(max(1, longest // 8), longest + 1))
    return lengths


def run_in_blocks(
    spec: Spec, sources: Mapping[str, Any], tiling: Mapping[str, int], *, dask: bool = False
) -> dict[str, Any]:
    """Run a pipeline in blocks of given lengths and return its outputs, read back from disk."""
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, Resources(_MEMORY, 1, 2, serial=not dask), tiling)
    with tempfile.TemporaryDirectory(prefix="lepton-check-") as folder:
        out = Path(folder) / "out"
        report = run_plan(plan, sources, out, watcher=Silent())
        return {n: _read_back(spec, n, out, report.values) for n in spec.outputs}


def _read_back(spec: Spec, name: str, out: Path, values: Mapping[str, Any]) -> Any:
    type_ = spec[spec.outputs[name]].type
    if isinstance(type_, ImageType):
        source = open_source(out / name)
        return source.read(source.type.grid.region)
    if isinstance(type_, TableType):
        import pyarrow.parquet as pq

        table = pq.read_table(out / f"{name}.parquet")
        return {c: table.column(c).to_numpy() for c in table.column_names}
    return values[name]


def compare(expected: Any, got: Any) -> tuple[str, str]:
    """Return a verdict on two results, and where they differ."""
    if isinstance(expected, Mapping):
        return _compare_tables(expected, got)
    a, b = np.asarray(expected), np.asarray(got)
    if a.shape != b.shape or a.dtype != b.dtype:
        return "different", f": {b.dtype} of {b.shape} instead of {a.dtype} of {a.shape}"
    same = (a == b) | _both_nan(a, b)
    if same.all():
        return "equal", ""
    if a.dtype.kind != "f":
        return "different", _where(a, b, ~same)
    return _compare_floats(a, b, same)


def _both_nan(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Any:
    return np.isnan(a) & np.isnan(b) if a.dtype.kind == "f" else np.zeros(a.shape, bool)


def _compare_floats(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], same: Any) -> tuple[str, str]:
    finite = np.isfinite(a)
    scale = float(np.abs(a[finite]).max(initial=0.0))
    tolerance = ROUNDINGS * float(np.finfo(a.dtype).eps) * scale
    with np.errstate(invalid="ignore"):
        off = ~same & ~(np.abs(a - b) <= tolerance)
    if not off.any():
        with np.errstate(invalid="ignore"):
            largest = float(np.nanmax(np.abs(a - b)))
        return "equal within tolerance", f" (largest difference {largest:.3g} of {scale:.3g})"
    return "different", _where(a, b, off)


def _compare_tables(expected: Mapping[str, Any], got: Mapping[str, Any]) -> tuple[str, str]:
    if list(expected) != list(got):
        return "different", f": columns {list(got)} instead of {list(expected)}"
    worst = ("equal", "")
    for name, column in expected.items():
        verdict, detail = compare(column, got[name])
        if verdict == "different":
            return verdict, f": column {name}{detail}"
        if verdict != "equal":
            worst = verdict, f": column {name}{detail}"
    return worst


def _where(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], off: Any) -> str:
    if a.ndim == 0:
        return f": {b} instead of {a}"
    first = tuple(int(i) for i in np.argwhere(off)[0])
    by = ""
    if a.dtype.kind in "iuf":
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(a[off].astype(float) - b[off].astype(float))
        by = f", by {np.nanmax(gap):.6g} at most" if np.isfinite(gap).any() else ""
    return f": {int(off.sum())} of {a.size}, first at {list(first)} ({b[first]} not {a[first]}){by}"
