"""A plan as a table that a person can read."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from lepton_pipe.geometry import Depth
from lepton_pipe.plan import Plan, Stage, StoredArray, why_no_cluster
from lepton_pipe.plan.model import is_scale_level
from lepton_pipe.plan.regions import accumulated_depth
from lepton_pipe.plan.stages import alike

WIDTH = 110


def plan_text(plan: Plan, out: str) -> str:
    """Return the plan as text: inputs, stages, outputs, memory, time, and why things are kept."""
    table = table_text(_stage_table(plan))
    lines = [f"{plan.pipeline.pipeline} -> {out}", *_input_lines(plan), table]
    notes = [*_output_lines(plan), *_decision_lines(plan), _resource_line(plan)]
    lines += [textwrap.fill(n, WIDTH, initial_indent="  ", subsequent_indent="    ") for n in notes]
    return "\n".join(lines)


def table_text(table: Table) -> str:
    """Return a table as text."""
    # Plain text wherever it is printed: in a terminal, a notebook, or a file.
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        highlight=False,
        markup=False,
        force_jupyter=False,
        force_terminal=False,
        color_system=None,
    )
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _input_lines(plan: Plan) -> list[str]:
    lines = []
    for name, info in plan.inputs.items():
        grid = info.type.grid
        lines.append(
            f"  {name}: {info.uri}  {''.join(grid.axes)} {by(grid.shape)} {info.type.dtype}"
        )
        if grid.axes[-1] == "x" and grid.shape[-1] in (3, 4) and grid.ndim > 2:
            lines.append(
                f"    note: x has only {grid.shape[-1]} voxels; if they are colours, say so with "
                f"axes={''.join(grid.axes[1:-1])}xc (open_image, or --input-axes)"
            )
    return lines


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
            str(stage.at_once),
            size(stage.estimate.bytes_read),
            size(stage.estimate.bytes_written) if stage.writes else "-",
            size(stage.estimate.task_bytes),
        )
    return table


def _kernels(stage: Stage) -> list[str]:
    words = list(alike(s for s in stage.steps if not is_scale_level(s)))
    levels = [s for s in stage.steps if is_scale_level(s)]
    if levels:
        words.append(f"+{count(len(levels), 'scale level')}")
    return words or ["copy"]


def _depth(plan: Plan, stage: Stage) -> Depth:
    """Return the overlap of the read region, accumulated over the chain."""
    return accumulated_depth(plan.spec, stage)


def depth_text(depth: Depth) -> str:
    """Return a depth as text, one side only where both are the same."""
    sides = [f"{lo}" if lo == hi else f"{lo}/{hi}" for lo, hi in depth]
    return "-" if all(s == "0" for s in sides) else ",".join(sides)


def _output_lines(plan: Plan) -> list[str]:
    stored: dict[tuple[str, str], list[str]] = {}
    for array in (a for a in plan.arrays.values() if a.output):
        last = array.name.rpartition("/")[2]
        stored.setdefault((last, _stored_as(array)), []).append(array.name)
    return [
        f"{names[0]}: {text}" if len(names) == 1 else f"{last}, in {len(names)} folders: {text}"
        for (last, text), names in stored.items()
    ]


def _stored_as(array: StoredArray) -> str:
    first = array.levels[0]
    shards = f", shards {by(first.shards)}" if first.shards else ""
    return (
        f"{array.type.kind} {array.type.dtype}, {count(len(array.levels), 'scale level')}, chunks "
        f"{by(first.chunks)}{shards}, {size(array.nbytes)} uncompressed"
    )


def _decision_lines(plan: Plan) -> list[str]:
    words = {
        "store": "stored between stages",
        "keep": "kept in memory between stages",
        "keep and store": "kept in memory between stages, and stored",
        "recompute": "computed again",
    }
    lines = []
    for choice in dict.fromkeys(d.choice for d in plan.decisions):
        reasons = {d.step: d.reason for d in plan.decisions if d.choice == choice}
        for steps, ids in alike(reasons).items():
            lines.append(f"{steps} is {words[choice]}: {reasons[ids[0]]}")
    return lines


def _resource_line(plan: Plan) -> str:
    r = plan.resources
    return (
        f"{count(plan.tasks, 'task')} on {_where(plan)}, {r.device}; peak memory "
        f"{size(plan.peak_bytes)} of {size(r.memory)}{_device(plan)}; about "
        f"{duration(plan.seconds)}"
    )


def _device(plan: Plan) -> str:
    if plan.resources.device == "cpu":
        return ""
    lanes = max((s.lanes for s in plan.stages), default=0)
    straight = ", ".join(n for n, i in plan.inputs.items() if i.plain) or "no input"
    return (
        f", {size(plan.device_peak_bytes)} of {size(plan.resources.device_memory)} on each GPU "
        f"({count(lanes, 'block')} there at once"
        f"{f', {straight} read straight to it' if plan.resources.direct else ''})"
    )


def _where(plan: Plan) -> str:
    r = plan.resources
    if r.serial:
        return "one process, one block at a time"
    if r.in_process:
        return f"{count(r.threads, 'thread')} of one process ({why_no_cluster(plan)})"
    return f"{r.workers} x {r.threads} threads"


def count(n: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def be(n: int) -> str:
    """Return the verb that goes with a number."""
    return "is" if n == 1 else "are"


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
