"""Read a format that lepton_pipe does not know, without loading it whole.

Run it with ``python own_input.py``. The format here is ENVI's, common in remote sensing: a text
header beside a file of raw binary planes, one for each band. It writes ``scene.hdr``,
``scene.dat`` and ``scene.zarr/`` into the current directory.

Where a file fits in memory there is no need for any of this: hand over the array.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage import data

import lepton_pipe as lp
from lepton_pipe.errors import InputError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.pipelines.convert import convert
from lepton_pipe.spec import ImageType
from lepton_pipe.store import Source

DTYPES = {"1": "u1", "2": "i2", "4": "f4", "12": "u2"}


# A source knows where its data is, what it is like (`type`), and in which pieces it is stored
# (`chunks`, which helps the planner). It is sent to every worker, so it holds no open files.
@dataclass(frozen=True)
class EnviSource(Source):
    """Planes of raw binary numbers with a text header, as a (c, y, x) image."""

    offset: int

    def _read(self, region: Region) -> Any:
        # Only the pages of the file that the region touches are read from disk.
        shape, dtype = self.type.grid.shape, self.type.dtype
        planes = np.memmap(self.uri, dtype, mode="r", offset=self.offset, shape=shape)
        return planes[region.slices]

    def identity(self) -> dict[str, Any]:
        """Return what changes when the file does; it is recorded beside the results."""
        status = Path(self.uri).stat()
        return {"uri": self.uri, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def paths(self) -> tuple[Path, ...]:
        """Return the file, so that no output is ever put over it."""
        return (Path(self.uri),)


def open_envi(header: Path) -> EnviSource:
    """Open an ENVI image, band sequential, by its header."""
    lines = header.read_text().splitlines()
    if lines[:1] != ["ENVI"]:
        raise InputError(f"{header}: is not an ENVI header; its first line should be ENVI")
    words = dict(line.lower().split(" = ", 1) for line in lines[1:] if " = " in line)
    if words["interleave"] != "bsq":
        raise InputError(f"{header}: interleave {words['interleave']} is not read; write bsq")
    shape = tuple(int(words[name]) for name in ("bands", "lines", "samples"))
    dtype = np.dtype(DTYPES[words["data type"]])
    grid = Grid.of(shape, axes="cyx", scale=(1, 30, 30), unit="meter")
    chunks = (1, *shape[1:])
    planes = header.with_suffix(".dat").absolute()
    return EnviSource(str(planes), ImageType(grid, dtype), chunks, int(words["header offset"]))


def write_scene(header: Path) -> np.ndarray[Any, Any]:
    """Write a picture in this format and return its planes."""
    planes = np.moveaxis(data.retina(), -1, 0).astype("u2") * 16
    bands, lines, samples = planes.shape
    header.write_text(
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = {bands}\n"
        "header offset = 0\ndata type = 12\ninterleave = bsq\n"
    )
    planes.tofile(header.with_suffix(".dat"))
    return planes


def main() -> None:
    header = Path("scene.hdr")
    planes = write_scene(header)

    # A source goes wherever a path would.
    source = open_envi(header)
    plan = convert.plan(raw=source, out="scene.zarr", memory="1GiB", overwrite=True)
    print(plan)
    report = plan.run()
    print(report)

    image = lp.open_image(report.path("image"))
    grid = image.type.grid
    print(f"read back: {''.join(grid.axes)} {grid.shape}, {grid.scale} {grid.unit}")
    assert grid == source.type.grid
    assert (image.read(grid.region) == planes).all()
    print("the same numbers, as OME-Zarr")


if __name__ == "__main__":
    main()
