"""Compute kernels block by block, as plainly as possible, to compare with the whole array.

This is the reference for what a block engine must do: it knows nothing of stages, stores or Dask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lepton_pipe.geometry import Blocks, Depth, Grid, Region, no_depth
from lepton_pipe.spec import Image, ImageType, Place, Ref, Spec, Step, as_value, evaluate
from lepton_pipe.spec.canonical import build_spec
from lepton_pipe.spec.rules import call_rule

DTYPES = (np.uint8, np.uint16, np.int32, np.float32, np.bool_)


# -- describing ---------------------------------------------------------------------------------


def describe(
    fn: Any,
    *arrays: Any,
    axes: str | None = None,
    kinds: Sequence[str] = (),
    **params: Any,
) -> Spec:
    """Bind ``fn(image, ..., **params)``, a kernel or a function of kernels, to arrays."""
    images = {}
    for i, array in enumerate(arrays):
        grid = Grid.of(array.shape, axes[-array.ndim :] if axes else None)
        kind = kinds[i] if kinds else ("mask" if array.dtype == np.bool_ else "image")
        images[f"image{i}"] = Image(ImageType(grid, array.dtype, kind), None)
    return build_spec("test", {}, images, {"out": fn(*images.values(), **params)})


def whole(spec: Spec, *arrays: Any) -> Any:
    """Compute the described answer from whole arrays."""
    return evaluate(spec, named(arrays))["out"]


def named(arrays: Sequence[Any]) -> dict[str, Any]:
    """Name arrays as `describe` does, as views that cannot be written to."""
    return {f"image{i}": frozen(a) for i, a in enumerate(arrays)}


def frozen(array: Any) -> Any:
    """Return a view that cannot be written to."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.setflags(write=False)
    return view


# -- computing by blocks ------------------------------------------------------------------------


def blockwise(
    spec: Spec,
    *arrays: Any,
    block: Sequence[int],
    slab: int = 3,
    extra: int = 0,
) -> Any:
    """Compute the described answer block by block.

    Parameters
    ----------
    block
        Voxels of a block along the last axes, the last of them repeated where an image has more.
    slab
        Voxels of a slab along a swept axis.
    extra
        Voxels read beyond the depth, as an engine does for the kernels that follow in a stage.
    """
    results = named(arrays)
    for step in spec.steps:
        if step.kernel is None:
            continue
        images = [spec.image_type(i) for i in spec.image_inputs(step)]
        if not images:
            args = {n: results[a.id] if isinstance(a, Ref) else a for n, a in step.args.items()}
            results[step.id] = as_value(step.kernel.run(args, None))
            continue
        source = max(images, key=lambda t: t.grid.ndim).grid
        run = {"map": _map, "resample": _resample, "reduce": _reduce, "sweep": _sweep}
        results[step.id] = run[step.kernel.role](spec, step, results, source, block, slab, extra)
    return results[spec.outputs["out"]]


def _blocks(grid: Grid, block: Sequence[int]) -> Blocks:
    sizes = (*(block[:1] * grid.ndim), *block)[-grid.ndim :]
    return Blocks(grid.shape, tuple(min(b, n) for b, n in zip(sizes, grid.shape, strict=True)))


def _args(spec: Spec, step: Step, results: Mapping[str, Any], region: Region) -> dict[str, Any]:
    """Return the arguments for one region of the leading image; others fit it by broadcasting."""
    images = spec.image_inputs(step)
    args = {}
    for name, argument in step.args.items():
        value = results[argument.id] if isinstance(argument, Ref) else argument
        if isinstance(argument, Ref) and argument.id in images:
            last = region.slices[region.ndim - value.ndim :]
            index = [slice(0, 1) if n == 1 else s for n, s in zip(value.shape, last, strict=True)]
            value = value[tuple(index)]
        args[name] = frozen(value)
    return args


def _map(spec, step, results, source, block, slab, extra):
    out = np.empty(source.shape, step.type.dtype)
    depth: Depth = tuple((lo + extra, hi + extra) for lo, hi in step.depth)
    for write in _blocks(source, block):
        read = write.grow(depth, source.shape)
        part = step.kernel.run(_args(spec, step, results, read), Place(read, write, source))
        assert part.dtype == out.dtype
        out[write.slices] = owned(part, Place(read, write, source))
    return out


def owned(part: Any, place: Place) -> Any:
    """Return the voxels that a block owns, of what a map kernel returned: these, or all it read."""
    assert part.shape in (place.read.shape, place.write.shape)
    return part if part.shape == place.write.shape else part[place.inner]


def _context(spec: Spec, step: Step, source: Grid) -> dict[str, Any]:
    return {
        "grid": source,
        **{n: spec[a.id].type if isinstance(a, Ref) else a for n, a in step.args.items()},
    }


def _resample(spec, step, results, source, block, slab, extra):
    grid = step.type.grid
    out = np.empty(grid.shape, step.type.dtype)
    context = _context(spec, step, source)
    for write in _blocks(grid, block):
        read = call_rule(step.kernel.needs, {**context, "region": write})
        assert source.region.contains(read)
        part = step.kernel.run(_args(spec, step, results, read), Place(read, write, source))
        assert part.shape == write.shape
        assert part.dtype == out.dtype
        out[write.slices] = part
    return out


def _fold(step: Step, partials: list[Any]) -> Any:
    """Fold in a tree, neighbours first, in block order."""
    while len(partials) > 1:
        pairs = [partials[i : i + 2] for i in range(0, len(partials), 2)]
        partials = [step.kernel.combine(*p) if len(p) == 2 else p[0] for p in pairs]
    return partials[0]


def _reduce(spec, step, results, source, block, slab, extra):
    depth = step.depth or no_depth(source.ndim)
    partials = []
    for write in _blocks(source, block):
        read = write.grow(depth, source.shape)
        partials.append(
            step.kernel.run(_args(spec, step, results, read), Place(read, write, source))
        )
    values = {n: results[a.id] if isinstance(a, Ref) else a for n, a in step.args.items()}
    return as_value(step.kernel.finish(_fold(step, partials), values, source))


def _sweep(spec, step, results, source, block, slab, extra):
    grid = step.type.grid
    axis = source.axis(step.args[step.kernel.sweep])
    out = np.empty(grid.shape, step.type.dtype)
    for write in _blocks(grid, block):
        partials = []
        for start in range(0, source.shape[axis], slab):
            ends = (start, min(start + slab, source.shape[axis]))
            read = _across(write, axis, ends, source.ndim)
            args = _args(spec, step, results, read)
            partials.append(step.kernel.run(args, Place(read, read, source)))
        part = step.kernel.finish(_fold(step, partials), step.args, source)
        assert part.shape == write.shape
        assert part.dtype == out.dtype
        out[write.slices] = part
    return out


def _across(write: Region, axis: int, ends: tuple[int, int], ndim: int) -> Region:
    start, stop = list(write.start), list(write.stop)
    if write.ndim < ndim:
        start.insert(axis, 0)
        stop.insert(axis, 1)
    start[axis], stop[axis] = ends
    return Region(tuple(start), tuple(stop))


# -- comparing ----------------------------------------------------------------------------------


def assert_same(got: Any, expected: Any, ulps: float = 4) -> None:
    """Hold integers and masks to be identical, floats to a few ulps of the largest magnitude."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    magnitude = np.abs(expected[finite]).max(initial=0)
    tolerance = ulps * float(np.spacing(magnitude, dtype=got.dtype))
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=tolerance)


def check(
    fn: Any,
    *arrays: Any,
    block: Sequence[int],
    slab: int = 3,
    extra: int = 0,
    ulps: float = 4,
    axes: str | None = None,
    kinds: Sequence[str] = (),
    **params: Any,
) -> Any:
    """Compute whole and by blocks, compare, and return the whole answer."""
    spec = describe(fn, *arrays, axes=axes, kinds=kinds, **params)
    expected = whole(spec, *arrays)
    got = blockwise(spec, *arrays, block=block, slab=slab, extra=extra)
    assert_same(got, expected, ulps)
    return expected


# -- making images ------------------------------------------------------------------------------

_AXES = ("yx", "zyx", "cyx", "tyx", "czyx", "tcyx", "tczyx")


@st.composite
def shapes(draw: Any, axes: str | None = None) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of an image: 2-D to 5-D, 1 to 40 voxels per axis, now and then one long."""
    names = axes or draw(st.sampled_from(_AXES))
    top = {1: 40, 2: 40, 3: 14, 4: 7, 5: 5}[len(names)]
    shape = [draw(st.integers(1, 3 if a in "tc" else top)) for a in names]
    if draw(st.integers(0, 5)) == 0:
        long = draw(st.integers(0, len(names) - 1))
        shape = [min(n, 4) for n in shape]
        shape[long] = draw(st.integers(41, 257))
    return names, tuple(shape)


@st.composite
def images(
    draw: Any, dtypes: Sequence[Any] = DTYPES, axes: str | None = None, nan: bool = False
) -> tuple[str, np.ndarray]:
    """Axes and an image full of values over the whole range of its dtype."""
    names, shape = draw(shapes(axes))
    dtype = draw(st.sampled_from(list(dtypes)))
    return names, noise(shape, dtype, draw(st.integers(0, 2**16)), nan=nan)


def noise(shape: Sequence[int], dtype: Any, seed: int, nan: bool = False) -> np.ndarray:
    """Return noise over the range of `dtype`; floats are about 100 in size."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return random.random(shape) < 0.6
    if dtype.kind == "f":
        image = (random.standard_normal(shape) * 100).astype(dtype)
        if nan:
            image[random.random(shape) < 0.02] = np.nan
        return image
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max, shape, dtype, endpoint=True)


@st.composite
def blocks(draw: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Draw a block shape that cuts `shape` into at most a few dozen blocks."""
    counts = [draw(st.integers(1, 5 if len(shape) < 4 else 3)) for _ in shape]
    least = [max(1, -(-n // c)) for n, c in zip(shape, counts, strict=True)]
    return tuple(draw(st.integers(low, low + 2)) for low in least)
