"""Group what must be written or reduced into stages, and decide what to keep between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_pipe.geometry import Grid
from lepton_pipe.plan.levels import Levels
from lepton_pipe.plan.model import Decision
from lepton_pipe.plan.rates import Rates
from lepton_pipe.spec import ImageType, Spec, Step

# Kernels that a stage is named after.
WORDS = 3


@dataclass
class Draft:
    """A stage before its block shape is chosen."""

    level: int
    grid: Grid
    reduces: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    sweep: str | None = None

    @property
    def sinks(self) -> list[str]:
        """Everything the stage is run for."""
        return [*self.reduces, *self.writes, *([self.sweep] if self.sweep else [])]


def draft_stages(spec: Spec, levels: Levels, stored: Iterable[str]) -> list[Draft]:
    """Return one draft for each level and grid that has something to write or reduce.

    A sweep always has a stage of its own. Stages of one level do not need each other.
    """
    drafts: dict[tuple[int, object], Draft] = {}
    stored = set(stored)
    for step in spec.steps:
        reduces = step.kernel is not None and step.kernel.role == "reduce"
        sweeps = step.kernel is not None and step.kernel.role == "sweep"
        writes = step.id in stored or step.id in spec.outputs.values()
        if not (reduces or sweeps or (writes and isinstance(step.type, ImageType))):
            continue
        level = levels.of[step.id]
        grid = spec.leading_grid(step) if reduces else spec.image_type(step.id).grid
        key = (level, step.id if sweeps else (grid.shape, grid.axes))
        draft = drafts.setdefault(key, Draft(level, grid))
        if sweeps:
            draft.sweep = step.id
        (draft.reduces if reduces else draft.writes).append(step.id)
    return sorted(drafts.values(), key=lambda d: d.level)


def closure(
    spec: Spec, levels: Levels, draft: Draft, stored: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return the images a stage reads, and the steps it computes, in order.

    A stored result is read if an earlier stage wrote it, and computed if this one does.
    """
    stored, reads, steps = set(stored), set(), set()
    stack = list(draft.sinks)
    while stack:
        step = spec[stack.pop()]
        if step.id in reads or step.id in steps:
            continue
        if step.kernel is None or (step.id in stored and _written_before(step.id, levels, draft)):
            reads.add(step.id)
            continue
        steps.add(step.id)
        stack.extend(spec.image_inputs(step))
    order = [s.id for s in spec.steps]
    return [s for s in order if s in reads], [s for s in order if s in steps]


def _written_before(step: str, levels: Levels, draft: Draft) -> bool:
    return step not in draft.sinks and levels.of[step] < draft.level


def choose_kept(spec: Spec, levels: Levels, rates: Rates) -> tuple[set[str], list[Decision]]:
    """Choose which results are stored because later stages need them again.

    Greedy: as long as storing one more result saves time, the one that saves most is stored. What
    is an output is stored anyway and costs nothing more. Returns the steps to store, and a
    decision for everything that was a candidate.
    """
    stored = set(levels.stored)
    decisions = [Decision(s, "store", _rule(levels, s)) for s in sorted(stored)]
    while True:
        offers = _offers(spec, levels, stored, rates)
        best = max(offers, key=lambda o: o.saving, default=None)
        if best is None or best.saving <= 0:
            break
        stored.add(best.step)
        decisions.append(Decision(best.step, "store", best.reason))
    decisions += [Decision(o.step, "recompute", o.reason) for o in offers]
    return stored, decisions


def _rule(levels: Levels, step: str) -> str:
    if step in levels.pinned:
        return "a later stage reads labels beyond its own block, so they must be final first"
    return "it is put together from slabs, and a later stage needs it whole"


@dataclass(frozen=True)
class _Offer:
    step: str
    saving: float
    reason: str


def _offers(spec: Spec, levels: Levels, stored: set[str], rates: Rates) -> list[_Offer]:
    drafts = draft_stages(spec, levels, stored)
    uses: dict[str, list[Draft]] = {}
    for draft in drafts:
        for step in closure(spec, levels, draft, stored)[1]:
            uses.setdefault(step, []).append(draft)
    offers = []
    for step_id, users in uses.items():
        type_ = spec[step_id].type
        again = [d for d in users if d.level > levels.of[step_id]]
        if not isinstance(type_, ImageType) or len(again) == len(users) or not again:
            continue
        if step_id in levels.pinned:  # stored by rule, or never needed again
            continue
        offers.append(_offer(spec, step_id, type_, len(again), stored, rates))
    return offers


def _offer(
    spec: Spec, step_id: str, type_: ImageType, again: int, stored: set[str], rates: Rates
) -> _Offer:
    size = type_.dtype.itemsize
    compute = chain_cost(spec, step_id, stored, rates)
    store = 0.0 if step_id in spec.outputs.values() else rates.store_ns * size
    load = again * rates.load_ns * size
    saving = again * compute - load - store
    reason = (
        f"{again} later {'stage needs' if again == 1 else 'stages need'} it: computing it again "
        f"takes {again * compute:.0f} ns a voxel, storing and reading it "
        f"{store + load:.0f}"
    )
    return _Offer(step_id, saving * type_.grid.size, reason)


def chain_cost(spec: Spec, step_id: str, stored: Iterable[str], rates: Rates) -> float:
    """Return the nanoseconds per voxel to compute a step from what is stored or read."""
    stored, seen, cost = set(stored), set(), 0.0
    stack = [step_id]
    while stack:
        step = spec[stack.pop()]
        if step.id in seen:
            continue
        seen.add(step.id)
        size = spec.image_type(step.id).dtype.itemsize
        if step.kernel is None:
            cost += rates.decode_ns * size
        elif step.id in stored and step.id != step_id:
            cost += rates.load_ns * size
        else:
            cost += step.cost
            stack.extend(spec.image_inputs(step))
    return cost


def stage_name(spec: Spec, steps: Sequence[str], reads: Sequence[str]) -> str:
    """Return a short name in the pipeline's own words: its dearest kernels, no operators."""
    named = [s for s in steps if not _is_operator(spec[s])] or list(steps)
    if not named:
        return "+".join(f"copy-{r}" for r in reads)
    kinds = alike(named)
    dearest = sorted(kinds, key=lambda k: -sum(spec[s].cost for s in kinds[k]))[:WORDS]
    words = [kind for kind in kinds if kind in dearest]
    return "+".join(words) + ("+.." if len(words) < len(kinds) else "")


def alike(steps: Iterable[str]) -> dict[str, list[str]]:
    """Return steps by what they are called together: a sweep has one of a kind for each variant.

    >>> alike(["gaussian[sigma=1]", "gaussian[sigma=2]", "otsu"])
    {'gaussian*2': ['gaussian[sigma=1]', 'gaussian[sigma=2]'], 'otsu': ['otsu']}
    """
    kinds: dict[str, list[str]] = {}
    for step in steps:
        kinds.setdefault(step.partition("[")[0], []).append(step)
    return {ids[0] if len(ids) == 1 else f"{k}*{len(ids)}": ids for k, ids in kinds.items()}


def _is_operator(step: Step) -> bool:
    return step.kernel is not None and isinstance(step.kernel.fn, np.ufunc)
