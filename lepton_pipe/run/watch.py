"""No wait without a deadline: see that a cluster moves, and say what is waited for if not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lepton_pipe.errors import StalledError
from lepton_pipe.run.workers import ANSWER_SECONDS, Workers, kill_process
from lepton_pipe.worker.running import running

# Seconds for which nothing may move: no block ends, and no worker uses a core.
STALL_SECONDS = 600.0
# Seconds without a worker, or without an answer of the scheduler.
ALONE_SECONDS = 120.0
# Seconds after which a worker is replaced that somebody has stopped.
STOPPED_SECONDS = 60.0

Describe = Callable[[int], str]


class Watch:
    """Sees whether a cluster moves.

    Time counts only as it is looked: a machine that slept, or a run that was stopped and
    continued with all its processes, has not stalled.

    Parameters
    ----------
    workers
        Those of the cluster.
    notes
        Folder in which they note what they run.
    stall
        Seconds for which nothing may move.
    """

    def __init__(self, workers: Workers, notes: Path | None, stall: float = STALL_SECONDS) -> None:
        self.workers, self._notes = workers, notes
        self.stall = stall
        self._patience = min(ALONE_SECONDS, stall)
        self._mute = self._alone = self._still = 0.0
        self._stopped: Counter[int] = Counter()

    def moved(self) -> None:
        """Take in that something has ended."""
        self._mute = self._alone = self._still = 0.0

    def replace_stopped(self, seconds: float) -> None:
        """End worker processes that somebody has stopped for long; others take their place.

        Parameters
        ----------
        seconds
            Since this was called last.
        """
        now = self.workers.stopped()
        self._stopped = Counter({pid: self._stopped[pid] + 1 for pid in now})
        for pid, times in self._stopped.items():
            if (times - 1) * seconds >= min(STOPPED_SECONDS, self.stall):
                kill_process(pid)

    def look(self, seconds: float, describe: Describe) -> list[str]:
        """Look at a cluster of which nothing has been heard for some seconds more.

        Parameters
        ----------
        describe
            Returns a block in words, by its number.

        Returns
        -------
        list
            Addresses of workers that hang, to be ended.

        Raises
        ------
        StalledError
            When nothing can be expected any more.
        """
        asked = time.monotonic()
        seen = self.workers.seen()
        answer = min(time.monotonic() - asked, ANSWER_SECONDS)
        self._mute = self._mute + seconds + answer if seen is None else 0.0
        self._alone = self._alone + seconds if seen == {} else 0.0
        self._refuse_to_wait()
        if not seen or self.workers.busy(seconds):
            self._still = 0.0
            return []
        self._still += seconds
        if self._still < self.stall:
            return []
        hung = [a for a in seen if self._notes is not None and running(self._notes, a)]
        if not hung or not self.workers.ours:
            raise StalledError(self._stalled(list(seen), describe))
        self._still = 0.0
        return hung

    def _refuse_to_wait(self) -> None:
        if self._mute >= self._patience:
            raise StalledError(
                f"the scheduler at {self.workers.scheduler} has not answered for "
                f"{self._mute:.0f} s; nothing was published. See whether it runs, then type the "
                "same command again: what is done is kept"
            )
        if self._alone >= self._patience:
            raise StalledError(
                f"the cluster at {self.workers.scheduler} has had no workers for "
                f"{self._alone:.0f} s; nothing was published. Start workers, then type the same "
                "command again: what is done is kept"
            )

    def _stalled(self, workers: list[str], describe: Describe) -> str:
        lines = [f"  {describe(i)}, on worker {w}" for w in workers for i in self._running(w)]
        waited = "\n".join(lines) or f"  workers {', '.join(workers)}, which run no block"
        return (
            f"nothing has moved for {self._still:.0f} s: no block has ended, and no worker used a "
            f"core. Waited for was\n{waited}\nNothing was published, and what is done is kept. "
            "Look at the storage and the kernel; if blocks may be at rest for so long, give a "
            "longer --stall SECONDS. Then type the same command again"
        )

    def _running(self, worker: str) -> list[int]:
        return [] if self._notes is None else [n.block for n in running(self._notes, worker)]
