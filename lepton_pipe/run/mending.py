"""Start workers in the places of a local cluster that have lost theirs for good."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from distributed import Nanny
from distributed.core import Status

# Seconds after which a place gets a new nanny, whatever the one it has is at.
MISSING_SECONDS = 60.0
# How long to wait for a nanny that is told to stop; it may wait for a process that never ends.
_CLOSE_SECONDS = 10.0
_GIVEN_UP = (Status.closed, Status.failed)


class Mender:
    """Sees that every place of a cluster has a worker.

    Dask's nannies start a process anew that ends, most of the time: one that fails to start a
    process closes for good, and nobody else looks after its place.

    Parameters
    ----------
    cluster
        Started by this process; None for one of others, which is left alone.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._missing: dict[Any, float] = {}
        self._filling: Future[None] | None = None

    def mend(self, seconds: float) -> None:
        """Have a worker started in each place that nobody starts one for; wait for none.

        Parameters
        ----------
        seconds
            Since this was called last.
        """
        if self._cluster is None or (self._filling is not None and not self._filling.done()):
            return
        empty = self._empty()
        self._missing = {n: self._missing.get(n, 0.0) + seconds for n in empty}
        places = [n for n in empty if self._given_up(n) or self._missing[n] >= MISSING_SECONDS]
        if places:
            self._missing = {}
            loop = self._cluster.loop.asyncio_loop
            self._filling = asyncio.run_coroutine_threadsafe(self._fill(places), loop)

    def _empty(self) -> list[Any]:
        found = list(self._cluster.scheduler_info["workers"].values())
        present = {worker["name"] for worker in found}
        return [name for name in list(self._cluster.worker_spec) if name not in present]

    def _given_up(self, name: Any) -> bool:
        nanny = self._cluster.workers.get(name)
        return nanny is None or nanny.status in _GIVEN_UP

    async def _fill(self, places: list[Any]) -> None:
        for name in places:
            nanny = self._cluster.workers.pop(name, None)
            if nanny is not None:
                await _end(nanny)
        await self._cluster._correct_state()


async def _end(nanny: Nanny) -> None:
    """End a nanny and its process."""
    closing = asyncio.ensure_future(nanny.close(timeout=1, reason="its worker is missing"))
    await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
