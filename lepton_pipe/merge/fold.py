"""Fold partials in one fixed tree, in whatever order they arrive.

The tree depends on the number of partials alone, never on time, so that floating-point results
are the same for any number of workers.

    0 1 2 ... 15 | 16 17 ... 31 | ...        leaves, in the order of blocks
      \\  |  /         \\  |  /
        A      ...       P                   folded from left to right, FAN at a time
           \\    |    /
               ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Generic, TypeVar

T = TypeVar("T")
FAN = 16


class TreeFold(Generic[T]):
    """Collects items numbered 0 to `count` - 1 and folds them.

    Parameters
    ----------
    combine
        Folds two items; may change its first argument.
    count
        How many items there will be.
    """

    def __init__(self, combine: Callable[[T, T], T], count: int) -> None:
        self._combine = combine
        self._count = count
        self._next = 0
        self._waiting: dict[int, T] = {}
        self._levels: list[list[T]] = []

    def add(self, index: int, item: T) -> None:
        """Take in item number `index`; items may come in any order, each once."""
        self._waiting[index] = item
        while self._next in self._waiting:
            self._push(0, self._waiting.pop(self._next))
            self._next += 1

    def _push(self, level: int, item: T) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(item)
        if len(self._levels[level]) == FAN:
            full, self._levels[level] = self._levels[level], []
            self._push(level + 1, self._fold(full))

    def _fold(self, items: Iterable[T]) -> T:
        return reduce(self._combine, items)

    def result(self) -> T:
        """Return the fold of all items.

        Raises
        ------
        ValueError
            When an item is missing: a fold of some blocks is never passed off as that of all.
        """
        if self._next != self._count or not self._levels:
            raise ValueError(f"{self._next} of {self._count} partials arrived; none may be missing")
        for level, items in enumerate(self._levels[:-1]):
            if items:
                self._push_partial(level, items)
        return self._fold(self._levels[-1])

    def _push_partial(self, level: int, items: list[T]) -> None:
        self._levels[level] = []
        self._levels[level + 1].append(self._fold(items))
