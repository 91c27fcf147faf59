"""Rates of this machine, learned from its runs and kept in the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lepton_pipe.plan import NOMINAL, Plan, Rates, Stage, baseline
from lepton_pipe.plan.model import is_copied
from lepton_pipe.plan.planner import DRIVER_BYTES
from lepton_pipe.plan.rates import measured_step
from lepton_pipe.report.report import Report
from lepton_pipe.run.probe import corrected
from lepton_pipe.worker import Stats

FORMAT = 1
# Weight of the newest run: a single run on a busy machine must not turn the plan.
_WEIGHT = 0.3
# Further from the nominal than this is taken for a mistake, such as a suspended machine.
_FURTHEST = 4.0
# Seconds measured below which a figure says little.
_ENOUGH = 0.5
# No rate, in ns per byte or voxel or bytes per voxel, is higher.
_HIGHEST = 1e9
# Kernels whose rates are kept: each version of a kernel that is worked on has its own.
_KEPT = 1000


def rates_path() -> Path:
    """Return where the rates of this machine are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lepton_pipe" / "rates.json"


def machine_rates() -> Rates:
    """Return the rates learned so far; the nominal ones where there are none, or of another CPU."""
    try:
        found = json.loads(rates_path().read_text())
    except (OSError, ValueError, RuntimeError):  # no file, not JSON, no home or too deep
        return NOMINAL
    if not isinstance(found, dict) or (found.get("format"), found.get("cpu")) != (FORMAT, _cpu()):
        return NOMINAL
    rates = found.get("rates", {})
    known = {n: rates[n] for n in asdict(NOMINAL) if n in rates} if _plausible(rates) else {}
    return replace(NOMINAL, **known)


def _plausible(rates: Any) -> bool:
    """Tell whether every figure of a file that anybody may have written is a positive number."""
    if not isinstance(rates, dict):
        return False
    figures: list[Any] = []
    for name, nominal in asdict(NOMINAL).items():
        figure = rates.get(name, nominal)
        if isinstance(figure, dict) != isinstance(nominal, dict):
            return False
        figures += figure.values() if isinstance(figure, dict) else [figure]
    return all(isinstance(f, (int, float)) and 0 <= f < _HIGHEST for f in figures)


def learn(plan: Plan, report: Report, held: int = 0) -> None:
    """Add what a run measured to the rates of this machine.

    Rates are a help for planning: where they cannot be written, plans go on with those there are.
    They are those of cores: of a run on a GPU nothing is learned.

    Parameters
    ----------
    held
        Resident bytes of this process before the run.
    """
    if plan.resources.device == "gpu":
        return
    old = machine_rates()
    new = old
    factors = dict(old.factors)
    for stage, measured in zip(plan.stages, report.stages, strict=True):
        new = _stage_rates(new, plan, stage, measured.stats)
        factors |= _factors(factors, plan, measured.stats)
    scratch = corrected(plan, old.scratch, _bytes_over(plan, report, held))
    save(replace(new, factors=factors, scratch={**old.scratch, **scratch}))


def _bytes_over(plan: Plan, report: Report, held: int) -> int:
    """Return by how much a run outgrew its plan; what this process held before is not the run's."""
    own = baseline(plan.resources) if plan.resources.in_process else DRIVER_BYTES
    return report.peak_bytes - held - (report.planned_bytes - min(held, own))


def _stage_rates(old: Rates, plan: Plan, stage: Stage, stats: Stats) -> Rates:
    found: dict[str, float] = {}
    # What was done before was not measured.
    decoded = stage.estimate.bytes_decoded * stats.blocks // len(stage.blocks)
    scratch_read = {r.array is not None and not plan.arrays[r.array].output for r in stage.reads}
    copied = any(is_copied(plan.inputs, plan.arrays[w.array], w.level) for w in stage.writes)
    scratch_written = {not plan.arrays[w.array].output for w in stage.writes}
    # Chunks that are copied are decoded while they are written: that is no time of decoding alone.
    if scratch_read == {False} and decoded and not copied:
        found["decode_ns"] = _per(stats.read_core_seconds, decoded)
    if scratch_read == {True} and decoded:
        found["load_ns"] = _per(stats.read_core_seconds, decoded)
    if scratch_written == {False} and stats.bytes_written and not copied:
        found["encode_ns"] = _per(stats.write_core_seconds, stats.bytes_written)
    if scratch_written == {True} and stats.bytes_written:
        found["store_ns"] = _per(stats.write_core_seconds, stats.bytes_written)
    blended = {
        n: _blend(getattr(old, n), v, getattr(NOMINAL, n)) for n, v in found.items() if v > 0
    }
    return replace(old, **blended)  # type: ignore[arg-type]


def _per(seconds: float, units: int) -> float:
    """Return nanoseconds per unit; 0 where too little was measured."""
    return seconds * 1e9 / units if seconds >= _ENOUGH else 0.0


def _factors(old: Mapping[str, float], plan: Plan, stats: Stats) -> dict[str, float]:
    found = {}
    for name, spent in stats.steps.items():
        step, key = measured_step(plan.spec, name)
        if step.kernel is None or spent.seconds < _ENOUGH or step.declared <= 0:
            continue
        measured = spent.seconds * 1e9 / spent.voxels / step.declared
        found[key] = _blend(old.get(key, 1.0), measured, 1.0)
    return found


def _blend(old: float, new: float, nominal: float) -> float:
    new = min(max(new, nominal / _FURTHEST), nominal * _FURTHEST)
    return round((1 - _WEIGHT) * old + _WEIGHT * new, 4)


def save(rates: Rates) -> None:
    """Keep the rates of this machine, of the newest kernels; nothing where that cannot be."""
    kept = replace(rates, factors=_newest(rates.factors), scratch=_newest(rates.scratch))
    text = json.dumps({"format": FORMAT, "cpu": _cpu(), "rates": asdict(kept)}, indent=1)
    with suppress(OSError, RuntimeError):  # a full or read-only disk, or no home
        path = rates_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            passing = Path(file.name)
        try:
            passing.write_text(text)
            passing.replace(path)
        finally:
            passing.unlink(missing_ok=True)


def _newest(figures: Mapping[str, float]) -> dict[str, float]:
    return dict(list(figures.items())[-_KEPT:])


def _cpu() -> str:
    """Return what tells this kind of processor from others."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} x {len(names) or os.cpu_count()}"
