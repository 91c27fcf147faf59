"""Pipelines of a user whose runs have a history: stopped, changed, damaged, mended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

import lepton_pipe as lp
from lepton_pipe.kernels import mean


def note(name, place):
    """Note the start of a block, and end the process at the one that the test names."""
    started = Path(os.environ["LEPTON_TEST_STARTED"])
    with started.open("a") as file:
        file.write(f"{name} {place.write.start}\n")
    if str(len(started.read_text().splitlines())) == os.environ.get("LEPTON_TEST_KILL"):
        os.kill(os.getpid(), signal.SIGKILL)


# What a block is said to need makes for several; what it is said to cost, for scratch.
@lp.kernel(scratch=3000.0, depth=1, cost=2000.0)
def first(image, place, plus=1):
    """Add a number to the larger of two neighbours."""
    note("first", place)
    before = np.concatenate([image[..., :1], image[..., :-1]], axis=-1)
    return np.maximum(image, before) + np.asarray(plus, image.dtype)


@lp.kernel(scratch=3000.0, depth=1)
def second(image, level, place):
    """Tell what lies above the mean of the whole image."""
    note("second", place)
    return (image > level).astype(image.dtype) * image


@lp.pipeline
def history(raw: lp.Image, *, plus: int = 1) -> dict[str, lp.Node]:
    """Two stages with a value and scratch between them."""
    made = first(raw, plus=plus)
    return {"above": second(made, mean(made)), "mean": mean(made)}
