"""Tables of measurements, one row for each object, put together from the tables of blocks.

A table is a mapping from column names to arrays of equal length; the column ``label`` holds the
object, in order and each once. How the other columns are folded follows from their names:

=============== =================================================================
``min:...``     the smallest
``max:...``     the largest
``total:NAME``  the sum of floats, beside ``rest:NAME``, see `lepton_pipe.merge.pairs`
others          the sum; ``NAME.0``, ``NAME.1``, ... are limbs, see `lepton_pipe.merge.exact`
=============== =================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.merge import pairs
from lepton_pipe.merge.exact import carry

Columns = dict[str, NDArray[Any]]
Pile = list[Columns]
"""Tables that wait to be folded, the first of them the largest: a partial."""

_FEW = 2000


def group(columns: Mapping[str, NDArray[Any]]) -> Columns:
    """Fold rows of the same ``label`` into one; returns the rows in the order of their labels."""
    return _group(list(columns), columns.__getitem__)


def _group(names: Iterable[str], take: Callable[[str], NDArray[Any]]) -> Columns:
    """Fold the rows of columns, each of which is asked for once and then let go."""
    label = take("label")
    order = np.argsort(label, kind="stable")
    label = label[order]
    at = np.flatnonzero(np.diff(label, prepend=label[:1] - 1)) if label.size else order
    result: Columns = {"label": label[at]}
    for name in names:
        rule, _, of = name.partition(":")
        if rule == "total":
            pair = take(name)[order], take(f"rest:{of}")[order]
            result[name], result[f"rest:{of}"] = pairs.reduceat(*pair, at)
        elif rule not in ("label", "rest"):
            result[name] = _reduce(rule).reduceat(take(name)[order], at)[: at.size]
    return result


def _reduce(rule: str) -> np.ufunc:
    return {"min": np.minimum, "max": np.maximum}.get(rule, np.add)


def fold(tables: Iterable[Columns]) -> Columns:
    """Fold tables of the same columns into one, in time that grows with their rows alone.

    The tables are used up: their columns are taken from them one after the other, so that the
    rows are not there twice.
    """
    tables = list(tables)
    if len(tables) == 1 or not any(t["label"].size for t in tables):
        return tables[0]

    def take(name: str) -> NDArray[Any]:
        return np.concatenate([t.pop(name) for t in tables])

    result = _group(list(tables[0]), take)
    for name in [n for n in result if n.endswith(".0")]:
        names = [n for n in result if n.startswith(name[:-1])]
        limbs = carry([result[n] for n in names], len(names))
        result.update(zip(names, limbs, strict=True))
    return result


def push(pile: Pile, table: Columns) -> Pile:
    """Put a table on a pile; fold it when what waits has more rows than the first table.

    The table is the pile's from then on, and may be used up.
    So a row is folded a few times only, whether tables come one by one or in a tree.
    """
    pile.append(table)
    waiting = sum(t["label"].size for t in pile[1:])
    if waiting > max(_FEW, pile[0]["label"].size):
        pile[:] = [fold(pile)]
    return pile


def pile_up(a: Pile, b: Pile) -> Pile:
    """Combine two piles, into `a`; `b` is used up."""
    for table in b:
        push(a, table)
    return a
