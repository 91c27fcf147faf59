"""A part of an image from its middle, in memory: to try a pipeline on."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from lepton_pipe.geometry import Region
from lepton_pipe.store.open import open_source
from lepton_pipe.store.source import Source

# Of axes that are not spatial, such as time and channels.
_MOST_ELSEWHERE = 4


def cut_out(source: Source, size: int) -> Source:
    """Read a part from the middle of an image: at most `size` voxels along each spatial axis."""
    grid = source.type.grid
    start, stop = [], []
    for i, n in enumerate(grid.shape):
        a = max(0, (n - size) // 2) if i in grid.spatial else 0
        start.append(a)
        stop.append(min(n, a + (size if i in grid.spatial else _MOST_ELSEWHERE)))
    region = Region(tuple(start), tuple(stop))
    part = open_source(source.read(region), axes="".join(grid.axes))
    return replace(part, type=replace(source.type, grid=grid.crop(region)))


def cut_out_voxels(source: Source, voxels: int) -> Source:
    """Read a part of about so many voxels, as near to a cube as the image allows."""
    grid = source.type.grid
    size = max([grid.shape[i] for i in grid.spatial], default=1)
    others = prod(
        min(n, _MOST_ELSEWHERE) for i, n in enumerate(grid.shape) if i not in grid.spatial
    )
    while size > 1 and others * prod(min(grid.shape[i], size) for i in grid.spatial) > voxels:
        size = size * 3 // 4
    return cut_out(source, size)
