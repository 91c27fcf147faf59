"""Choose block shapes: of those that fit the memory, the one whose run takes the least time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import lcm, prod
from typing import Any

from lepton_pipe.errors import DeviceRefusedError, MemoryRefusedError
from lepton_pipe.geometry import Grid
from lepton_pipe.plan.estimate import Shape, Work
from lepton_pipe.plan.on_device import POOL_SLACK, Devices

# Beyond this a block gains little: its overlap is small already, and its task is worth its cost.
MAX_BLOCK_VOXELS = 2**23
# A larger one can still read each chunk once where no cache has room for them, or have less overlap
# where that is most of what a block reads; it must then save this much, as it is far from the
# caches of a core, and fewer of them are spread over the cores.
LARGE_IS_WORTH = 1.25
LARGE_BLOCK_VOXELS = 2**26
# Blocks are chosen as if for this many cores, not those there are: on any machine with enough
# memory they are then the same, and with them what depends on them.
NOMINAL_CORES = 8
# Time of blocks that lie on a device one by one, as a share of that of two at once: nothing is
# copied while another is computed.
NOT_OVERLAPPED = 1.5


def candidates(
    grid: Grid,
    unit: Sequence[int],
    whole: Sequence[int] | None = None,
    most: int = MAX_BLOCK_VOXELS,
) -> Iterator[tuple[int, ...]]:
    """Yield block shapes: the unit of writing, with each axis doubled any number of times.

    An axis never grows beyond the image. Others than spatial axes, such as time and channels, grow
    when blocks are whole planes or volumes: small images side by side share a task.

    Parameters
    ----------
    whole
        The smallest block that is made of whole chunks of what is read, too. Blocks up to that
        may be larger than others.
    most
        Voxels of a block.
    """
    whole = whole or unit
    lengths = [
        sorted({*_doubled(u, n), min(w, n)})
        for u, n, w in zip(unit, grid.shape, whole, strict=True)
    ]
    smallest = tuple(min(axis) for axis in lengths)
    for block in product(*lengths):
        inside = all(b <= w for b, w in zip(block, whole, strict=True))
        complete = all(block[i] == grid.shape[i] for i in grid.spatial)
        grown = any(block[i] > smallest[i] for i in range(grid.ndim) if i not in grid.spatial)
        if grown and not complete:
            continue
        if block == smallest or inside or prod(block) <= most:
            yield block


def _doubled(unit: int, length: int) -> Iterator[int]:
    while unit < length:
        yield unit
        unit *= 2
    yield length


def common_unit(units: Sequence[Sequence[int]], grid: Grid) -> tuple[int, ...]:
    """Return the smallest block that is whole units of every array written."""
    return tuple(
        min(n, lcm(*axis)) for n, axis in zip(grid.shape, zip(*units, strict=True), strict=True)
    )


def choose_block(
    shapes: Iterable[tuple[int, ...]],
    need: Callable[[tuple[int, ...]], int],
    work_of: Callable[[tuple[int, ...], int], Work],
    count: Callable[[tuple[int, ...]], int],
    budget: int,
    slots: int,
    what: str,
    devices: Devices | None = None,
    need_there: Callable[[tuple[int, ...]], int] = lambda _: 0,
) -> list[Shape]:
    """Return the shapes that fit, the quickest first.

    Parameters
    ----------
    shapes
        Block shapes to choose from, the smallest first.
    need
        Bytes that a task needs for a given block shape.
    work_of
        Work of all blocks of a shape, given the bytes left for decoded chunks.
    count
        Number of blocks of a shape.
    budget
        Bytes for all tasks together.
    slots
        Blocks that could be computed at once.
    what
        Name of the stage, for the error.
    devices
        The GPUs, if there are any.
    need_there
        Bytes that a task needs of a GPU.

    Raises
    ------
    MemoryRefusedError
        When not even one block of the smallest shape fits.
    DeviceRefusedError
        The same of the memory of a device.
    """
    fitting, smallest, least = [], None, None
    for block in shapes:
        bytes_each = need(block)
        smallest = min(smallest or (bytes_each, block), (bytes_each, block))
        at_once = min(slots, budget // max(1, bytes_each))
        if at_once < 1:
            continue
        lanes = 0
        if devices:
            there = need_there(block)
            least = min(least or (there, block), (there, block))
            lanes = devices.lanes(there, at_once)
            if lanes < 1:
                continue
        work = work_of(block, budget - at_once * bytes_each)
        cores = NOMINAL_CORES * at_once / slots
        seconds = work.total / cores * (1 + (cores - 1) / count(block))
        seconds *= NOT_OVERLAPPED if lanes == 1 else 1.0
        fitting.append(Shape(block, bytes_each, at_once, work, seconds, lanes))
    if not fitting and least is not None and devices:
        raise DeviceRefusedError(
            f"stage {what}: one block of {_by(least[1])} voxels needs "
            f"{_mib(int(least[0] * POOL_SLACK))} MiB on the device, but "
            f"{_mib(devices.limit)} MiB of it may be used"
        )
    if not fitting and smallest is not None:
        raise MemoryRefusedError(
            f"stage {what}: one block of {_by(smallest[1])} voxels needs {_mib(smallest[0])} MiB, "
            f"but {_mib(budget)} MiB are left for blocks beside what the processes hold"
        )
    return sorted(fitting, key=_rank)


def _rank(shape: Shape) -> tuple[Any, ...]:
    voxels = prod(shape.block)
    seconds = shape.seconds * (LARGE_IS_WORTH if voxels > MAX_BLOCK_VOXELS else 1.0)
    return seconds, voxels, sum(shape.block), shape.block


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _mib(n: int) -> int:
    return -(-n // 2**20)
