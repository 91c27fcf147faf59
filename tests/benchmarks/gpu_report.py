"""The figures of `tests.benchmarks.gpu` as a table::

python -m tests.benchmarks.gpu_report tests/benchmarks/results/gpu.json > .../gpu.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import sentence


def report(found: Mapping[str, Any]) -> str:
    """Return figures as Markdown."""
    lines = [f"# One GPU: {found['gpu']}", "", sentence(found["machine"]), ""]
    lines += [f"Image of {' x '.join(map(str, found['shape']))} uint16; medians.", ""]
    for what, add in _PARTS.items():
        part = found.get(what)
        if part is not None:
            lines += [f"## {_TITLES[what]}", ""]
            failed = part.get("failed")
            lines += [f"Failed: {failed}"] if failed else list(add(part))
            lines.append("")
    return "\n".join(lines)


def _resident(part: Mapping[str, float]) -> Iterator[str]:
    yield from ("| | ms |", "|---|---|")
    yield f"| one kernel of ours | {part['ours']:.2f} |"
    yield f"| cupyx.scipy.ndimage | {part['cupyx']:.2f} |"
    yield f"| a copy of the bytes that must be moved | {part['copy']:.2f} |"
    times, share = part["times_cupyx"], part["share_of_copy"]
    yield from (
        "",
        f"{times:.0f} times as fast as cupyx; {share:.0%} of the card's copy bandwidth.",
    )


def _filters(part: Mapping[str, float]) -> Iterator[str]:
    yield from ("| filter | ms | times as fast as cupyx |", "|---|---|---|")
    for name, ms in part.items():
        theirs = part.get(f"{name}, times cupyx")
        if theirs is not None:
            yield f"| {name} | {ms:.2f} | {theirs:.1f} |"


def _labels(part: Mapping[str, float]) -> Iterator[str]:
    yield from (f"{part['objects']:,} objects.", "", "| | label, ms | table, ms |", "|---|---|---|")
    for who in ("ours", "cucim", "cupyx"):
        if f"label {who}" in part:
            table = part.get(f"table {who}")
            text = "" if table is None else f"{table:.1f}"
            yield f"| {who} | {part[f'label {who}']:.1f} | {text} |"


def _end_to_end(part: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| device | seconds in all | seconds of blocks |", "|---|---|---|")
    for device in ("gpu", "cpu"):
        blocks = sum(stage["seconds"] for stage in part[device]["stages"])
        yield f"| {device} | {part[device]['seconds']:.2f} | {blocks:.2f} |"
    yield ""
    longest = max(part["gpu"]["stages"], key=lambda stage: stage["seconds"])
    told = longest["device"].items()
    shares = ", ".join(f"{name} {share:.0%}" for name, share in told if name != "limit")
    yield f"Shares of the GPU's longest stage, as its report has them: {shares.replace('_', ' ')}."


_PARTS = {
    "resident, ms": _resident,
    "filters, ms": _filters,
    "label, ms": _labels,
    "end to end": _end_to_end,
}
_TITLES = {
    "resident, ms": "Flat-field, gaussian (1, 2, 2) and threshold of a resident block",
    "filters, ms": "Filters of half the image",
    "label, ms": "Labels and region table (bounding boxes, centroids, intensities)",
    "end to end": "Four times the image, from zarr to zarr",
}


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text())))
