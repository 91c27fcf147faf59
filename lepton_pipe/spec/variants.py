"""Variants of a pipeline: one for every combination of the values that parameters are swept over.

The steps of all variants are steps of one pipeline, those that are equal once: what a variant needs
that another computes, too, it shares. So a sweep is planned, run and published as any pipeline is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any
from urllib.parse import quote

import numpy as np

from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.spec.canonical import Ids, Ref, Spec, Step
from lepton_pipe.spec.parameters import Parameter

MOST_VARIANTS = 128
"""More than these are taken for a mistake: planning takes longer with each, and so does looking."""
LONGEST_NAME = 200
"""Characters of a variant's name: file systems take 255 bytes for that of a folder."""

Swept = Mapping[str, tuple[Any, ...]]
"""The values that parameters are swept over, by name."""


def checked_values(
    pipeline: str, parameters: Mapping[str, Parameter], values: Mapping[str, Iterable[Any]]
) -> dict[str, tuple[Any, ...]]:
    """Return the values to sweep over, each as its parameter's type.

    Raises
    ------
    SpecError
        With every parameter that is unknown, and every value that is of another type, cannot be
        the name of a folder, or is given twice.
    """
    found: dict[str, tuple[Any, ...]] = {}
    problems = [] if values else ["a sweep needs the values of a parameter, such as sigma=[1, 2]"]
    for name, several in values.items():
        if name not in parameters:
            there = ", ".join(parameters) or "none left"
            problems.append(f"there is no parameter {name!r} to sweep over; there are {there}")
            continue
        try:
            found[name] = _checked(parameters[name], several)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise SpecError(pipeline, problems)
    return found


def _checked(parameter: Parameter, several: Iterable[Any]) -> tuple[Any, ...]:
    name = parameter.name
    if isinstance(several, (str, bytes, Mapping)) or not isinstance(several, Iterable):
        raise UsageError(f"{name}={several!r} are no values to sweep over; give a list of them")
    values = tuple(parameter.check(v) for v in several)
    if not values:
        raise UsageError(f"{name} has no values to sweep over, so nothing would run; give some")
    texts: set[str] = set()
    for value in values:
        text = value_text(name, value)
        if text in texts:
            raise UsageError(f"{name}={text} is given twice; every variant is computed once")
        texts.add(text)
    return values


def value_text(name: str, value: Any) -> str:
    """Return a value as it stands in the name of a variant.

    Raises
    ------
    UsageError
        When it is neither a number, a text, none, nor a sequence of these.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quote(value, safe="")
    if isinstance(value, (tuple, list)) and value:
        return "x".join(value_text(name, v) for v in value)
    raise UsageError(
        f"{name}={value!r} cannot be swept over: each variant has a folder that is named by its "
        "values, so they are numbers, texts, or tuples of these"
    )


def variants(swept: Swept) -> dict[str, dict[str, Any]]:
    """Return the parameters of each variant by its name, such as ``sigma=2,min_size=20``.

    The last parameter varies fastest.
    """
    chosen = (dict(zip(swept, values, strict=True)) for values in product(*swept.values()))
    return {_name(parameters): parameters for parameters in chosen}


def _name(parameters: Mapping[str, Any]) -> str:
    return ",".join(f"{n}={value_text(n, v)}" for n, v in parameters.items())


def refuse_too_many(pipeline: str, swept: Swept) -> None:
    """Raise `SpecError` for more variants than anybody can mean, or names too long for folders."""
    number = math.prod(map(len, swept.values()))
    if number > MOST_VARIANTS:
        counts = " x ".join(f"{len(v)} of {n}" for n, v in swept.items())
        raise SpecError(
            pipeline,
            [
                f"{number} variants ({counts}) are too many for one run, which takes "
                f"{MOST_VARIANTS} at most; sweep over fewer values, or in several runs"
            ],
        )
    longest = max(variants(swept), key=len)
    if len(longest) > LONGEST_NAME:
        raise SpecError(
            pipeline,
            [
                f"a variant would be called {longest[:60]}..., {len(longest)} characters, too long "
                f"for a folder; sweep over shorter values ({LONGEST_NAME} characters at most)"
            ],
        )


def with_readable_ids(spec: Spec) -> Spec:
    """Name the steps of a sweep by the variants they are for.

    A step that all variants need keeps the name of its kernel. Any other says by which values the
    variants that need it are told from the rest: ``gaussian[sigma=2]``. So its id does not depend
    on how many other values there are.
    """
    users = users_of(spec)
    names = Ids(s.id for s in spec.images)
    ids = {s.id: s.id for s in spec.images}
    for step in spec.steps:
        if step.kernel is not None:
            ids[step.id] = names.new(step.kernel.name, _suffix(spec.swept, users[step.id]))
    return replace(
        spec,
        steps=tuple(_renamed(s, ids) for s in spec.steps),
        outputs={n: ids[s] for n, s in spec.outputs.items()},
    )


def users_of(spec: Spec) -> dict[str, frozenset[str]]:
    """Return the names of the variants that need a step, by its id."""
    users: dict[str, frozenset[str]] = {s.id: frozenset() for s in spec.steps}
    for output, step_id in spec.outputs.items():
        users[step_id] |= {output.partition("/")[0]}
    for step in reversed(spec.steps):
        for needed in step.inputs:
            users[needed] |= users[step.id]
    return users


def _suffix(swept: Swept, users: frozenset[str]) -> str:
    every = variants(swept)
    chosen = [every[name] for name in every if name in users]
    if len(chosen) == len(every):
        return ""
    same = {
        n: v
        for n, v in chosen[0].items()
        if len(swept[n]) > 1 and len({value_text(n, c[n]) for c in chosen}) == 1
    }
    return f"[{_name(same)}]" if same else ""


def _renamed(step: Step, ids: Mapping[str, str]) -> Step:
    args = {n: Ref(ids[a.id]) if isinstance(a, Ref) else a for n, a in step.args.items()}
    return replace(step, id=ids[step.id], args=args)
