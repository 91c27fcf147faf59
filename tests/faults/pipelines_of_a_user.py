"""A user's own file: pipelines whose blocks are counted as they run. Run by path, never imported.

Blocks are noted in the folder that ``LEPTON_TEST_BLOCKS`` names, if it does: a line for each start.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, label, mean, otsu, regionprops


def poison(times):
    """Do what the test wants of the block that it names, the first so many times or always."""
    if times > int(os.environ.get("LEPTON_TEST_POISON_TIMES", "1000000")):
        return
    time.sleep(0.3)  # blocks beside it are under way
    how = os.environ["LEPTON_TEST_POISON_BY"]
    if how == "exit":
        os._exit(7)
    elif how == "sleep":
        time.sleep(3600)
    else:
        os.kill(os.getpid(), getattr(signal, how))


def note(place, what):
    """Add a line for a block that starts; end the process or wait where the test wants that."""
    folder = os.environ.get("LEPTON_TEST_BLOCKS")
    if folder is None:
        return
    at = "_".join(map(str, place.write.start))
    lines = Path(folder) / "started"
    with lines.open("ab") as file:
        file.write(f"{what} {at}\n".encode())
        file.flush()
        end = file.tell()  # of this line: another block may add one at the same time
    number = lines.read_bytes()[:end].count(b"\n")
    if str(number) == os.environ.get("LEPTON_TEST_KILL_WORKER"):
        os.kill(os.getpid(), signal.SIGKILL)
    if str(number) == os.environ.get("LEPTON_TEST_KILL_DRIVER"):
        os.kill(int((Path(folder) / "driver").read_text()), signal.SIGKILL)
        time.sleep(60)
    gate = os.environ.get(f"LEPTON_TEST_GATE_{what}")
    while gate is not None and not Path(gate).exists():
        time.sleep(0.02)
    if at == os.environ.get("LEPTON_TEST_POISON"):
        poison(lines.read_text().splitlines().count(f"{what} {at}"))
    time.sleep(float(os.environ.get("LEPTON_TEST_SECONDS", "0")))


# The scratch makes for many small blocks.
@lp.kernel(scratch=2000.0, depth=1)
def counted(block, place, plus=1):
    """Add a number, and be counted."""
    note(place, "counted")
    return block + np.asarray(plus, block.dtype)


@lp.kernel(depth=1)
def later(block, level, place):
    """Subtract what must be known of the whole image first."""
    note(place, "later")
    return block - block.dtype.type(level)


@lp.pipeline
def simple(raw: lp.Image, *, plus: int = 1) -> lp.Node:
    """One stage, and its scale levels."""
    return counted(raw, plus=plus)


@lp.pipeline
def level(raw: lp.Image, *, plus: int = 1) -> dict[str, lp.Node]:
    """A value alone: blocks that write nothing."""
    return {"level": mean(counted(raw, plus=plus))}


@lp.pipeline
def twice(raw: lp.Image, *, plus: int = 1) -> dict[str, lp.Node]:
    """Two stages, the second of which reads what the first has written."""
    light = gaussian(counted(raw, plus=plus), sigma=1.5)
    return {"light": light, "rest": later(light, mean(light))}


@lp.pipeline
def hidden(raw: lp.Image, *, plus: int = 1) -> dict[str, lp.Node]:
    """Two stages, and what is stored between them is no output."""
    return {"rest": twice(raw, plus=plus)["rest"]}


@lp.pipeline
def objects(raw: lp.Image, *, plus: int = 1) -> dict[str, lp.Node]:
    """Reductions, scratch between stages, values for each block, a table."""
    light = gaussian(counted(raw, plus=plus), sigma=1.5)
    labels = label(light > otsu(light), min_size=3)
    return {"objects": labels, "table": regionprops(labels, raw), "light": light}
