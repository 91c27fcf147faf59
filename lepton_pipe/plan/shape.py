"""Choose block shapes: the largest that fit the memory and still keep every core busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import lcm, prod

from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.geometry import Blocks, Grid

# Beyond this a block gains little: its overlap is small already, and its task is worth its cost.
MAX_BLOCK_VOXELS = 2**23
# Enough blocks to go round. A fixed number, not one for each core: sums of floats are taken block
# by block, and with the same blocks on any machine their last digit is the same as well.
BLOCKS_AT_LEAST = 24


def candidates(grid: Grid, unit: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield block shapes from the unit of writing upwards, each one axis doubled.

    The shortest spatial axis grows first: near-cubes have the least overlap for their size. An
    axis never grows beyond the image.
    """
    block = tuple(min(u, n) for u, n in zip(unit, grid.shape, strict=True))
    growable = grid.spatial or tuple(range(grid.ndim))
    while True:
        yield block
        open_axes = [i for i in growable if block[i] < grid.shape[i]]
        if not open_axes:
            return
        axis = min(open_axes, key=lambda i: (block[i], -i))
        grown = [
            min(2 * b, n) if i == axis else b
            for i, (b, n) in enumerate(zip(block, grid.shape, strict=True))
        ]
        block = tuple(grown)


def common_unit(units: Sequence[Sequence[int]], grid: Grid) -> tuple[int, ...]:
    """Return the smallest block that is whole units of every array written."""
    return tuple(
        min(n, lcm(*axis)) for n, axis in zip(grid.shape, zip(*units, strict=True), strict=True)
    )


def choose_block(
    grid: Grid,
    unit: Sequence[int],
    need: Callable[[tuple[int, ...]], int],
    budget: int,
    slots: int,
    what: str,
    *,
    single: bool = False,
) -> tuple[tuple[int, ...], int]:
    """Return a block shape and how many blocks may be computed at once.

    Parameters
    ----------
    need
        Bytes that a task needs for a given block shape.
    budget
        Bytes for all tasks together.
    slots
        Blocks that could be computed at once.
    what
        Name of the stage, for the error.
    single
        Take the unit itself, however small.

    Raises
    ------
    MemoryRefusedError
        When not even one block of the smallest shape fits.
    """
    best: tuple[tuple[int, ...], int] | None = None
    smallest = None
    for block in candidates(grid, unit):
        bytes_each = need(block)
        smallest = smallest or bytes_each
        at_once = min(slots, budget // max(1, bytes_each))
        if best is not None and not _better(grid, block, at_once, best):
            break
        if at_once >= 1:
            best = block, at_once
        if at_once < 1 or single:
            break
    if best is None:
        raise MemoryRefusedError(
            f"stage {what}: one block of {_by(unit)} voxels needs {_mib(smallest or 0)} MiB, but "
            f"{_mib(budget)} MiB are left for blocks beside what the processes hold"
        )
    return best


def _better(
    grid: Grid,
    block: tuple[int, ...],
    at_once: int,
    best: tuple[tuple[int, ...], int],
) -> bool:
    """Tell whether a larger block is worth it: as many at once, and enough of them to go round."""
    if at_once < best[1] or prod(block) > MAX_BLOCK_VOXELS:
        return False
    return len(Blocks(grid.shape, block)) >= BLOCKS_AT_LEAST


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _mib(n: int) -> int:
    return -(-n // 2**20)
