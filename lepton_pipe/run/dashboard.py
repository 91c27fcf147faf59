"""Dask's dashboard, loaded when somebody first looks at it.

It takes half a second and some memory to load, on the critical path of a cluster's start.
"""

from __future__ import annotations

import importlib
from typing import Any

from distributed import Scheduler
from tornado import web
from tornado.ioloop import IOLoop

_DASHBOARD = "distributed.dashboard.scheduler"


async def serve_lazily(scheduler: Scheduler) -> None:
    """Answer at the addresses of the dashboard; runs on the scheduler's event loop.

    Parameters
    ----------
    scheduler
        Started with ``dashboard=False``, so that its web server runs, but without those pages.
    """
    scheduler.http_application.add_application(_Door(scheduler))


class _Door(web.Application):
    """Stands in for the dashboard until it is asked for something."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__([(r".*", _FirstLook, {"door": self})])
        self._scheduler = scheduler

    async def open(self) -> None:
        """Load the dashboard and leave it in this place."""
        dashboard = await IOLoop.current().run_in_executor(None, _load)
        served = self._scheduler.http_application
        if self in served.applications:  # the first of several looks at once
            served.applications.remove(self)
            dashboard.connect(served, self._scheduler.http_server, self._scheduler)


def _load() -> Any:
    return importlib.import_module(_DASHBOARD)


class _FirstLook(web.RequestHandler):
    """Sends whoever looked to the same address again, where the dashboard is now."""

    def initialize(self, door: _Door) -> None:
        """Take what stands in for the dashboard."""
        self._door = door

    async def get(self) -> None:
        """Answer a request for a page."""
        await self._door.open()
        self.redirect(self.request.uri or "/")
