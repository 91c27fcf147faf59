"""What is kept while a stage runs, and when it will be read again: by which blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lepton_pipe.geometry import Blocks


@dataclass(frozen=True)
class AxisUse:
    """Which places along one axis of a stage touch each chunk along an axis of an array.

    Attributes
    ----------
    axis
        Of the array.
    first, last
        By the chunk's position along that axis: the first and the last place that reads it.
    """

    axis: int
    first: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """The blocks of one stage that read an array.

    Attributes
    ----------
    stage
        Its number.
    axes
        One for each axis of the stage; None where all blocks along it read the same.
    """

    stage: int
    blocks: Blocks
    axes: tuple[AxisUse | None, ...]

    def span(self, chunk: Sequence[int]) -> tuple[int, int]:
        """Return the numbers of the first and the last block, in their order, that read a chunk."""
        ends, index = self._ends(chunk), self.blocks.index
        return index(tuple(a for a, _ in ends)), index(tuple(b for _, b in ends))

    def next(self, chunk: Sequence[int], block: int) -> int | None:
        """Return the number of the first block from `block` on that reads a chunk; None if none."""
        ends = self._ends(chunk)
        if block >= len(self.blocks):
            return None
        place = self.blocks.position(block)
        order = self.blocks.order or tuple(range(len(place)))
        found = list(place)
        # As with numbers: what is larger has the same digits up to one that is larger itself.
        for same in reversed(range(len(order) + 1)):
            if any(not ends[i][0] <= place[i] <= ends[i][1] for i in order[:same]):
                continue
            for i in order[same:]:
                found[i] = ends[i][0]
            if same < len(order):
                turn = order[same]
                found[turn] = max(place[turn] + 1, ends[turn][0])
                if found[turn] > ends[turn][1]:
                    continue
            return self.blocks.index(tuple(found))
        return None

    def _ends(self, chunk: Sequence[int]) -> list[tuple[int, int]]:
        """Return the first and last place along each axis of the stage that read a chunk."""
        whole = [(0, n - 1) for n in self.blocks.counts]
        return [
            (use.first[chunk[use.axis]], use.last[chunk[use.axis]]) if use else ends
            for use, ends in zip(self.axes, whole, strict=True)
        ]


@dataclass(frozen=True)
class Held:
    """What is kept while a stage runs.

    Attributes
    ----------
    run
        Folder of the run; records of other runs of this process are left alone.
    stage
        Number of the stage.
    budget
        Bytes for records.
    uses
        Groups that are kept (each the folder of an array), with the stages that read them from now
        on, in order.
    costs
        Core seconds to make a byte of a group again; dearer records stay longer.
    """

    run: str
    stage: int
    budget: int
    uses: Mapping[str, tuple[Use, ...]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)


class Prefix:
    """How many blocks of a stage have ended here, counted from the first on without a gap."""

    def __init__(self) -> None:
        self.length = 0
        self._beyond: set[int] = set()

    def add(self, block: int) -> None:
        """Note that a block has ended."""
        self._beyond.add(block)
        while self.length in self._beyond:
            self._beyond.remove(self.length)
            self.length += 1
