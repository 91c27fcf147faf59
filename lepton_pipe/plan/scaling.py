"""Stages that make the scale levels which no other stage makes in passing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

from lepton_pipe.plan.fit import Fitter
from lepton_pipe.plan.model import Read, Stage, Write, level_step
from lepton_pipe.plan.shape import common_unit
from lepton_pipe.plan.stages import WORDS


def scale_stages(
    fitter: Fitter, stages: Sequence[Stage], part_of: Mapping[str, int]
) -> list[Stage]:
    """Return the stages that make the levels which are lacking.

    Each reads the coarsest level there is so far of images that are alike, and writes as many more
    as its blocks cover.

    Parameters
    ----------
    part_of
        The part of a sweep that a step is for, by its id; those of several are never together.
    """

    def kind(name: str) -> tuple[object, ...]:
        array = fitter.arrays[name]
        return level[name], array.levels, part_of[array.step]

    level = {
        name: max(w.level for s in stages for w in s.writes if w.array == name)
        for name, array in fitter.arrays.items()
        if array.output
    }
    made: list[Stage] = []
    while lacking := [n for n, top in level.items() if top + 1 < len(fitter.arrays[n].levels)]:
        alike = [n for n in lacking if kind(n) == kind(lacking[0])]
        stage = _scale_stage(fitter, alike, level[lacking[0]])
        made.append(stage)
        level |= {n: max(w.level for w in stage.writes if w.array == n) for n in alike}
    return made


def _scale_stage(fitter: Fitter, names: Sequence[str], level: int) -> Stage:
    arrays = [fitter.arrays[name] for name in names]
    grid, unit = arrays[0].levels[level].grid, arrays[0].levels[level + 1].unit
    steps = [level_step(array.step, level + 1) for array in arrays]
    factors = [tuple(fitter.spec[step].args["factor"]) for step in steps]
    # Outputs that are one image under several names are read and computed once.
    reads = {a.step: Read(level_step(a.step, level), a.name, level) for a in reversed(arrays)}
    stage = Stage(
        index=0,
        name="scale-" + _few(names),
        grid=grid,
        block=grid.shape,
        reads=tuple(reads[step] for step in dict.fromkeys(a.step for a in arrays)),
        steps=tuple(dict.fromkeys(steps)),
        reduces=(),
        writes=tuple(Write(*write) for write in zip(steps, names, repeat(level + 1), factors)),
        values=(),
    )
    finer = [u * f for u, f in zip(unit, factors[0], strict=True)]
    return fitter.fit_scale(stage, common_unit([finer], grid))


def _few(names: Sequence[str]) -> str:
    return "+".join(names[:WORDS]) + ("+.." if len(names) > WORDS else "")
