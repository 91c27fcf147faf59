"""Why a plan is as it is: what each stage's time is made of, and what the next best would cost."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from math import prod

from lepton_pipe.plan import NOMINAL, Plan, Rates, Stage
from lepton_pipe.plan.absorb import absorbing_groups
from lepton_pipe.plan.estimate import Shape, Work
from lepton_pipe.plan.model import is_scale_level
from lepton_pipe.plan.rates import measured_name, measured_step
from lepton_pipe.plan.shape import MAX_BLOCK_VOXELS
from lepton_pipe.report.plan_text import WIDTH, by, count, size

Numbered = tuple[int, Stage]

_PARTS = {
    "kernels": "compute",
    "decoding": "decode",
    "encoding": "encode",
    "task overhead": "tasks",
}
# Seconds below which a part of the work is not told.
_LITTLE = 0.05
# Times closer than this are the same for people.
_SAME = 0.005


def explain_text(plan: Plan, rates: Rates) -> str:
    """Return, stage by stage, why its blocks have the shape they have."""
    lines = []
    for group in _weighed_together(plan.stages):
        names = [f"stage {number}, {stage.name}" for number, stage in group]
        lines += [_wrapped("; ".join(names), 2), *(_wrapped(w, 4) for w in _group_lines(group))]
    lines += [_wrapped(line, 2) for line in _rate_lines(plan, rates)]
    return "\n".join(["why these blocks:", *lines])


def _wrapped(text: str, indent: int) -> str:
    first, more = " " * indent, " " * (indent + 2)
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=more)


def _weighed_together(stages: Sequence[Stage]) -> list[list[Numbered]]:
    """Return stages with their numbers, those whose blocks were chosen together in one list."""
    groups: dict[int, list[Numbered]] = {}
    for number, stage in enumerate(stages, start=1):
        # Stages that must have the same blocks hold the very same shapes, not equal ones.
        key = id(stage.considered[0]) if stage.considered else -number
        groups.setdefault(key, []).append((number, stage))
    return list(groups.values())


def _group_lines(group: Sequence[Numbered]) -> Iterator[str]:
    stage = group[0][1]
    if not stage.considered:
        return
    best, *others = stage.considered
    together = ", the same for both" if len(group) == 2 else ", the same for all"
    yield f"block {by(best.block)}{together if len(group) > 1 else ''}: {_work(best.work)}"
    for number, member in group:
        prefix = f"stage {number}: " if len(group) > 1 else ""
        yield f"{prefix}{_memory(member)}{_reading(member)}{_staying(member)}"
    for other in others:
        yield f"not {by(other.block)}: {_difference(best, other)}"
    if not others and best.block == stage.grid.shape:
        yield "the image is no larger than one block"
    elif not others:
        yield "no other shape fits the memory"


def _work(work: Work) -> str:
    parts = [(name, getattr(work, field)) for name, field in _PARTS.items()]
    told = ", ".join(f"{name} {s:.1f}" for name, s in parts if s >= _LITTLE)
    if not told:
        return f"{max(1, round(1000 * work.total))} ms of one core"
    return f"{work.total:.1f} s of one core ({told})"


def _memory(stage: Stage) -> str:
    text = f"{count(stage.at_once, 'block')} at once, {size(stage.estimate.task_bytes)} each"
    if stage.lanes:
        there = size(stage.estimate.device_bytes)
        text += f"; {stage.lanes} of them on the GPU of a process, {there} each"
    return text


def _reading(stage: Stage) -> str:
    e = stage.estimate
    if not e.bytes_read:
        return ""
    text = f"; reads {size(e.bytes_read)} with overlap, decodes {size(e.bytes_decoded)}"
    if size(e.bytes_read) == size(e.bytes_decoded):
        text = f"; reads {size(e.bytes_read)}"
    if stage.cache_bytes:
        slowest = stage.grid.axes[stage.blocks.order[0]]
        text += f"; keeps {size(stage.cache_bytes)} of decoded chunks, {slowest} runs slowest"
    return text


def _staying(stage: Stage) -> str:
    if not stage.kept:
        return ""
    names = ", ".join(f"level {level} of {array}" for array, level in stage.kept)
    return f"; {names} stays in memory ({size(stage.kept_bytes)})"


def _difference(best: Shape, other: Shape) -> str:
    """Say what the other shape takes more or less of, and why it was not taken."""
    more = other.seconds / best.seconds - 1 if best.seconds else 0.0
    told = [_time(more), *_changes(best.work, other.work)]
    if other.lanes != best.lanes:
        told.append(f"{other.lanes} on the GPU at once")
    if other.at_once != best.at_once:
        told.append(f"{other.at_once} at once")
    elif more > _SAME and other.work.total < (1 + _SAME) * best.work.total:
        told.append("leaves cores idle at the end")
    told.append(f"{size(other.bytes_each)} each")
    if more < -_SAME:
        too_large = prod(other.block) > MAX_BLOCK_VOXELS
        told.append("too large for a core's caches" if too_large else "makes no scale level")
    return ", ".join(told)


def _time(more: float) -> str:
    if abs(more) < _SAME:
        return "the same time"
    return f"{100 * abs(more):.0f} % {'more' if more > 0 else 'less'} time"


def _changes(best: Work, other: Work) -> Iterator[str]:
    for name, field in _PARTS.items():
        seconds = getattr(other, field) - getattr(best, field)
        if abs(seconds) >= _LITTLE:
            yield f"{name} {seconds:+.1f} s"


def _rate_lines(plan: Plan, rates: Rates) -> Iterator[str]:
    names = [f.name for f in fields(Rates) if f.name.endswith("_ns")]
    assumed = all(getattr(rates, n) == getattr(NOMINAL, n) for n in names)
    origin = "assumed, until longer runs were measured" if assumed else "learned on this machine"
    yield (
        f"ns per byte: decoding {rates.decode_ns:.2f}, encoding {rates.encode_ns:.2f}, storing "
        f"{rates.store_ns:.2f}, loading {rates.load_ns:.2f} ({origin})"
    )
    costs = _costs(plan, rates)
    if costs:
        mark = " (* learned on this machine)" if any(c.endswith("*") for c in costs) else ""
        yield f"ns per voxel: {', '.join(costs)}{mark}"


def _costs(plan: Plan, rates: Rates) -> list[str]:
    told = {}
    spec = plan.spec
    groups = (g.steps for stage in plan.stages for g in absorbing_groups(spec, stage, stage.steps))
    for steps in groups:
        step, key = measured_step(spec, measured_name(steps))
        if step.kernel is None or not step.cost:
            continue
        name = step.kernel.name if is_scale_level(step.id) else "+".join(steps)
        measured = "*" if key in rates.factors else ""
        told[name] = f"{name} {rates.cost(spec, steps):.1f}{measured}"
    return list(told.values())
