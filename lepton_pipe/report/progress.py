"""Progress of a run on the terminal, or nothing where nobody looks."""

from __future__ import annotations

import sys
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lepton_pipe.streams import words_may_be_lost


class Watcher(Protocol):
    """Is told how a run goes."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def stage(self, name: str, blocks: int) -> None:
        """A stage with so many blocks begins."""
        ...

    def tick(self) -> None:
        """A block of the stage has ended."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def stage(self, name: str, blocks: int) -> None:
        """Show nothing."""

    def tick(self) -> None:
        """Show nothing."""


class Terminal:
    """One bar for each stage, on stderr so that stdout stays free for results.

    Where stderr is no terminal, a line at the start of each stage takes the place of the bar.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Show a line above the bars."""
        with words_may_be_lost():
            self._console.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, blocks: int) -> None:
        """Begin a bar."""
        if not self._live:
            self.say(f"{name}: {blocks} block{'s' if blocks != 1 else ''}")
        self._task = self._progress.add_task(name, total=blocks)

    def tick(self) -> None:
        """Move the bar on by one block."""
        if self._task is not None:
            self._progress.advance(self._task)
