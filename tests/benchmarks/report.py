"""Results as JSON, as a Markdown table and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import machine, workloads
from tests.benchmarks.measure import Runs
from tests.benchmarks.sizes import Size

_NOTES = """\
Seconds of work: medians of {repeats} interleaved runs, each in a process of its own; a rival
whose first run took more than {slow:.0f} s ran once (*). Start-up (imports, the cluster's start
and stop, compiling) stands apart. Peak memory is that of all processes together, shared pages
counted once, sampled from outside. Every result was compared with plain NumPy and SciPy. `ours`
includes planning, the ledger of a run that can be resumed, checksums, flush to disk and publishing;
nobody else's figure does. `limit` is written by hand for this workload alone, without any of that;
`limit_on_disk` is the same and flushes its result to disk at the end.
"""


def to_json(
    size: Size, settings: Mapping[str, Any], results: Mapping[str, Mapping[str, Runs]]
) -> dict[str, Any]:
    """Return everything that was measured, and on what."""
    return {
        "machine": machine.facts(),
        "size": size.name,
        "volume": list(size.volume),
        "settings": dict(settings),
        "workloads": {
            name: {
                "title": workloads.load(name).title,
                "candidates": {c: r.to_json() for c, r in candidates.items()},
            }
            for name, candidates in results.items()
        },
    }


def load(folder: Path, size: Size) -> dict[str, Any]:
    """Return what `save` wrote for a size; nothing where it did not."""
    file = folder / f"{_stem(size.name)}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def added(earlier: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return results together with those of other workloads that were measured earlier.

    Raises
    ------
    ValueError
        When those come from another machine, other versions, or other settings.
    """
    if not earlier:
        return dict(data)
    differs = [k for k in data if k != "workloads" and earlier[k] != data[k]]
    if differs:
        raise ValueError(
            f"the table that is there has another {differs[0]} ({earlier[differs[0]]}, not "
            f"{data[differs[0]]}): one table would mix the two; leave out --add, or choose --out"
        )
    kept = {**earlier["workloads"], **data["workloads"]}
    return {**data, "workloads": {n: kept[n] for n in workloads.NAMES if n in kept}}


def markdown(data: Mapping[str, Any]) -> str:
    """Return the table of all results."""
    settings = data["settings"]
    z, y, x = data["volume"]
    lines = [
        f"# Benchmarks, size {data['size']}: volume of {z} x {y} x {x} uint16",
        "",
        machine.sentence(data["machine"]),
        "",
        _NOTES.format(repeats=settings["repeats"], slow=settings["slow"]),
    ]
    for name, workload in data["workloads"].items():
        lines += [f"## {name}: {workload['title']}", "", *_table(workload["candidates"]), ""]
    return "\n".join(lines)


def _table(candidates: Mapping[str, Any]) -> list[str]:
    head = ["candidate", "seconds", "x ours", "x limit", "start-up", "peak MB", "result"]
    rows = ["| " + " | ".join(head) + " |", "|---|---|---|---|---|---|---|"]
    known = {n: c["seconds"] for n, c in candidates.items() if c["seconds"] is not None}
    for name in sorted(candidates, key=lambda n: known.get(n, float("inf"))):
        rows.append("| " + " | ".join(_row(name, candidates[name], known)) + " |")
    return rows


def _row(name: str, found: Mapping[str, Any], known: Mapping[str, float]) -> list[str]:
    seconds = found["seconds"]
    shown = found["failed"] if seconds is None else f"{seconds:.2f}"
    once = "*" if seconds is not None and len(found["runs"]) == 1 else ""
    return [
        f"**{name}**" if name == "ours" else name,
        shown + once,
        _ratio(seconds, known.get("ours")),
        _ratio(seconds, known.get("limit")),
        "" if found["startup"] is None else f"{found['startup']:.1f}",
        f"{found['peak_mb']}",
        _verdict(found),
    ]


def _verdict(found: Mapping[str, Any]) -> str:
    if found["seconds"] is None:
        return "none"
    return "right" if not found["wrong"] else "WRONG: " + "; ".join(found["wrong"])


def _ratio(seconds: float | None, base: float | None) -> str:
    return "" if seconds is None or not base else f"{seconds / base:.2f}"


def save(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write JSON, table and picture; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = _stem(data["size"])
    paths = [folder / f"{stem}{ending}" for ending in (".json", ".md", ".png")]
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    paths[1].write_text(markdown(data))
    try:
        from tests.benchmarks.plot import draw
    except ImportError:
        print("no picture: matplotlib is not there; pip install -e '.[bench]'")
        return paths[:2]
    draw(data, paths[2])
    return paths


def _stem(size: str) -> str:
    return f"benchmarks-{size}"
