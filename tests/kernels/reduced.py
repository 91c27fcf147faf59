"""Reductions computed block by block, as an executor does it but without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lepton_pipe.geometry import Blocks, Grid
from lepton_pipe.spec import ImageType, Kernel, PerBlock, Place, as_value, rules
from tests.kernels.blockwise import owned

MAX_VOXELS = 60_000


def in_blocks(
    kernel: Kernel,
    args: dict[str, Any],
    block: Sequence[int],
    *,
    grid: Grid | None = None,
    order: Callable[[list[Any]], list[Any]] = list,
) -> Any:
    """Return what `kernel` gives when the image is cut into blocks.

    Parameters
    ----------
    args
        All arguments by name, except those left at their default. Arrays of the same shape as
        the first are images.
    block
        Shape of the blocks.
    """
    bound = {
        n: args.get(n, p.default) for n, p in kernel.signature.parameters.items() if n != "place"
    }
    first = next(a for a in bound.values() if isinstance(a, np.ndarray))
    grid = grid or Grid.of(first.shape)
    images = {n for n, a in bound.items() if getattr(a, "shape", None) == first.shape}
    images -= {n for n in bound if kernel._is_literal(n)}
    context = {**bound, **{n: ImageType(grid, bound[n].dtype) for n in images}, "grid": grid}
    depth = rules.resolve_depth(kernel.depth, grid, context)
    dtype = rules.resolve_dtype(kernel.dtype, ImageType(grid, first.dtype), context)
    result = np.empty(first.shape, dtype) if kernel.combine is None else None
    partials = []
    for i, write in enumerate(Blocks(first.shape, tuple(block))):
        place = Place(write.grow(depth, first.shape), write, grid)
        cut = {n: a.part(i) if isinstance(a, PerBlock) else a for n, a in bound.items()}
        cut |= {n: read_only(bound[n][place.read.slices]) for n in images}
        part = kernel.run(cut, place)
        if result is not None:
            assert part.dtype == dtype
            result[write.slices] = owned(part, place)
        else:
            partials.append(part)
    if result is not None:
        return result
    return as_value(kernel.finish(fold(kernel.combine, order(partials)), bound, grid))


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written to: kernels are handed such."""
    view = array.view()
    view.flags.writeable = False
    return view


def fold(combine: Any, partials: list[Any]) -> Any:
    """Fold partials in a tree of three at a time, in block order."""
    while len(partials) > 1:
        groups = [partials[i : i + 3] for i in range(0, len(partials), 3)]
        partials = [_left(combine, g) for g in groups]
    return partials[0]


def _left(combine: Any, partials: list[Any]) -> Any:
    result = partials[0]
    for other in partials[1:]:
        result = combine(result, other)
    return result


@st.composite
def shapes(draw: Any, min_dims: int = 2, max_dims: int = 5, longest: int = 40) -> tuple[int, ...]:
    """Draw shapes of up to 5 axes, now and then with an axis of up to 257."""
    n = draw(st.integers(min_dims, max_dims))
    top = {1: 257, 2: longest, 3: longest, 4: 11, 5: 6}[n]
    shape = draw(st.lists(st.integers(1, top), min_size=n, max_size=n))
    if n > 1 and draw(st.integers(0, 4)) == 0:
        axis = draw(st.integers(0, n - 1))
        shape[axis] = min(draw(st.integers(1, 257)), max(1, MAX_VOXELS // int(np.prod(shape))))
    return tuple(shape)


@st.composite
def blocks_of(draw: Any, shape: tuple[int, ...], most: int = 150) -> tuple[int, ...]:
    """Draw a block shape: any that gives a bearable number of blocks."""
    block = [draw(st.integers(1, n)) for n in shape]
    while len(Blocks(shape, tuple(block))) > most:
        axis = int(np.argmax([n / b for n, b in zip(shape, block, strict=True)]))
        block[axis] *= 2
    return tuple(block)


def image(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """Return an image of noise over the dtype's whole range."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < rng.random()
    if np.dtype(dtype).kind == "f":
        return (rng.normal(size=shape) * 10 ** float(rng.integers(-3, 4))).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
