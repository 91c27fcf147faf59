"""Figures of one GPU, in one short command on a machine that has one::

    python -m tests.benchmarks.gpu [--gib 1.0] [--json FILE]

*resident*: flat-field, gaussian (1, 2, 2) and threshold of a block that is on the device, beside
the same in cupyx.scipy.ndimage, and beside the card's own bandwidth: a copy of the bytes that must
be moved. *filters*: single filters beside cupyx's. *label*: label and region table of a volume,
beside cupyx and cuCIM (where that is installed).
*end to end*: the same pipeline over four times as much, from zarr to zarr, on the GPU and on the
cores, with the shares that each step took, and the GPU's time over that of its slowest step.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import lepton_pipe as lp
from lepton_pipe.device import device_count
from lepton_pipe.device.traced import as_input, computed
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import (
    astype,
    dilation,
    erosion,
    flatfield,
    gaussian,
    label,
    median,
    regionprops,
    uniform,
)
from lepton_pipe.kernels.flatfield import divide_flat
from lepton_pipe.spec import Place
from tests.benchmarks.machine import facts, sentence

SIGMA = (1.0, 2.0, 2.0)
THRESHOLD = 1000.0
LIGHT = 210.0  # for the image of the run from end to end
REPEATS = 5
STATISTICS = ("min", "max", "mean", "std")


def resident(cupy: Any, shape: tuple[int, ...]) -> dict[str, float]:
    """Return milliseconds of the fused kernel, of cupyx's, and of a copy of the same bytes."""
    from cupyx.scipy import ndimage

    image = cupy.random.randint(0, 4000, shape, dtype=np.uint16)
    flat = cupy.random.random(shape[-2:], dtype=np.float32) + 0.5
    place, level = Place.whole(Grid.of(shape)), np.array([1.0])

    def ours() -> Any:
        light = divide_flat.fn(as_input(image), flat, 0.0, level=level, floor=0.1, place=place)
        mask = gaussian.fn(light, SIGMA, truncate=4.0, place=place) > THRESHOLD
        return computed({"mask": mask}, shape, cupy.empty)["mask"]

    def theirs() -> Any:
        light = image.astype(np.float32) / cupy.maximum(flat, 0.1)
        return ndimage.gaussian_filter(light, SIGMA, truncate=4.0) > THRESHOLD

    def copy() -> None:
        target[...] = source

    moved = image.nbytes + image.size  # uint16 in, a mask out
    source, target = (cupy.zeros(moved // 2, np.uint8) for _ in range(2))
    differ = float((ours() != theirs()).mean())
    assert differ < 1e-3, f"{differ:.2%} of the mask differ"
    found = {n: _milliseconds(cupy, f) for n, f in (("ours", ours), ("cupyx", theirs))}
    found["copy"] = _milliseconds(cupy, copy)
    found["times_cupyx"] = found["cupyx"] / found["ours"]
    found["share_of_copy"] = found["copy"] / found["ours"]
    return found


def labelled(cupy: Any, shape: tuple[int, ...]) -> dict[str, float]:
    """Return milliseconds of label and region table: our kernels', cuCIM's, and cupyx's label."""
    from cupyx.scipy import ndimage

    noise = cupy.random.random(shape, dtype=np.float32)
    image = ndimage.gaussian_filter(noise, 2)
    mask = image > float(cupy.percentile(image[: shape[0] // 4], 90))
    del noise
    labels = ndimage.label(mask)[0]
    found = {
        "objects": int(labels.max()),
        "label cupyx": _milliseconds(cupy, lambda: ndimage.label(mask), 3),
        "label ours": _milliseconds(cupy, lambda: label(mask), 3),
        "table ours": _milliseconds(cupy, lambda: regionprops(labels, image), 3),
    }
    try:
        from cucim.skimage import measure
    except ImportError:
        return found
    properties = ("label", "area", "bbox", "centroid", *(f"intensity_{n}" for n in STATISTICS))

    def table() -> None:
        measure.regionprops_table(labels, image, properties=properties)

    found["label cucim"] = _milliseconds(cupy, lambda: measure.label(mask, connectivity=1), 3)
    found["table cucim"] = _milliseconds(cupy, table, 1)
    found["times_cucim"] = (found["label cucim"] + found["table cucim"]) / (
        found["label ours"] + found["table ours"]
    )
    return found


def filters(cupy: Any, shape: tuple[int, ...]) -> dict[str, float]:
    """Return milliseconds of single filters of a uint16 image, and how many times cupyx takes."""
    from cupyx.scipy import ndimage

    image, place = cupy.random.randint(0, 4000, shape, dtype=np.uint16), Place.whole(Grid.of(shape))
    ball = cupy.asarray(np.linalg.norm(np.mgrid[-2:3, -2:3, -2:3], axis=0) <= 2)
    both: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "gaussian (2, 2, 2)": (
            lambda: _fused(cupy, gaussian.fn(as_input(image), 2.0, truncate=4.0, place=place)),
            lambda: ndimage.gaussian_filter(image, 2.0, output=np.float32),
        ),
        "uniform 5": (
            lambda: _fused(cupy, uniform.fn(as_input(image), 5, place=place)),
            lambda: ndimage.uniform_filter(image, 5, output=np.float32),
        ),
        "median 3": (
            lambda: median.fn(image, 3, place=place),
            lambda: ndimage.median_filter(image, 3),
        ),
        "erosion 3": (
            lambda: erosion.fn(image, 3, place=place),
            lambda: ndimage.grey_erosion(image, 3),
        ),
        "erosion 15": (
            lambda: erosion.fn(image, 15, place=place),
            lambda: ndimage.grey_erosion(image, 15),
        ),
        "dilation ball 2": (
            lambda: dilation.fn(image, radius=2, place=place),
            lambda: ndimage.grey_dilation(image, footprint=ball),
        ),
    }
    found: dict[str, float] = {}
    for name, (ours, theirs) in both.items():
        a, b = (_milliseconds(cupy, work, 3) for work in (ours, theirs))
        found |= {name: a, f"{name}, times cupyx": b / a}
    return found


def _fused(cupy: Any, traced: Any) -> Any:
    return computed({"it": traced}, traced.shape, cupy.empty)["it"]


@lp.pipeline
def corrected(raw: lp.Image, flat: lp.Image) -> dict[str, lp.Node]:
    """Correct, smooth, and threshold; write both."""
    smooth = gaussian(flatfield(raw, flat), sigma=SIGMA)
    return {"smooth": astype(smooth, "uint16", cast="clip"), "mask": smooth > LIGHT}


def end_to_end(shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Return seconds and shares of a run on the GPU, and seconds of one on the cores."""
    import zarr

    image = zarr.create_array(
        str(folder / "raw.zarr"), shape=shape, chunks=(64, 256, 256), dtype="uint16"
    )

    def fill(z: int) -> None:
        rng = np.random.default_rng(z)
        planes = min(64, shape[0] - z)
        image[z : z + 64] = rng.integers(0, 400, (planes, *shape[1:]), dtype=np.uint16)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(0, shape[0], 64)))
    flat = np.random.default_rng(0).random((1, *shape[1:]), dtype=np.float32) + 0.5
    found: dict[str, Any] = {}
    for device in ("gpu", "cpu"):
        for attempt in ("first", "second"):  # the first compiles
            out = folder / f"{device}-{attempt}.zarr"
            plan = corrected.plan(
                raw=folder / "raw.zarr", flat=flat, out=out, device=device, levels=1, workers=None
            )
            report = plan.run()
        stages = [s.to_json() for s in report.stages]
        found[device] = {"seconds": report.seconds, "stages": stages}
    longest = max(found["gpu"]["stages"], key=lambda stage: stage["seconds"])
    steps = ("cores", "copying_in", "kernels", "copying_out")
    slowest = max(longest["device"][step] for step in steps)
    found["times_slowest_step"] = 1 / slowest if slowest else None
    found["times_cores"] = found["cpu"]["seconds"] / found["gpu"]["seconds"]
    return found


def _milliseconds(cupy: Any, work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median time of some work on the device; it was done once before."""
    work()
    times = []
    for _ in range(repeats):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(begin, end))
    return float(np.median(times))


def main(words: list[str] | None = None) -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gib", type=float, default=1.0, help="size of the uint16 image")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    asked = parser.parse_args(words)
    if device_count() == 0:
        print("no CUDA device can be used from here", file=sys.stderr)
        return 4
    import cupy

    planes = max(16, round(asked.gib * 2**30 / 2 / 1024**2))
    shape, started = (planes, 1024, 1024), time.perf_counter()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    found: dict[str, Any] = {"gpu": name, "shape": shape, "machine": facts()}
    print(f"{name}, cupy {cupy.__version__}, {sentence(found['machine'])}")
    print(f"image {shape} uint16")
    with tempfile.TemporaryDirectory() as folder:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "resident, ms": lambda: resident(cupy, shape),
            "filters, ms": lambda: filters(cupy, (shape[0] // 2, *shape[1:])),
            "label, ms": lambda: labelled(cupy, shape),
            "end to end": lambda: end_to_end((4 * shape[0], *shape[1:]), Path(folder)),
        }
        for what, measure in measures.items():
            try:
                found[what] = measure()
            except Exception as error:  # noqa: BLE001  the other figures are still wanted
                found[what] = {"failed": f"{type(error).__name__}: {error}"}
            cupy.get_default_memory_pool().free_all_blocks()
            print(f"{what}: {json.dumps(found[what], default=str)}", flush=True)
            if asked.json is not None:
                asked.json.write_text(json.dumps(found, indent=1, default=str))
    print(f"{time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
