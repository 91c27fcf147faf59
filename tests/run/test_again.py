"""What a run has stored on the way is lost or damaged while it runs: it is made again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import DamagedError
from lepton_pipe.kernels import otsu
from lepton_pipe.run.again import MOST_TIMES, Again
from tests.run.five import fingerprints, picture

IMAGE = picture((16, 160, 160), "uint16", 3)
WAYS = {
    "serial": {"serial": True},
    "threads": {"threads": 2},
    "dask": {"workers": 1, "threads": 2, "memory": "1GiB"},
}


def note(folder, what, place):
    """Add a line for a block that starts."""
    with (Path(folder) / "started").open("a") as file:
        file.write(f"{what} {place.write.start}\n")


def spoil(folder, how):
    """Damage the scratch that was written last; once."""
    (Path(folder) / "spoilt").touch(exist_ok=False)
    files = sorted(Path(folder).glob(".o.lepton/run-*/scratch/*/c/**/*"))
    chosen = [f for f in files if f.is_file()][-1]
    if how == "missing":
        chosen.unlink()
        return
    torn = bytearray(chosen.read_bytes())
    torn[len(torn) // 2] ^= 4
    part = chosen.with_name("torn.partial")
    part.write_bytes(torn)
    part.replace(chosen)


@lp.kernel(scratch=2000.0, cost=5000.0)
def first(block, place, folder):
    """Cost so much that what follows is stored."""
    note(folder, "first", place)
    return block + np.asarray(1, block.dtype)


@lp.kernel(scratch=2000.0, dtype="bool")
def above(block, place, threshold, folder, how):
    """Compare with a threshold; the first block spoils what the last will read."""
    note(folder, "above", place)
    if how and place.write.start == (0, 0, 0):
        spoil(folder, how)
    return block > threshold


@lp.pipeline
def bright(raw: lp.Image, *, folder: str, how: str = "") -> lp.Node:
    """Store scratch between two stages."""
    light = first(raw, folder=folder)
    return above(light, threshold=otsu(light), folder=folder, how=how)


def run(folder, how, **words):
    """Run the pipeline; return the blocks that were started, and what was published."""
    words = {"memory": "700MiB", "chunks": "y=40,x=40", "keep": "disk", **words}
    plan = bright.plan(raw=IMAGE, out=folder / "o", folder=str(folder), how=how, **words)
    assert plan.data.arrays["scratch/first"], "the test needs scratch"
    assert len(plan.data.stages[-1].blocks) > 2
    plan.run(progress=False)
    return (folder / "started").read_text().splitlines(), fingerprints(folder / "o")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), "", serial=True)


@pytest.mark.parametrize("how", ["missing", "torn"])
@pytest.mark.parametrize("way", WAYS)
def test_scratch_that_is_damaged_while_a_run_goes_on_is_made_again(tmp_path, whole, way, how):
    started, made = run(tmp_path, how, **WAYS[way])
    assert made == whole[1]
    again = [s for s in set(started) if started.count(s) > 1]
    assert sum(s.startswith("first") for s in again) == 1
    # Blocks in flight when the damage was met may have been given up, and no others.
    assert len(started) - len(whole[0]) <= 1 + (1 if way == "serial" else 16)
    assert not os.path.lexists(tmp_path / ".o.lepton")


class Hopeless:
    """Books of a disk that loses whatever is written to it."""

    done = 0

    def of(self, stage):
        return self

    def sound(self, targets):
        return True

    def lacking(self, blocks, targets, whole):
        return list(blocks)

    def lost(self, block):
        return False

    def missing(self):
        return [0]

    def refresh(self):
        """Have nothing new."""


def test_a_block_is_run_again_a_bounded_number_of_times(tmp_path):
    plan = bright.plan(raw=IMAGE, out=tmp_path / "o", folder="", serial=True, memory="700MiB").data
    executed = []

    def execute(stage, only):
        executed.append(stage.index)
        if only is None:
            error = DamagedError("a chunk is missing")
            error.block = 0
            raise error

    with pytest.raises(DamagedError, match="again and again"):
        Again(plan, Hopeless(), execute).run(plan.stages[-1])
    assert executed.count(0) == MOST_TIMES


def test_damage_that_is_no_block_s_is_not_mended(tmp_path):
    plan = bright.plan(raw=IMAGE, out=tmp_path / "o", folder="", serial=True, memory="700MiB").data

    def execute(stage, only):
        raise DamagedError("an input is damaged")

    with pytest.raises(DamagedError, match="an input is damaged"):
        Again(plan, Hopeless(), execute).run(plan.stages[-1])
