"""What a run shows on its own page: stages, which blocks are done, speed, time left, memory.

The driver writes on the board; whoever serves the page reads it, at any time and in another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_pipe.cache.counts import Tier
from lepton_pipe.geometry import Blocks
from lepton_pipe.plan import Plan, Stage

# Cells of a map along each axis at most: more could not be told apart on a screen.
MOST_CELLS = 64
_SAID = 8

Ended = Callable[[], NDArray[np.bool_]]
"""Gives, for each block of a stage in the order of their numbers, whether it has ended."""


@dataclass
class _Course:
    """How far one stage is.

    Attributes
    ----------
    begun, took
        When it began, and the seconds that it took once it has ended.
    before
        Blocks that were done before it began: they say nothing of its speed.
    """

    stage: Stage
    begun: float | None = None
    took: float | None = None
    before: int = 0
    ended: Ended | None = None

    def done(self) -> NDArray[np.bool_]:
        """Return which blocks are done."""
        if self.ended is None:
            return np.zeros(len(self.stage.blocks), bool)
        return self.ended()


class Board:
    """What is known of a run, for the page that shows it.

    Parameters
    ----------
    plan
        What is run.
    out
        Where the result will be, for people.
    clock
        Gives seconds.
    """

    def __init__(self, plan: Plan, out: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan, self._out, self._clock = plan, out, clock
        self._began = clock()
        self._courses = [_Course(stage) for stage in plan.stages]
        self._memory: Callable[[], int] = lambda: 0
        self._quarantined: Callable[[], int] = lambda: 0
        self._said: list[str] = []
        self._tiers: dict[str, Tier] = {}

    def watch(self, memory: Callable[[], int], quarantined: Callable[[], int]) -> None:
        """Take what gives the peak of memory so far, in bytes, and the number quarantined."""
        self._memory, self._quarantined = memory, quarantined

    def say(self, text: str) -> None:
        """Note a line that the user is told."""
        self._said = [*self._said, text][-_SAID:]

    def begin(self, stage: int, ended: Ended) -> None:
        """Note that a stage begins."""
        course = self._courses[stage]
        course.ended, course.before = ended, int(ended().sum())
        course.begun = self._clock()

    def end(self, stage: int, tiers: Mapping[str, Tier]) -> None:
        """Note that a stage has ended, and what the tiers of memory did for it."""
        course = self._courses[stage]
        assert course.begun is not None
        course.took = self._clock() - course.begun
        for name, tier in tiers.items():
            self._tiers.setdefault(name, Tier()).add(tier)

    def state(self) -> dict[str, Any]:
        """Return everything that the page shows, as plain data.

        Times are seconds, sizes bytes. ``tiers`` speaks of the stages that have ended. ``map`` has
        the share of blocks that are done in each cell of the stage that runs, over the last two
        axes of the image.
        """
        now = self._clock()
        stages = [self._stage(course, now) for course in self._courses]
        running = next((c for c in self._courses if c.begun is not None and c.took is None), None)
        return {
            "pipeline": self._plan.pipeline.pipeline,
            "out": self._out,
            "seconds": round(now - self._began, 1),
            "left": _left(stages),
            "share": _share(stages),
            "stages": stages,
            "map": None if running is None else _map(running.stage, running.done()),
            "memory": {
                "peak": self._memory(),
                "planned": self._plan.peak_bytes,
                "limit": self._plan.resources.memory,
            },
            "tiers": {name: tier.to_json() for name, tier in list(self._tiers.items())},
            "quarantined": self._quarantined(),
            "said": self._said,
        }

    def _stage(self, course: _Course, now: float) -> dict[str, Any]:
        stage, blocks = course.stage, len(course.stage.blocks)
        done = blocks if course.took is not None else int(course.done().sum())
        seconds = course.took
        if seconds is None:
            seconds = 0.0 if course.begun is None else now - course.begun
        share = max(0, done - course.before) / blocks
        speed = share / seconds if seconds > 0 else 0.0
        return {
            "name": stage.name,
            "state": "done" if course.took is not None else "runs" if course.begun else "waits",
            "blocks": blocks,
            "done": done,
            "seconds": round(seconds, 1),
            "planned": stage.seconds,
            "speed": speed,
            "read": stage.estimate.bytes_read * speed,
            "written": stage.estimate.bytes_written * speed,
        }


def _share(stages: Sequence[dict[str, Any]]) -> float:
    """Return the share of the run that is done, by the time that stages were planned to take."""
    planned = sum(float(s["planned"]) for s in stages) or 1.0
    done = sum(float(s["planned"]) * s["done"] / s["blocks"] for s in stages)
    return float(round(done / planned, 4))


def _left(stages: Sequence[dict[str, Any]]) -> float | None:
    """Return the seconds until all stages have ended; None before the first block has.

    A stage that runs goes on as it did so far. Those that wait take what they were planned to, as
    much longer or shorter as those before them.
    """
    timed = [s for s in stages if s["speed"] > 0]
    if not timed:
        return None
    planned = sum(s["planned"] * s["speed"] * s["seconds"] for s in timed)
    stretch = sum(s["seconds"] for s in timed) / planned if planned > 0 else 1.0
    left = 0.0
    for stage in stages:
        missing = 1 - stage["done"] / stage["blocks"]
        runs = stage["state"] == "runs" and stage["speed"] > 0
        left += missing / stage["speed"] if runs else missing * stage["planned"] * stretch
    return round(left, 1)


def _map(stage: Stage, done: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of blocks that are done, cell by cell, over the last two axes."""
    rows, columns = _cells(stage.blocks)
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    cell = rows * shape[1] + columns
    every = np.bincount(cell, minlength=shape[0] * shape[1])
    ended = np.bincount(cell, weights=done, minlength=shape[0] * shape[1])
    shares = (ended / np.maximum(1, every)).reshape(shape)
    axes = "".join(stage.grid.axes[-2:])
    return {"axes": axes, "cells": [[round(float(v), 2) for v in row] for row in shares]}


def _cells(blocks: Blocks) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the row and column of the cell that each block is shown in."""
    order = blocks.order or tuple(range(len(blocks.counts)))
    numbers = np.arange(len(blocks))
    places = np.unravel_index(numbers, [blocks.counts[axis] for axis in order])
    along = dict(zip(order, places, strict=True))
    rows, columns = len(order) - 2, len(order) - 1
    return _cell(along.get(rows, 0 * numbers)), _cell(along[columns])


def _cell(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the cells of places along an axis, as many as there is room for."""
    count = int(places.max(initial=0)) + 1
    return places * min(count, MOST_CELLS) // count
