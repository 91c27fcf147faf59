"""What tests of keys share: sources whose stamps are set by hand, values made up, and runs in
memory that note who read what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.geometry import Region
from lepton_pipe.ledger.keys import BlockKeys, InputStamps
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.spec import Definition, ImageType, PerBlock
from lepton_pipe.store.source import Source
from lepton_pipe.store.stamps import digest

GIB = 2**30

tilings = st.none() | st.fixed_dictionaries({}, optional={a: st.integers(3, 90) for a in "zyx"})


@dataclass(frozen=True)
class SetSource(Source):
    """A source whose units were all written at once, but for those given another time."""

    times: dict[tuple[int, ...], int] = field(default_factory=dict)
    asked: list[tuple[int, ...]] = field(default_factory=list)
    written: str = "once"

    def _read(self, region: Region) -> Any:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        return {}

    @property
    def stamp_unit(self) -> tuple[int, ...]:
        return self.chunks

    def _form(self) -> tuple[Any, ...]:
        return (self.written,)

    def unit_stamps(self, units):
        self.asked.extend(units)
        return [digest([unit, self.times.get(unit, 0)]) for unit in units]


class Parts(PerBlock):
    """A value with a part for each block."""

    def __init__(self, changed: int | None = None) -> None:
        self.changed = changed

    def part(self, index: int) -> Any:
        return np.array([index, index == self.changed])


def planned(
    pipeline: Callable[..., Any],
    types: dict[str, ImageType],
    chunks: tuple[int, ...],
    resources: Resources | None = None,
    tiling: dict[str, int] | None = None,
    **parameters: Any,
):
    spec = Definition(pipeline).bind(types, parameters)
    inputs = {n: InputInfo(t, chunks, n) for n, t in types.items()}
    return make_plan(spec, inputs, resources or Resources(8 * GIB, 0, 1), tiling)


def sources_of(plan, **changed):
    return {
        name: SetSource(name, info.type, info.chunks, changed.get(name, {}))
        for name, info in plan.inputs.items()
    }


def values_of(plan, **other):
    """Made-up values for all that stages need."""
    made = {v: Parts() if plan.spec.is_per_block(v) else 1.5 for s in plan.stages for v in s.values}
    return made | other


def keys_of(plan, sources=None, values=None, copies=()):
    """The keys of all blocks, by stage index and block number."""
    keys = BlockKeys(plan, InputStamps(sources or sources_of(plan)), copies)
    values = values or values_of(plan)
    return {
        (stage.index, number): key
        for stage in plan.stages
        for number, key in enumerate(k.tobytes() for k in keys.stage(stage, values))
    }


def changed(before, after):
    assert before.keys() == after.keys()
    return {block for block in before if before[block] != after[block]}


@lp.kernel(
    grid=lambda grid: grid,
    needs=lambda region: Region(
        (*region.start[:-2], region.start[-1], region.start[-2]),
        (*region.stop[:-2], region.stop[-1], region.stop[-2]),
    ),
)
def turned(image):
    """A square image mirrored at its diagonal: ranges of rows follow those of columns."""
    return np.ascontiguousarray(image.swapaxes(-1, -2))


@lp.kernel(
    grid=lambda grid: grid,
    needs=lambda region: Region(
        (region.start[0], max(0, region.start[1] - region.stop[0])),
        (region.stop[0], region.stop[1]),
    ),
)
def sheared(image, *, place):
    """Rows moved to the right by their number: which columns are read depends on the rows."""
    out = np.zeros(place.write.shape, image.dtype)
    for i, y in enumerate(range(place.write.start[0], place.write.stop[0])):
        for j, x in enumerate(range(place.write.start[1], place.write.stop[1])):
            if x >= y:
                out[i, j] = image[i, x - y - place.read.start[1]]
    return out
