"""An image of which some chunks cannot be read, kernels that raise, and runs over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr

import lepton_pipe as lp
from lepton_pipe.kernels import astype, gaussian, label, mean, otsu, regionprops
from lepton_pipe.kernels.resample import downsample
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.driver import run_plan
from lepton_pipe.store.copying import copyable

SHAPE, CHUNKS = (12, 40, 48), (4, 20, 16)
BAD = [(0, 1, 1), (2, 0, 2)]
MODES = ("skip", "fill")


def blobs():
    """Return an image of bright blobs."""
    noise = np.random.default_rng(1).normal(size=SHAPE)
    smooth = np.asarray(gaussian(noise.astype(np.float32), sigma=2.0))
    return (500 + 2000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint16)


def stored(folder: Path, image, bad=BAD) -> Path:
    """Store an image as zarr, with some chunks cut off."""
    path = folder / "raw.zarr"
    zarr.create_array(str(path), data=image, chunks=CHUNKS, dimension_names=["z", "y", "x"])
    for chunk in bad:
        file = path.joinpath("c", *map(str, chunk))
        file.write_bytes(file.read_bytes()[:-9])
    return path


def boxes(bad=BAD, grown=0, shape=SHAPE):
    """Return the slices of chunks, grown on every side."""
    for chunk in bad:
        yield tuple(
            slice(max(0, i * c - grown), min(n, (i + 1) * c + grown))
            for i, c, n in zip(chunk, CHUNKS, shape, strict=True)
        )


def filled(array, bad=BAD, grown=0):
    """Return an image with the fill value in some chunks."""
    array = array.copy()
    for box in boxes(bad, grown):
        array[box] = np.nan if array.dtype.kind == "f" else 0
    return array


def got(report, name, level=0):
    return zarr.open_group(report.path(name), mode="r")[str(level)][:]


def table(report, name):
    return pq.read_table(report.path(name)).to_pydict()


TILING = {"z": 4, "y": 16, "x": 16}
WAYS = {
    "serial": Resources(2**31, serial=True),
    "threads": Resources(2**31, workers=0, threads=2),
    "dask": Resources(2**31, workers=2),
}


def run(
    pipeline,
    raw,
    tmp_path,
    on_error="skip",
    tiling=TILING,
    how="serial",
    watcher=None,
    update=False,
):
    """Run a pipeline over one image; the result is `o` in a folder."""
    source = lp.open_image(raw)
    inputs = {
        "raw": InputInfo(source.type, source.chunks, source.uri, copyable(source) is not None)
    }
    spec = pipeline.bind({"raw": source.type}, {})
    plan = make_plan(spec, inputs, WAYS[how], tiling)
    out, watcher = tmp_path / "o", watcher or Silent()
    return run_plan(plan, {"raw": source}, out, watcher=watcher, on_error=on_error, update=update)


@lp.pipeline
def smoothed(raw: lp.Image):
    """Filter, compare, shrink, and store the image itself."""
    smooth = gaussian(raw, sigma=0.5)
    return {"raw": raw, "smooth": smooth, "mask": smooth > 1500, "small": downsample(raw, 2)}


REACH = 2  # of a gaussian of sigma 0.5


@lp.kernel(depth=1, scratch=0.0)
def fussy(block, place):
    """Pass on a block, but for those that start in the middle."""
    if place.write.start[1:] == (16, 16):
        raise ArithmeticError("not this one")
    return block + 1


@lp.kernel(scratch=0.0)
def fussy_too(block, place):
    """Pass on a block, but for those that start in the middle."""
    if place.write.start == (4, 16, 16):
        raise ArithmeticError("nor this one")
    return block


@lp.pipeline
def picky(raw: lp.Image):
    """Make one image by a kernel that raises, and one without."""
    made = fussy(raw)
    return {"made": made, "more": made * 2 + 1, "smooth": gaussian(raw, sigma=0.5)}


@lp.pipeline
def plain_objects(raw: lp.Image):
    """Label what is bright, and measure that."""
    found = label(raw > 1500)
    return {"labels": found, "table": regionprops(found, raw)}


@lp.pipeline
def objects_of_all(raw: lp.Image):
    """Label what is bright in what a kernel that raises made, by a threshold of all."""
    smooth = gaussian(raw, sigma=0.5)
    found = label(fussy_too(smooth) > otsu(smooth))
    return {"labels": found, "table": regionprops(found, raw), "mean": mean(astype(raw, "float32"))}


@lp.pipeline
def as_it_is(raw: lp.Image):
    """Add one."""
    return raw + 1
