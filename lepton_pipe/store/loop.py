"""Run zarr's coroutines in the thread that asks.

zarr-python sends every request to one event loop, where checksums and copies of all threads queue
behind each other. Here each thread drives a loop of its own, and what zarr hands to helper threads
is done in place, so that threads reading at the same time really work at the same time.
Stores that keep connections bound to a loop (fsspec) must use zarr's own loop instead.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _InlineLoop(asyncio.SelectorEventLoop):
    """An event loop that runs blocking functions where it stands."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call `func` now; the future returned is done."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (handed on to whoever awaits the future)
            future.set_exception(error)
        return future


class _Driver:
    """The loop of one thread, closed when the thread ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = _InlineLoop()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result; after an error nothing of it is left to run later."""
        try:
            return self.loop.run_until_complete(coroutine)
        except BaseException:
            self._drop_tasks()
            raise

    def _drop_tasks(self) -> None:
        """Cancel what ran beside the task that failed: other chunks of the same request."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))

    def __del__(self) -> None:
        if not self.loop.is_running():
            self.loop.close()


_local = threading.local()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of `coroutine`, run in this thread.

    Where the thread is inside an event loop already (a notebook's main thread), a helper thread
    runs it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _driver().run(coroutine)
    with ThreadPoolExecutor(1) as helper:
        return helper.submit(lambda: run(coroutine)).result()


def _driver() -> _Driver:
    driver: _Driver | None = getattr(_local, "driver", None)
    # A forked child must not share its parent's selector.
    if driver is None or driver.pid != os.getpid():
        driver = _local.driver = _Driver()
    return driver
