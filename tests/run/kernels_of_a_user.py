"""A user's own file: kernels that misbehave, and slow ones. Run by path, never imported."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

import lepton_pipe as lp


def is_last(place) -> bool:
    return place.write.stop == place.grid.shape


@lp.kernel
def raising(block, place):
    if is_last(place):
        raise ValueError("no luck with this block")
    return block


@lp.kernel
def wrong_dtype(block, place):
    return block.astype(np.float64) if is_last(place) else block


@lp.kernel
def wrong_shape(block, place):
    return block[:-1] if is_last(place) else block


@lp.kernel
def writes_to_its_input(block):
    block += 1
    return block


# Kernels that say what they need are not tried on a part of the image before the run.
@lp.kernel(scratch=0.0)
def dying(block, place):
    if is_last(place):
        os._exit(7)
    return block


@lp.kernel(scratch=4.0)
def slow(block, folder, place):
    """Take a moment; leave a file named for the block and the process that computed it."""
    at = "_".join(map(str, place.write.start))
    (Path(folder) / f"{at}.{os.getpid()}").touch()
    time.sleep(float(os.environ.get("LEPTON_TEST_SECONDS", "0.5")))
    return block + 1


@lp.kernel(scratch=0.0)
def stuck(block):
    time.sleep(3600)
    return block


def _pipeline(kernel):
    def misbehaves(raw: lp.Image):
        return {"image": kernel(raw)}

    misbehaves.__name__ = f"run_{kernel.name}"
    return lp.pipeline(misbehaves)


run_raising = _pipeline(raising)
run_wrong_dtype = _pipeline(wrong_dtype)
run_wrong_shape = _pipeline(wrong_shape)
run_writes_to_its_input = _pipeline(writes_to_its_input)
run_dying = _pipeline(dying)
run_stuck = _pipeline(stuck)


@lp.pipeline
def run_slow(raw: lp.Image, *, folder: str):
    """Take a while for each block."""
    return {"image": slow(raw, folder)}
