"""Parts of a sweep: variants whose steps run in the same stages.

By default that is all of them: each block is read once, and what variants share is computed once.
Where one task has no room for so many, or some of the variants are published already, stages are
split: one for each part that has something to do in it. A step that several parts need at the same
time is then computed by each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lepton_pipe.plan.stages import Draft
from lepton_pipe.spec import Spec, users_of, variants

Parts = Sequence[Sequence[str]]
"""Names of variants, part by part."""


def first_parts(spec: Spec, before: Parts = ()) -> Parts:
    """Return the parts to try first; none where nothing is swept over.

    Parameters
    ----------
    before
        Those of an earlier plan: variants stay together that were, so that their stages are the
        same, and new ones are a part of their own.
    """
    left = list(variants(spec.swept)) if spec.swept else []
    found = []
    for part in before:
        found.append([v for v in part if v in left])
        left = [v for v in left if v not in part]
    return tuple(tuple(part) for part in [*found, left] if part)


def halved(parts: Parts) -> Parts:
    """Return parts of half the length; none where each is of a single variant, or there are none.

    >>> halved([("a", "b", "c"), ("d",)])
    (('a', 'b'), ('c',), ('d',))
    """
    if all(len(part) == 1 for part in parts):
        return ()
    middles = [-(-len(part) // 2) for part in parts]
    halves = [h for p, m in zip(parts, middles, strict=True) for h in (p[:m], p[m:])]
    return tuple(tuple(half) for half in halves if half)


def part_of_steps(spec: Spec, parts: Parts) -> dict[str, int]:
    """Return the number of the first part that needs a step, by its id."""
    number = {variant: i for i, part in enumerate(parts) for variant in part}
    users = users_of(spec)
    return {
        step: min((number[variant] for variant in users[step] if variant in number), default=0)
        for step in users
    }


def parted(drafts: Iterable[Draft], part_of: Mapping[str, int]) -> list[Draft]:
    """Split drafts by the parts that their results are for."""
    return [
        Draft(
            draft.level,
            draft.grid,
            [s for s in draft.reduces if part_of[s] == number],
            [s for s in draft.writes if part_of[s] == number],
            draft.sweep,
        )
        for draft in drafts
        for number in sorted({part_of[s] for s in draft.sinks})
    ]
