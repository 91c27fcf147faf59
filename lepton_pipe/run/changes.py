"""What an update will compute and why, as far as that is known before anything is computed.

Stage after stage, as the run will do it: where all blocks of a stage are the same, the values of
the whole image are those of the version that is published, and so the keys of the next stage are
known. Where some are not, a stage that needs a value of theirs may have to be computed as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.errors import LeptonError
from lepton_pipe.ledger.keys import BlockKeys, InputStamps
from lepton_pipe.ledger.packing import known_classes, unpack
from lepton_pipe.merge.fold import TreeFold
from lepton_pipe.plan import Plan, Stage
from lepton_pipe.report.plan_text import be, count
from lepton_pipe.run.again import Stored
from lepton_pipe.run.digests import known_otherwise
from lepton_pipe.run.inputs import copies_of, identities_of
from lepton_pipe.run.published import Found, Published, Spoilt
from lepton_pipe.run.results import record
from lepton_pipe.run.units import StageFiles
from lepton_pipe.run.values import take_in
from lepton_pipe.run.why import Record, why_another_recipe
from lepton_pipe.store.durable import size_and_crc
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import Output
from lepton_pipe.store.source import Source
from lepton_pipe.worker import BlockResult, Combine


@dataclass
class StageChange:
    """What an update does of a stage.

    Attributes
    ----------
    blocks
        Blocks of the stage.
    computed
        Those that are to be computed since they are not the same, at most.
    again
        Others that are, since something that they stored on the way is needed again, at most.
    rekeyed
        Those of the computed that have another key than any there was, as far as that is known.
    is_new
        Whether it is none of the stages that there were.
    exact, again_exact
        Whether it will be just so many.
    why
        Why they are not the same.
    """

    name: str
    blocks: int
    computed: int = 0
    again: int = 0
    rekeyed: int = 0
    is_new: bool = False
    exact: bool = True
    again_exact: bool = True
    why: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        most = "" if self.exact else "at most "
        text = f"{self.name}: {most}{self.computed} of {count(self.blocks, 'block')}"
        why = list(self.why)
        if self.again:
            most = "" if self.again_exact else "at most "
            why.append(f"{most}{self.again} again, for what was stored on the way and is gone")
        return f"{text} ({'; '.join(why)})" if why else text


@dataclass(frozen=True)
class Changes:
    """What an update does.

    Attributes
    ----------
    same
        Whether nothing is to be done: the output is what a run would make.
    """

    out: Path
    stages: tuple[StageChange, ...]
    same: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"same": self.same, "stages": [vars(s) for s in self.stages]}

    def __str__(self) -> str:
        if self.same:
            return f"update: nothing has changed since {self.out} was made; it is left as it is"
        blocks = sum(s.blocks for s in self.stages)
        most = "" if all(s.exact and s.again_exact for s in self.stages) else "at most "
        computed = sum(s.computed + s.again for s in self.stages)
        head = f"update: {most}{computed} of {count(blocks, 'block')} {be(computed)} to be computed"
        return "\n".join([head, *(f"  {s}" for s in self.stages)])


def changes_at(
    out: Output | None, plan: Plan, sources: Mapping[str, Source], spoilt: Spoilt | None = None
) -> Changes | None:
    """Return what an update of an output does; None where there is none.

    Parameters
    ----------
    spoilt
        What of the output is known to be damaged.
    """
    if not isinstance(out, Path) or not out.exists():
        return None
    published = Published.open(out, spoilt)
    try:
        return changes(plan, sources, published)
    finally:
        published.close()


def changes(plan: Plan, sources: Mapping[str, Source], published: Published) -> Changes:
    """Find out what an update has to do; reads no voxels, unless inputs are known by bytes."""
    identities = identities_of(sources)
    copies = set(copies_of(plan, sources))
    otherwise = known_otherwise(published.ledger, sources)
    look = _Look(plan, BlockKeys(plan, InputStamps(sources), copies), published, otherwise)
    for stage in plan.stages:
        look.at(stage)
    look.count_again()
    idle = not any(s.computed or s.again for s in look.stages)
    same = idle and _is_whole(published) and look.record.is_of(record(plan, identities))
    return Changes(published.out, tuple(look.stages), same)


def _is_whole(published: Published) -> bool:
    """Tell whether all files but those of chunks are what was published."""
    try:
        files = published.ledger.files().items()
        return all(size_and_crc(published.out / name) == known for name, known in files)
    except OSError:
        return False


class _Look:
    """Goes through the stages of a plan, and finds what is the same.

    Parameters
    ----------
    otherwise
        What is to be said of inputs that are known in another way than before, by name.
    """

    def __init__(
        self, plan: Plan, keys: BlockKeys, published: Published, otherwise: Mapping[str, str]
    ) -> None:
        self._plan, self._keys, self._published = plan, keys, published
        self._otherwise = otherwise
        self._classes = known_classes(plan.spec)
        self._values: dict[str, Any] = {}
        # Blocks to be computed, and those of them that have other keys; none where that is unknown.
        self._todo: dict[int, NDArray[np.bool_] | None] = {}
        self._changed: dict[int, NDArray[np.bool_]] = {}
        self.record = Record.of(published.out / MARKER)
        self.stages: list[StageChange] = []

    def at(self, stage: Stage) -> None:
        """Look at the next stage."""
        blocks = len(stage.blocks)
        change = StageChange(stage.name, blocks)
        self.stages.append(change)
        known = self._published.has(self._keys.recipe(stage))
        unknown = self._unknown(stage)
        if unknown:
            self._todo[stage.index] = None
            change.computed, change.exact = blocks, not known
            # A value may have the name of the stage that makes it.
            change.why = [f"depends on {', '.join(dict.fromkeys(unknown))}"]
        else:
            self._compare(stage, change)
        if not known:
            change.is_new = True
            change.why = why_another_recipe(self._plan, stage, self.record)

    def _unknown(self, stage: Stage) -> list[str]:
        """Return what must be known for the keys of a stage, and is not."""
        values = [v for v in stage.values if v not in self._values]
        before = Stored(self._plan, stage).targets
        return values + [self._plan.stages[i].name for i in sorted(before) if self._todo[i] is None]

    def _compare(self, stage: Stage, change: StageChange) -> None:
        keys = self._keys.stage(stage, self._values)
        files = StageFiles.of(self._published.out, self._plan, stage)
        everything = np.ones(len(keys), bool)
        found = {
            f.block: f for f in self._published.blocks(self._keys.recipe(stage), keys, everything)
        }
        todo, changed = everything.copy(), everything.copy()
        changed[list(found)] = False
        todo[[b for b, f in found.items() if self._published.holds(files, f.row)]] = False
        if not todo.any():
            todo[self._unfolded(stage, found)] = True
        self._todo[stage.index], self._changed[stage.index] = todo, changed
        change.computed, change.rekeyed = int(todo.sum()), int(changed.sum())
        change.why = self._reasons(stage, todo, changed)

    def _unfolded(self, stage: Stage, found: Mapping[int, Found]) -> list[int]:
        """Take in what the blocks contributed; return those of which that cannot be read."""
        later = self._plan.stages[stage.index + 1 :]
        if not any(s.values for s in later):
            return []
        fold = TreeFold(Combine(self._plan.spec, stage.reduces), len(stage.blocks))
        for block in range(len(stage.blocks)):
            try:
                partial = self._published.partial(found[block])
                if partial is None and stage.reduces:
                    return [block]
                partials = unpack(partial, self._classes) if partial is not None else {}
            except LeptonError:
                return [block]
            fold.add(block, BlockResult.from_stored(partials))
        take_in(
            self._plan.spec, stage, fold.result().partials, self._values, str(self._published.out)
        )
        return []

    def _reasons(
        self, stage: Stage, todo: NDArray[np.bool_], changed: NDArray[np.bool_]
    ) -> list[str]:
        reasons = []
        if damaged := int((todo & ~changed).sum()):
            reasons.append(f"{damaged} changed or lost since they were published")
        rest: list[int] = np.flatnonzero(changed).tolist()
        if rest and self._published.has(self._keys.recipe(stage)):
            reasons += self._why_other_keys(stage, rest)
        return reasons

    def _why_other_keys(self, stage: Stage, blocks: list[int]) -> list[str]:
        """Return why blocks have other keys than before, in a stage that is the same."""
        stored, reads, left = Stored(self._plan, stage), 0, 0
        for block in blocks:
            written = stored.written_by([block]).items()
            other = any(self._changed[i][list(numbers)].any() for i, numbers in written)
            reads, left = reads + other, left + (not other)
        reasons = [f"{reads} read what is computed anew"] if reads else []
        inputs = [r.step for r in stage.reads if r.array is None]
        told = [self._otherwise[i] for i in inputs if i in self._otherwise]
        if left and told:
            reasons += told
        elif left:
            named = (f"input {i}" for i in inputs)
            asked = " or ".join([*named, *(f"the value of {v}" for v in stage.values)])
            reasons.append(f"for {left} {asked} has changed, or they were not whole")
        return reasons

    def count_again(self) -> None:
        """Count the blocks that must be run again for others, from the last stage to the first."""
        again: dict[int, set[int]] = defaultdict(set)
        for stage in reversed(self._plan.stages):
            todo, change = self._todo[stage.index], self.stages[stage.index]
            run = set(range(len(stage.blocks)) if todo is None else np.flatnonzero(todo).tolist())
            change.again = len(again[stage.index] - run)
            run |= again[stage.index]
            if not run:
                continue
            stored = Stored(self._plan, stage)
            for index, numbers in stored.written_by(run).items():
                if self._is_scratch(index, stored.targets[index]):
                    again[index] |= numbers
                    self.stages[index].again_exact &= change.exact and change.again_exact

    def _is_scratch(self, stage: int, targets: list[int]) -> bool:
        writes = self._plan.stages[stage].writes
        return any(not self._plan.arrays[writes[t].array].output for t in targets)
