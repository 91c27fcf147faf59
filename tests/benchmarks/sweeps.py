"""What a sweep over five values costs beside one run, and how often it decodes its input.

On one core, in this process, over a part of the volume. Decoded is the input, and what stages have
stored for one another: here masks of thresholds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lepton_pipe.cache import chunks
from lepton_pipe.pipelines.nuclei import nuclei
from tests.benchmarks import machine
from tests.benchmarks.data import ensure
from tests.benchmarks.pipelines import SIGMAS, blurred
from tests.benchmarks.sizes import SIZES

REPEATS = 3
SIZE = "1gb"
_THRESHOLDS = (500.0, 600.0, 700.0, 800.0, 900.0)
_MEMORY = "4GiB"


class Case(NamedTuple):
    """A pipeline, and what is given for its parameters: alone, and in a sweep of five."""

    shared: str
    pipeline: Any
    one: dict[str, Any]
    five: dict[str, Any]


CASES = {
    "nuclei, five sizes": Case(
        "all but labels and table", nuclei, {"min_size": 20}, {"min_size": (0, 20, 40, 80, 160)}
    ),
    "nuclei, five thresholds": Case(
        "gaussian", nuclei, {"threshold": _THRESHOLDS[2]}, {"threshold": _THRESHOLDS}
    ),
    "gaussian, five sigmas": Case("decoding", blurred, {"sigma": 2.0}, {"sigma": SIGMAS}),
}


def main(data: Path, out: Path) -> None:
    """Measure and write ``sweeps.md`` and ``sweeps.json``."""
    raw = ensure(SIZES[SIZE], data, ("part",)) / "part.zarr"
    result = data / "sweeps"
    rows = []
    for name, case in CASES.items():
        swept = case.pipeline.sweep(**case.five)
        one = _measured(lambda c=case: c.pipeline.plan(**_words(raw, result), **c.one))
        five = _measured(lambda s=swept: s.plan(**_words(raw, result)))
        rows.append({"case": name, "shared": case.shared, **_row(one, five)})
        print(rows[-1], flush=True)
    shutil.rmtree(result, ignore_errors=True)
    found = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweeps.json").write_text(json.dumps({"machine": found, "rows": rows}, indent=1) + "\n")
    text = _text(found, rows)
    (out / "sweeps.md").write_text(text)
    print(text)


def _words(raw: Path, result: Path) -> dict[str, Any]:
    return {"raw": raw, "out": result, "serial": True, "memory": _MEMORY, "levels": 1}


class _Measured(NamedTuple):
    seconds: float
    decoded: float


def _measured(plan: Callable[[], Any]) -> _Measured:
    """Return seconds, planning included, and bytes of the input decoded; the first run warms up."""
    found = []
    for _ in range(REPEATS + 1):
        began, before = time.perf_counter(), chunks.snapshot().decoded_bytes
        made = plan()
        made.run(progress=False)
        seconds = time.perf_counter() - began
        found.append(_Measured(seconds, chunks.snapshot().decoded_bytes - before))
        shutil.rmtree(made.out)
    return _Measured(median(f.seconds for f in found[1:]), found[-1].decoded)


def _row(one: _Measured, five: _Measured) -> dict[str, Any]:
    return {
        "one_s": round(one.seconds, 2),
        "five_s": round(five.seconds, 2),
        "times": round(five.seconds / one.seconds, 2),
        "decoded_one_mb": round(one.decoded / 1e6),
        "decoded_five_mb": round(five.decoded / 1e6),
    }


def _text(found: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    columns = ("case", "shared", "one_s", "five_s", "times", "decoded_one_mb", "decoded_five_mb")
    lines = ["# Sweeps", "", machine.sentence(found), "", (__doc__ or "").strip(), ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"
