"""Every kernel has one body for NumPy and CuPy: run on a stand-in for CuPy, and compared.

What a machine without a GPU cannot tell is left to tests marked ``gpu``: how a GPU rounds, and
whether CuPy's own code is right.
"""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest

import lepton_pipe.kernels
from lepton_pipe.device import to_device
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels import labels as labelling
from lepton_pipe.kernels import pointwise
from lepton_pipe.kernels.flatfield import divide_flat, flat_level
from lepton_pipe.spec import ImageType, Kernel, Place
from lepton_pipe.spec.operators import ufunc_kernel
from lepton_pipe.spec.rules import call_rule, resolve_depth, resolve_dtype
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.kernels.blockwise import noise
from tests.kernels.one_body import (
    FEW,
    GRID,
    MAPS,
    REDUCTIONS,
    RESAMPLES,
    SWEEPS,
    UFUNCS,
    assert_equal,
    assert_image,
    both,
    context_of,
    expand,
    picture,
    place_of,
    run,
)

# They copy a whole image to the host where CUDA sources cannot be compiled.
MEASURED_ON_THE_HOST = set() if COMPILER else {"regionprops"}


# Kernels of values: they never see an image.
OF_VALUES = {
    *("otsu_of", "li_of", "triangle_of", "quantile_of", "quantile_of_counts"),
    *("moments_of_counts", "smallest_of", "largest_of", "total_of", "mean_of", "std_of"),
    *("histogram_of", "found_of"),
}


# Two images at once: compared by tests of their own.
APART = {"divide_flat"}


@pytest.fixture
def gpu():
    with fake_cupy() as traffic:
        yield traffic


@pytest.fixture
def compiling():
    """Yield as `gpu`, of a device for which CUDA sources are compiled."""
    with fake_cupy(kernels=COMPILER is not None) as traffic:
        yield traffic


@pytest.mark.parametrize(("kernel", "params", "dtype"), expand(MAPS))
def test_a_map_is_the_same_on_the_device(kernel, params, dtype, gpu):
    image = picture(GRID.shape, dtype)
    got, expected = both(kernel, params, image, place_of(kernel, params, image))
    assert_image(got, expected)
    if kernel is not pointwise.where:
        context = context_of(kernel, params, image, GRID)
        assert got.dtype == resolve_dtype(kernel.dtype, ImageType(GRID, image.dtype), context)
    assert all(len(shape) < GRID.ndim for shape in gpu.to_host[:-1]), "an image left the device"


@pytest.mark.parametrize(("kernel", "params", "dtype"), expand(REDUCTIONS))
def test_a_partial_is_the_same_and_on_the_host(kernel, params, dtype, compiling):
    gpu, image = compiling, picture(GRID.shape, dtype)
    got, expected = both(kernel, params, image, place_of(kernel, params, image))
    assert_equal(got, expected)
    images = [shape for shape in gpu.to_host if len(shape) == GRID.ndim]
    assert bool(images) == (kernel.name in MEASURED_ON_THE_HOST)


@pytest.mark.parametrize(("kernel", "params", "dtype"), expand(RESAMPLES))
def test_a_resampled_block_is_the_same_on_the_device(kernel, params, dtype, gpu):
    image = picture(GRID.shape, dtype)
    context = context_of(kernel, params, image, GRID)
    write = call_rule(kernel.grid, context).region
    read = call_rule(kernel.needs, {**context, "region": write})
    got, expected = both(kernel, params, image, Place(read, write, GRID))
    assert_image(got, expected)


@pytest.mark.parametrize(("kernel", "params", "dtype"), expand(SWEEPS))
def test_a_swept_image_is_the_same_on_the_device(kernel, params, dtype, gpu):
    image = picture(GRID.shape, dtype)
    axis = GRID.axis(params["axis"])
    results = []
    for device in ("gpu", "cpu"):
        halves = np.array_split(np.arange(GRID.shape[axis]), 2)
        fold = [
            run(kernel, params, image, Place(region, region, GRID), device)
            for region in (_slab(axis, int(h[0]), int(h[-1]) + 1) for h in halves)
        ]
        keepdims = kernel.signature.parameters["keepdims"].default
        args = {**params, "keepdims": keepdims}
        results.append(kernel.finish(kernel.combine(*fold), args, GRID))
    assert_image(*results)


def _slab(axis: int, start: int, stop: int) -> Region:
    region = GRID.region
    low, high = list(region.start), list(region.stop)
    low[axis], high[axis] = start, stop
    return Region(tuple(low), tuple(high))


@pytest.mark.parametrize("dtype", FEW)
def test_division_by_a_reference_is_the_same_on_the_device(dtype, gpu):
    grid = Grid.of((2, 14, 17), "cyx")
    image, flat = picture(grid.shape, dtype), picture(grid.shape, "float32") + 300
    place = Place(Region((1, 3, 4), (2, 11, 14)), Region((1, 3, 4), (2, 11, 14)), grid)
    made = []
    for device in ("gpu", "cpu"):
        images = {
            "image": image[place.read.slices],
            "flat": flat[place.read.slices],
            "dark": picture(grid.shape, "uint8")[place.read.slices],
        }
        args = {n: to_device(a, device) for n, a in images.items()}
        args |= {"level": np.array([290.0, 310.0]), "floor": 0.1}
        made.append(divide_flat.run(args, place))
        level = flat_level.run({"flat": args["flat"], "dark": args["dark"]}, place)
        assert type(level.total) is type(level.count) is np.ndarray
    assert_image(*made)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("ufunc", "others"), UFUNCS, ids=lambda v: getattr(v, "__name__", None))
def test_a_ufunc_is_the_same_on_the_device(ufunc, others, dtype, gpu):
    image = np.abs(picture(GRID.shape, dtype))
    args = {f"x{i + 2}": other for i, other in enumerate(others)}
    kernel = ufunc_kernel(ufunc)
    got = kernel.run({"x1": to_device(image, "gpu")} | args, None)
    assert_image(got, kernel.run({"x1": image} | args, None))


@pytest.mark.parametrize("shape", [(6, 14, 17), (3, 2, 1, 9, 11), (15, 20)])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_labels_are_the_same_however_the_device_numbers_them(shape, connectivity, gpu):
    mask = noise(shape, "bool", 5)
    grid = Grid.of(shape)
    halves = [
        Region((0,) * grid.ndim, (*shape[:-1], shape[-1] // 2)),
        Region((*(0,) * (grid.ndim - 1), shape[-1] // 2), shape),
    ]
    depth = resolve_depth(labelling.label_join.depth, grid, {"grid": grid})
    places = [Place(w.grow(depth, shape), w, grid) for w in halves]
    made = {}
    for device in ("gpu", "cpu"):
        blocks = [to_device(mask[p.read.slices], device) for p in places]
        partials = [
            labelling.label_join.run({"mask": b, "connectivity": connectivity}, p)
            for b, p in zip(blocks, places, strict=True)
        ]
        assert all(type(f.size) is np.ndarray for part in partials for f in part.blocks)
        table = labelling.label_join.finish(
            labelling.label_join.combine(*partials), {"min_size": 2}, grid
        )
        made[device] = [
            labelling.label_apply.run(
                {"mask": b[p.inner], "connectivity": connectivity, "table": table.part(i)},
                Place(p.write, p.write, grid),
            )
            for i, (b, p) in enumerate(zip(blocks, places, strict=True))
        ]
    for got, expected in zip(made["gpu"], made["cpu"], strict=True):
        assert_image(got, expected)


def test_every_kernel_is_tested_here():
    tested = {k.name for k, *_ in (*MAPS, *REDUCTIONS, *RESAMPLES, *SWEEPS)} | APART
    assert kernels_of_the_catalogue() == tested | OF_VALUES


def kernels_of_the_catalogue() -> set[str]:
    found = set()
    for info in pkgutil.iter_modules(lepton_pipe.kernels.__path__):
        module = importlib.import_module(f"lepton_pipe.kernels.{info.name}")
        found |= {v.name for v in vars(module).values() if isinstance(v, Kernel)}
    return found
