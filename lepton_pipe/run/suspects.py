"""Find the block that ends its worker, without blaming those that ran beside it.

When a worker is gone, the blocks that its threads were running are suspects; those that only waited
there are not. A suspect runs again alone in a worker. The innocent ends well there. The guilty one
loses this worker too, with nobody else to blame.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from lepton_pipe.worker.running import Running, take_notes, why_left

# Workers that a block may take along before it has failed for good; the last one alone.
ATTEMPTS = 3
# The same for one that never ended, which took long to find out.
HANGS = 2
# Workers that may be lost under a block, whoever else was there.
MOST = 8


class Verdict(Enum):
    """What becomes of a block whose worker is gone."""

    AGAIN = "it runs again, like any"
    SUSPECT = "it runs again, alone"
    GUILTY = "it has failed for good"


class Suspects:
    """The blocks of a stage that may have ended a worker.

    Attributes
    ----------
    waiting
        Those that are to run alone, in order.

    Parameters
    ----------
    notes
        Folder in which workers note what they run; None where they do not.
    """

    def __init__(self, notes: Path | None) -> None:
        self._notes = notes
        self.waiting: deque[int] = deque()
        self._gone: dict[str, dict[int, Running]] = {}
        self._hung: set[str] = set()
        self._lost: Counter[int] = Counter()
        self._blamed: Counter[int] = Counter()

    def hung(self, address: str) -> None:
        """Note that a worker is ended since it did not move."""
        self._hung.add(address)

    def is_hung(self, address: str) -> bool:
        """Tell whether a worker was ended since it did not move."""
        return address in self._hung

    def running_on(self, address: str) -> Mapping[int, Running]:
        """Return what a worker that is gone was running, by block; nothing where it is unknown."""
        if address not in self._gone:
            found = [] if self._notes is None else take_notes(self._notes, address)
            self._gone[address] = {note.block: note for note in found}
        return self._gone[address]

    def why_left(self, address: str) -> str:
        """Return why a worker left by itself; empty where it did not."""
        return "" if self._notes is None else why_left(self._notes, address)

    def arrived(self, address: str) -> None:
        """Forget what is known of a worker: another has come to its address."""
        self._gone.pop(address, None)

    def attempts(self, index: int) -> int:
        """Return how many workers were lost under a block."""
        return self._lost[index]

    def lost(self, index: int, address: str, *, alone: bool = False) -> Verdict:
        """Take in that a worker is gone to which a block was sent, and say what becomes of it.

        Parameters
        ----------
        alone
            Whether it was the only block that was sent there; asked where it is not known what
            ran.
        """
        ran = self.running_on(address)
        self._lost[index] += 1
        if self._lost[index] >= MOST:
            return Verdict.GUILTY
        if index not in ran and not (alone and not ran):
            return Verdict.AGAIN
        self._blamed[index] += 1
        enough = HANGS if address in self._hung else ATTEMPTS
        if self._blamed[index] >= enough and (alone or len(ran) == 1):
            return Verdict.GUILTY
        self.waiting.append(index)
        return Verdict.SUSPECT
