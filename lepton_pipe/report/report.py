"""What a run measured and published."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_pipe.report.plan_text import count
from lepton_pipe.spec import plain
from lepton_pipe.worker import Stats


@dataclass(frozen=True)
class StageReport:
    """What a stage took: seconds on the clock, and the sums over its tasks."""

    name: str
    seconds: float
    stats: Stats


@dataclass
class Report:
    """What a run measured and published.

    Attributes
    ----------
    out
        Directory of the results.
    seconds
        From the start of the run to the end of its last stage, the cluster's start included.
    peak_bytes, planned_bytes
        Resident memory of all processes at the worst moment: measured, and planned before.
    outputs
        Kind, path (relative to `out`) and shape of each output, by name.
    values
        Outputs that are values.
    """

    out: Path
    seconds: float = 0.0
    peak_bytes: int = 0
    planned_bytes: int = 0
    stages: list[StageReport] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def path(self, output: str) -> Path:
        """Return where an output is."""
        return self.out / str(self.outputs[output]["path"])

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "out": str(self.out),
            "seconds": round(self.seconds, 3),
            "peak_bytes": self.peak_bytes,
            "planned_bytes": self.planned_bytes,
            "stages": [
                {"name": s.name, "seconds": round(s.seconds, 3), **_rounded(s.stats)}
                for s in self.stages
            ],
            "outputs": self.outputs,
            "values": {n: value_json(v) for n, v in self.values.items()},
        }

    def __str__(self) -> str:
        lines = [
            f"{self.out}  ({self.seconds:.1f} s, peak memory {_mib(self.peak_bytes)} of "
            f"{_mib(self.planned_bytes)} planned)"
        ]
        for name, output in self.outputs.items():
            lines.append(f"  {name}: {_describe(name, output, self.values)}")
        return "\n".join(lines)


def _describe(name: str, output: dict[str, Any], values: dict[str, Any]) -> str:
    if output["kind"] == "table":
        return f"{output['rows']} rows in {output['path']}"
    if output["kind"] == "value":
        value = values[name]
        return f"{value.tolist()}" if isinstance(value, np.ndarray) else f"{value}"
    size = " x ".join(map(str, output["shape"]))
    levels = count(output["levels"], "scale level")
    return f"{output['kind']} {size} {output['dtype']} in {output['path']}/, OME-Zarr, {levels}"


def _mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"


def _rounded(stats: Stats) -> dict[str, Any]:
    return {n: round(v, 3) if isinstance(v, float) else v for n, v in asdict(stats).items()}


def value_json(value: Any) -> Any:
    """Return a value as JSON data; NaN and infinities, which JSON lacks, become texts."""
    if isinstance(value, np.ndarray):
        return [value_json(v) for v in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [value_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return plain(value)
