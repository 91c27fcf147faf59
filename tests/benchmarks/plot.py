"""A picture of all results: a panel of bars for each workload."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_COLOURS = {"ours": "#d95f02", "limit": "#444444", "limit_on_disk": "#777777"}
_OTHER = "#9db4c8"
_COLUMNS = 3


def draw(data: Mapping[str, Any], path: Path) -> None:
    """Draw all workloads; a hatched bar is a run that was stopped at its limit."""
    workloads = data["workloads"]
    rows = ceil(len(workloads) / _COLUMNS)
    most = max(len(w["candidates"]) for w in workloads.values())
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(15, rows * (0.9 + 0.31 * most)), squeeze=False
    )
    for axis, (name, workload) in zip(axes.flat, workloads.items(), strict=False):
        _panel(axis, name, workload)
    for axis in axes.flat[len(workloads) :]:
        axis.set_visible(False)
    found = data["machine"]
    figure.suptitle(
        f"Seconds of work, logarithmic; shorter is better. Size {data['size']}, on "
        f"{found['processor']}, {found['cores']} cores",
        fontsize=12,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, name: str, workload: Mapping[str, Any]) -> None:
    candidates = {n: c for n, c in workload["candidates"].items() if _length(c) is not None}
    order = sorted(candidates, key=lambda n: _length(candidates[n]) or 0.0, reverse=True)
    lengths = [_length(candidates[n]) or 0.0 for n in order]
    bars = axis.barh(order, lengths, color=[_COLOURS.get(n, _OTHER) for n in order], height=0.72)
    for bar, label in zip(bars, order, strict=True):
        stopped = candidates[label]["seconds"] is None
        if stopped:
            bar.set_hatch("///")
        text = candidates[label]["failed"] if stopped else _seconds(bar.get_width())
        middle = bar.get_y() + bar.get_height() / 2
        axis.annotate(
            text, (bar.get_width(), middle), (4, 0), textcoords="offset points", va="center", size=9
        )
    _scale(axis, lengths)
    axis.set_title(f"{name}: {workload['title']}", fontsize=10, loc="left")


def _scale(axis: Any, lengths: list[float]) -> None:
    axis.set_xscale("log")
    if lengths:
        axis.set_xlim(min(lengths) / 2, max(lengths) * 2.6)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _seconds(x)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=8)
    axis.tick_params(axis="y", labelsize=9, length=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _length(found: Mapping[str, Any]) -> float | None:
    """Return how long a bar is: where a run was stopped, to its limit."""
    if found["seconds"] is not None:
        return float(found["seconds"])
    words = found["failed"].split()
    return float(words[1]) if words[:1] == ["over"] else None


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 100 else f"{value:.2g} s"
