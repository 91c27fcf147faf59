"""What the tiers of a process have done, counted since somebody last asked."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Tier:
    """What one tier has done.

    Attributes
    ----------
    hits, misses
        Looked for and found in it, and not found.
    put, dropped
        Moved into it, and out of it with nothing kept of it in a slower tier.
    spills, restores
        Moved from it to the next slower tier, and found there and brought back.
    nbytes, raw_bytes
        Bytes of what was put, as it is held, and before it was packed.
    seconds
        What reading and writing took, where that is not memory.
    """

    hits: int = 0
    misses: int = 0
    put: int = 0
    dropped: int = 0
    spills: int = 0
    restores: int = 0
    nbytes: int = 0
    raw_bytes: int = 0
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """How much smaller packing made what was put; 1 where nothing was."""
        return self.raw_bytes / self.nbytes if self.nbytes else 1.0

    @property
    def is_used(self) -> bool:
        """Whether anything has happened."""
        return any(getattr(self, f.name) for f in fields(self))

    def add(self, other: Tier) -> Tier:
        """Add the figures of `other` to these."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the figures that are not 0 as plain data, with the ratio of what was packed."""
        figures = {f.name: round(getattr(self, f.name), 3) for f in fields(self)}
        told = {name: figure for name, figure in figures.items() if figure}
        return {**told, "ratio": round(self.ratio, 2)} if self.ratio != 1.0 else told


class Counter:
    """Adds up what threads report of one tier."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tier = Tier()

    def add(self, **figures: float) -> None:
        """Add to some figures, by name."""
        with self._lock:
            self._tier.add(Tier(**figures))  # type: ignore[arg-type]

    def take(self) -> Tier:
        """Return what was counted since the last time, and begin anew."""
        with self._lock:
            taken, self._tier = self._tier, Tier()
            return taken
