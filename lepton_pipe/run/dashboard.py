"""The page of a run, and beside it Dask's dashboard, loaded when somebody first looks at it.

Dask's takes half a second and some memory to load, on the critical path of a cluster's start. The
run's own page is a file and some numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from distributed import Scheduler
from tornado import web
from tornado.ioloop import IOLoop

PAGE = "pipeline"
"""Where the page of the run is, beside ``status`` and the others of Dask."""
_DASHBOARD = "distributed.dashboard.scheduler"

State = Callable[[], dict[str, Any]]


async def serve(scheduler: Scheduler, state: State | None) -> None:
    """Answer at the addresses of the dashboard; runs on the scheduler's event loop.

    Parameters
    ----------
    scheduler
        Started with ``dashboard=False``, so that its web server runs, but without those pages.
    state
        Gives what the page of the run shows, as plain data; None where there is no run.
    """
    if state is not None:
        known = {"state": state}
        page = web.Application([(f"/{PAGE}", _Page), (f"/{PAGE}/state", _State, known)])
        scheduler.http_application.add_application(page)
    scheduler.http_application.add_application(_Door(scheduler))


def page_at(link: str) -> str:
    """Return the address of the run's page, from that of any page of Dask's dashboard."""
    return f"{link.rpartition('/')[0]}/{PAGE}"


class _Page(web.RequestHandler):
    """Sends the page, which asks for the rest by itself."""

    def get(self) -> None:
        """Answer a request for the page."""
        self.write(files("lepton_pipe.report").joinpath("page.html").read_bytes())


class _State(web.RequestHandler):
    """Sends what the page shows."""

    def initialize(self, state: State) -> None:
        """Take what gives the state."""
        self._state = state

    def get(self) -> None:
        """Answer a request for the state."""
        self.set_header("Cache-Control", "no-store")
        self.write(self._state())


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
