"""A plan as a table that a person can read."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from lepton_pipe.geometry import Depth
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.plan.regions import accumulated_depth

WIDTH = 110


def plan_text(plan: Plan, out: str) -> str:
    """Return the plan as text: inputs, stages, outputs, memory, time, and why things are kept."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    console.print(f"{plan.pipeline.pipeline} -> {out}", markup=False)
    for name, info in plan.inputs.items():
        grid = info.type.grid
        console.print(
            f"  {name}: {info.uri}  {''.join(grid.axes)} {by(grid.shape)} {info.type.dtype}",
            markup=False,
        )
    console.print(_stage_table(plan))
    for line in [*_output_lines(plan), *_decision_lines(plan), _resource_line(plan)]:
        console.print(line, markup=False)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _stage_table(plan: Plan) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("stage")
    table.add_column("kernels", overflow="fold")
    table.add_column("depth")
    for name in ("block", "tasks", "at once", "read", "written", "per task"):
        table.add_column(name, justify="right")
    for number, stage in enumerate(plan.stages, start=1):
        table.add_row(
            str(number),
            " ".join(_kernels(stage)),
            depth_text(_depth(plan, stage)),
            by(stage.block),
            str(len(stage.blocks)),
            str(stage.slots),
            size(stage.estimate.bytes_read),
            size(stage.estimate.bytes_written) if stage.writes else "-",
            size(stage.estimate.task_bytes),
        )
    return table


def _kernels(stage: Stage) -> list[str]:
    words = [s for s in stage.steps if "@" not in s]
    levels = [s for s in stage.steps if "@" in s]
    if levels:
        words.append(f"+{len(levels)} scale level{'s' if len(levels) > 1 else ''}")
    return words or ["copy"]


def _depth(plan: Plan, stage: Stage) -> Depth:
    """Return the overlap of the read region, accumulated over the chain."""
    return accumulated_depth(plan.spec, stage)


def depth_text(depth: Depth) -> str:
    """Return a depth as text, one side only where both are the same."""
    sides = [f"{lo}" if lo == hi else f"{lo}/{hi}" for lo, hi in depth]
    return "-" if all(s == "0" for s in sides) else ",".join(sides)


def _output_lines(plan: Plan) -> list[str]:
    lines = []
    for array in plan.arrays.values():
        if array.output:
            first = array.levels[0]
            shards = f", shards {by(first.shards)}" if first.shards else ""
            lines.append(
                f"  {array.name}: {array.type.kind} {array.type.dtype}, {len(array.levels)} scale "
                f"level(s), chunks {by(first.chunks)}{shards}, {size(array.nbytes)} uncompressed"
            )
    return lines


def _decision_lines(plan: Plan) -> list[str]:
    words = {"store": "stored between stages", "recompute": "computed again"}
    return [f"  {d.step} is {words[d.choice]}: {d.reason}" for d in plan.decisions]


def _resource_line(plan: Plan) -> str:
    r = plan.resources
    where = "one process, one block at a time" if r.serial else f"{r.workers} x {r.threads} threads"
    return (
        f"  {plan.tasks} tasks on {where}, {r.device}; peak memory {size(plan.peak_bytes)} of "
        f"{size(r.memory)}; about {duration(plan.seconds)}"
    )


def by(shape: Sequence[int]) -> str:
    """Return a shape as ``64x256x256``."""
    return "x".join(map(str, shape))


def size(n: float) -> str:
    """Return bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a rough time."""
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
