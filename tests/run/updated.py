"""A user's file and an image that are edited between runs, and the blocks that start."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import zarr

from lepton_pipe.catalogue import find_pipeline
from tests.run.five import fingerprints, picture

TEXT = '''
from pathlib import Path

import numpy as np

import lepton_pipe as lp
from lepton_pipe.kernels import label, otsu, project, regionprops


def note(place, what):
    """Add a line for a block that starts."""
    with Path(__file__).with_name("started").open("a") as file:
        file.write(f"{what} {'_'.join(map(str, place.write.start))}\\n")


@lp.kernel(scratch=4000.0, cost=5000.0)
def slow(block, place, plus=1):
    """Cost so much that what follows is stored."""
    note(place, "slow")
    return block + np.asarray(plus + 0, block.dtype)


@lp.kernel(scratch=4000.0, dtype="bool", depth=1)
def above(block, place, threshold, times=1):
    """Compare with a threshold."""
    note(place, "above")
    return block > threshold * times


@lp.kernel(scratch=4000.0, depth=1)
def sharp(block, place, weight=2):
    """Look at the neighbours."""
    note(place, "sharp")
    return block * np.asarray(weight, block.dtype) - np.roll(block, 1, 0)


@lp.kernel(scratch=4000.0)
def less(block, floor, place):
    """Take one image from another."""
    note(place, "less")
    return block - floor


@lp.pipeline
def objects(raw: lp.Image, *, plus: int = 1, times: float = 1.0, size: int = 3):
    """Scratch between stages, a threshold of the whole image, labels and a table."""
    light = slow(raw, plus=plus)
    labels = label(above(light, threshold=otsu(light), times=times), min_size=size)
    return {"objects": labels, "table": regionprops(labels, raw), "level": otsu(light)}


@lp.pipeline
def sharpen(raw: lp.Image, *, weight: int = 2):
    """One stage that looks at nothing of the whole image."""
    return sharp(raw, weight=weight)


@lp.pipeline
def columns(raw: lp.Image, *, plus: int = 1):
    """Scratch that is read column by column."""
    floor = project(sharp(raw), "z", "min", keepdims=True)
    return {"less": less(slow(raw, plus=plus), floor)}
'''

CHUNKS = (8, 40, 40)


class Bench:
    """A folder with an image and a user's file; `out` is made from them again and again.

    Parameters
    ----------
    words
        Options of every run.
    """

    def __init__(self, folder: Path, **words: object) -> None:
        self.folder, self.out, self.file = folder, folder / "o", folder / "mine.py"
        self.words = {"serial": True, "memory": "700MiB", "chunks": "z=8,y=40,x=40", **words}
        self.file.write_text(TEXT)
        image = picture((16, 160, 160), "uint16", 3) // 2
        zarr.create_array(str(folder / "raw.zarr"), data=image, chunks=CHUNKS)

    def edit(self, old: str, new: str) -> None:
        """Change the user's file."""
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def change_chunk(self, place: tuple[int, int, int], by: int = 1) -> None:
        """Change one chunk of the image."""
        raw = zarr.open_array(str(self.folder / "raw.zarr"))
        region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, CHUNKS, strict=True))
        raw[region] = raw[region] + np.uint16(by)

    @staticmethod
    def forget() -> None:
        """Have the file read anew."""
        for name in [n for n in sys.modules if n.startswith("mine_")]:
            del sys.modules[name]

    def plan(self, pipeline: str, out: Path | None = None, **words):
        """Plan a run of what the file says now."""
        self.forget()
        found = find_pipeline(f"{self.file}:{pipeline}")
        raw = str(self.folder / "raw.zarr")
        return found.plan(raw=raw, out=out or self.out, **{**self.words, **words})

    def run(self, pipeline: str, **words) -> list[str]:
        """Run, and return the blocks that were started."""
        started = self.folder / "started"
        started.write_text("")
        self.plan(pipeline, **words).run(progress=False)
        return started.read_text().splitlines()

    def fresh(self, pipeline: str, **words) -> tuple[dict[str, str], list[str]]:
        """Return what a run of its own publishes, and the blocks it starts."""
        out = self.folder / "fresh"
        started = self.run(pipeline, out=out, **{n: w for n, w in words.items() if n != "update"})
        made = fingerprints(out)
        shutil.rmtree(out)
        return made, started
