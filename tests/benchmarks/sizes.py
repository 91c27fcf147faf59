"""How large the data of a benchmark is."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

SCREEN = 256


@dataclass(frozen=True)
class Size:
    """Shapes of all inputs.

    Attributes
    ----------
    volume, part
        Shapes ``(z, y, x)`` of the uint16 volumes; `part` is for workloads whose rivals take
        hundreds of nanoseconds a voxel.
    chunks
        Chunk shape of the volumes.
    slide, tile
        Shape and chunk shape ``(y, x)`` of the uint8 slide.
    files, plane
        Number of TIFF files, and their shape ``(y, x)``.
    """

    name: str
    volume: tuple[int, int, int]
    part: tuple[int, int, int]
    chunks: tuple[int, int, int]
    slide: tuple[int, int]
    tile: tuple[int, int]
    files: int
    plane: tuple[int, int]

    @property
    def block(self) -> tuple[int, int, int]:
        """Block shape that a skilled user takes for a loop: some chunks, 64 MiB of uint16."""
        z, y, x = self.chunks
        return 2 * z, 2 * y, 2 * x

    @property
    def area(self) -> tuple[int, int]:
        """Block shape that a skilled user takes for the slide: 16 MiB."""
        return 4 * self.tile[0], 4 * self.tile[1]

    @property
    def volume_levels(self) -> int:
        """Scale levels of the volume, the finest counted."""
        return levels(self.volume)

    @property
    def slide_levels(self) -> int:
        """Scale levels of the slide: no more than six, for what comes then is small."""
        return min(6, levels(self.slide))

    @property
    def voxels(self) -> int:
        """Voxels of the volume."""
        return prod(self.volume)


def levels(shape: tuple[int, ...]) -> int:
    """Return how many levels a pyramid has whose coarsest fits a screen."""
    count, longest = 1, max(shape)
    while longest > SCREEN:
        count, longest = count + 1, -(-longest // 2)
    return count


_BRICK = (64, 256, 256)
_TILE = (1024, 1024)
_PLANE = (512, 512)

SIZES = {
    s.name: s
    for s in (
        Size(
            "tiny",
            volume=(40, 100, 264),
            part=(20, 60, 90),
            chunks=(16, 48, 48),
            slide=(300, 530),
            tile=(128, 128),
            files=9,
            plane=(64, 96),
        ),
        Size(
            "small",
            volume=(64, 768, 1280),
            part=(64, 256, 512),
            chunks=_BRICK,
            slide=(8192, 8192),
            tile=_TILE,
            files=250,
            plane=_PLANE,
        ),
        Size(
            "1gb",
            volume=(256, 1408, 1536),
            part=(128, 768, 1280),
            chunks=_BRICK,
            slide=(50_000, 50_000),
            tile=_TILE,
            files=2000,
            plane=_PLANE,
        ),
        Size(
            "4gb",
            volume=(512, 2048, 2048),
            part=(256, 1024, 1280),
            chunks=_BRICK,
            slide=(50_000, 50_000),
            tile=_TILE,
            files=2000,
            plane=_PLANE,
        ),
    )
}
