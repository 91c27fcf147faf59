"""Tables of measurements, one row for each object, put together from the tables of blocks.

A table is a mapping from column names to arrays of equal length; the column ``label`` holds the
object, in order and each once. How the other columns are folded follows from their names:

=============== =================================================================
``min:...``     the smallest
``max:...``     the largest
``spread:NAME`` sum of squared deviations from the mean, beside ``count`` and ``sum:NAME``
                (Chan, Golub, LeVeque, 1983, Algorithms for computing the sample variance)
others          the sum; ``NAME.0``, ``NAME.1``, ... are limbs, see `lepton_pipe.merge.exact`
=============== =================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.merge.exact import carry

Columns = dict[str, NDArray[Any]]
Pile = list[Columns]
"""Tables that wait to be folded, the first of them the largest: a partial."""

_FEW = 2000


def group(columns: Mapping[str, NDArray[Any]]) -> Columns:
    """Fold rows of the same ``label`` into one; returns the rows in the order of their labels."""
    label = columns["label"]
    order = np.argsort(label, kind="stable")
    label = label[order]
    at = np.flatnonzero(np.diff(label, prepend=label[:1] - 1)) if label.size else order
    result: Columns = {"label": label[at]}
    for name, column in columns.items():
        if name != "label":
            result[name] = _reduce(name.partition(":")[0]).reduceat(column[order], at)[: at.size]
    for name in columns:
        if name.startswith("spread:"):
            result[name] += _between(columns, result, name.partition(":")[2], order, at)
    return result


def _reduce(rule: str) -> np.ufunc:
    return {"min": np.minimum, "max": np.maximum}.get(rule, np.add)


def _between(
    columns: Mapping[str, NDArray[Any]],
    result: Columns,
    name: str,
    order: NDArray[np.intp],
    at: NDArray[np.intp],
) -> NDArray[np.float64]:
    count, total = columns["count"][order], columns[f"sum:{name}"][order]
    with np.errstate(invalid="ignore"):
        mean = result[f"sum:{name}"] / result["count"]
        away = total / count - np.repeat(mean, np.diff(at, append=count.size))
        squares: NDArray[np.float64] = np.add.reduceat(count * away * away, at)
    return squares


def fold(tables: Iterable[Columns]) -> Columns:
    """Fold tables of the same columns into one, in time that grows with their rows alone."""
    tables = list(tables)
    if len(tables) == 1:
        return tables[0]
    columns = {n: np.concatenate([t[n] for t in tables]) for n in tables[0]}
    result = group(columns) if columns["label"].size else columns
    for name in [n for n in result if n.endswith(".0")]:
        names = [n for n in result if n.startswith(name[:-1])]
        limbs = carry([result[n] for n in names], len(names))
        result.update(zip(names, limbs, strict=True))
    return result


def push(pile: Pile, table: Columns) -> Pile:
    """Put a table on a pile; fold it when what waits has more rows than the first table.

    So a row is folded a few times only, whether tables come one by one or in a tree.
    """
    pile.append(table)
    waiting = sum(t["label"].size for t in pile[1:])
    if waiting > max(_FEW, pile[0]["label"].size):
        pile[:] = [fold(pile)]
    return pile


def pile_up(a: Pile, b: Pile) -> Pile:
    """Combine two piles, into `a`."""
    for table in b:
        push(a, table)
    return a
