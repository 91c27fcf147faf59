"""Numbers that are missing among those of the files of a stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_DIGITS = re.compile(r"(\d+)")


def first_gap(names: Sequence[str]) -> tuple[str, int] | None:
    """Return the first file that is missing among numbered ones, and how many are.

    None where all are there, and where that cannot be told: names differ by more than one number,
    or the numbers are no even steps. Steps are as long as at least half of them are.

    Parameters
    ----------
    names
        In natural order.

    Examples
    --------
    >>> first_gap(["z0001.tif", "z0002.tif", "z0004.tif"])
    ('z0003.tif', 1)
    """
    parts = [_DIGITS.split(name) for name in names]
    if len({len(p) for p in parts}) != 1:
        return None
    differ = [i for i, texts in enumerate(zip(*parts, strict=True)) if len(set(texts)) > 1]
    if len(differ) != 1 or differ[0] % 2 == 0:
        return None
    (at,) = differ
    numbers = [int(p[at]) for p in parts]
    steps = [b - a for a, b in pairwise(numbers)]
    step = min(steps)
    if step <= 0 or 2 * steps.count(step) < len(steps) or any(s % step for s in steps):
        return None
    missing = sum(s // step - 1 for s in steps)
    if missing == 0:
        return None
    before = next(i for i, s in enumerate(steps) if s > step)
    name, width = list(parts[before]), len(parts[before][at])
    name[at] = f"{numbers[before] + step:0{width}}"
    return "".join(name), missing
