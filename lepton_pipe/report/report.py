"""What a run measured and published."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lepton_pipe.cache.counts import Tier
from lepton_pipe.report.casts import CastReport
from lepton_pipe.report.device import DeviceReport
from lepton_pipe.report.plan_text import count
from lepton_pipe.report.quarantine import QUARANTINE, Quarantined, quarantine_lines
from lepton_pipe.report.tiers import kept_lines
from lepton_pipe.report.variants import folder_lines, folders_of
from lepton_pipe.spec import NotFinite, plain
from lepton_pipe.store.output import Output
from lepton_pipe.worker import Stats

# Numbers of a value that are printed; beyond, they are counted.
_SHOWN = 20
# Quarantined things that the record of a result names; its list names all.
_LISTED = 1000
LACKING = ("quarantined", "quarantined_in_all", "left_out")
"""Names, in a report and a record, of what says that a result is not complete."""


@dataclass(frozen=True)
class StageReport:
    """What a stage took: seconds on the clock, the sums over its tasks, and shares of GPUs."""

    name: str
    seconds: float
    stats: Stats
    device: DeviceReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        found = {"name": self.name, "seconds": round(self.seconds, 3), **_rounded(self.stats)}
        return found if self.device is None else {**found, "device": self.device.to_json()}


@dataclass
class Report:
    """What a run measured and published.

    Attributes
    ----------
    out
        Directory of the results, or their URL.
    seconds
        From the start of the run to the end of its last stage, the cluster's start included.
    peak_bytes, planned_bytes
        Resident memory of all processes at the worst moment: measured, and planned before.
    outputs
        Kind, path (relative to `out`) and shape of each output, by name.
    values
        Outputs that are values.
    quarantine
        What could not be read or computed, with ``on_error="skip"`` or ``"fill"``; empty where
        the result is complete.
    left_out
        Voxels that a statistic did not count therefore, by step of the pipeline.
    casts
        What the steps lost that clip or wrap on request.
    not_finite
        How many voxels are NaN or infinite, of each output image of floats at full resolution.
    unchanged
        Whether there was nothing to update: what is told is that of the run before.
    """

    out: Output
    seconds: float = 0.0
    peak_bytes: int = 0
    planned_bytes: int = 0
    stages: list[StageReport] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    quarantine: list[Quarantined] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    casts: list[CastReport] = field(default_factory=list)
    not_finite: dict[str, NotFinite] = field(default_factory=dict)
    unchanged: bool = False

    def path(self, output: str) -> Path | str:
        """Return where an output is: its path, or its URL."""
        place = self.out / str(self.outputs[output]["path"])
        return place if isinstance(place, Path) else place.url

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "out": str(self.out),
            "seconds": round(self.seconds, 3),
            "peak_bytes": self.peak_bytes,
            "planned_bytes": self.planned_bytes,
            "stages": [s.to_json() for s in self.stages],
            "outputs": self.outputs,
            "values": {n: value_json(v) for n, v in self.values.items()},
            **({"casts": {c.step: c.to_json() for c in self.casts}} if self.casts else {}),
            **self._not_finite(),
            **self._lacking(),
            **({"unchanged": True} if self.unchanged else {}),
        }

    def _not_finite(self) -> dict[str, Any]:
        found = {n: f._asdict() for n, f in self.not_finite.items()}
        return {"not_finite": found} if found else {}

    @property
    def tiers(self) -> dict[str, Tier]:
        """What the tiers did in all stages: decoded chunks, packed ones in memory, and on disk."""
        stats = Stats()
        for stage in self.stages:
            stats.count(stage.stats.tiers)
        return stats.tiers

    def _output_lines(self) -> list[str]:
        folders = folders_of(self.outputs)
        if not folders:
            return [f"  {n}: {_describe(n, o, self.values)}" for n, o in self.outputs.items()]
        told = {n: _in_folder(n, output) for n, output in self.outputs.items()}
        brief = {n: _brief(n, output, self.values) for n, output in self.outputs.items()}
        return folder_lines(folders, self.outputs, told, brief)

    def _lacking(self) -> dict[str, Any]:
        if not self.quarantine:
            return {}
        listed = [q.to_json(with_traceback=False) for q in self.quarantine[:_LISTED]]
        return {
            "quarantined": listed,
            "quarantined_in_all": len(self.quarantine),
            "left_out": dict(self.left_out),
        }

    def __str__(self) -> str:
        took = (
            f"{self.seconds:.1f} s, peak memory {_mib(self.peak_bytes)} of "
            f"{_mib(self.planned_bytes)} planned"
        )
        lines = [f"{self.out}  ({'nothing has changed' if self.unchanged else took})"]
        lines += self._output_lines()
        lines += [f"  {s.name}: {s.device}" for s in self.stages if s.device is not None]
        lines += [f"  {cast}" for cast in self.casts if cast.is_worth_telling]
        lines += [
            f"  {name}: {found.nan} voxels are NaN, {found.infinite} infinite"
            for name, found in self.not_finite.items()
            if any(found)
        ]
        lines += kept_lines(self.tiers)
        if self.quarantine:
            lines.append(
                f"  quarantined: {len(self.quarantine)} that could not be read or computed, "
                f"listed with tracebacks in {QUARANTINE}"
            )
            lines += quarantine_lines(self.quarantine, str(self.out / QUARANTINE))
        lines += [
            f"  {step}: {voxels} voxels are not counted in it"
            for step, voxels in self.left_out.items()
        ]
        return "\n".join(lines)


def _describe(name: str, output: dict[str, Any], values: dict[str, Any]) -> str:
    brief, path = _brief(name, output, values), output["path"]
    if output["kind"] == "table":
        return f"{brief} in {path}"
    if output["kind"] == "value":
        return brief if _is_shown(values[name]) else f"{brief} in {path}"
    return f"{brief} in {path}/, {_format(output)}"


def _in_folder(name: str, output: dict[str, Any]) -> str:
    path = PurePosixPath(output["path"]).name
    if output["kind"] in ("table", "value"):
        return f"{output['kind']} in {path}"
    return f"{_brief(name, output, {})} in {path}/, {_format(output)}"


def _brief(name: str, output: dict[str, Any], values: dict[str, Any]) -> str:
    if output["kind"] == "table":
        return f"{output['rows']} rows"
    if output["kind"] == "value":
        value = values[name]
        if not _is_shown(value):
            return f"{value.size} numbers"
        return f"{value.tolist()}" if isinstance(value, np.ndarray) else f"{value}"
    size = " x ".join(map(str, output["shape"]))
    return f"{output['kind']} {size} {output['dtype']}"


def _is_shown(value: Any) -> bool:
    return not isinstance(value, np.ndarray) or value.size <= _SHOWN


def _format(output: dict[str, Any]) -> str:
    return f"OME-Zarr, {count(output['levels'], 'scale level')}"


def _mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"


def _rounded(stats: Stats) -> dict[str, Any]:
    figures = {n: round(v, 3) if isinstance(v, float) else v for n, v in asdict(stats).items()}
    return {**figures, "tiers": {name: tier.to_json() for name, tier in stats.tiers.items()}}


def value_json(value: Any) -> Any:
    """Return a value as JSON data; NaN and infinities, which JSON lacks, become texts."""
    if isinstance(value, np.ndarray):
        plain_already = value.dtype.kind in "biu" or (
            value.dtype.kind == "f" and bool(np.isfinite(value).all())
        )
        return value.tolist() if plain_already else [value_json(v) for v in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [value_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return plain(value)
