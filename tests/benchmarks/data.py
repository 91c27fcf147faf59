"""Synthesise the inputs: images that look like microscopy, the same for the same seed.

Everything is made chunk by chunk, in bounded memory, and kept for the next run. A nucleus lives in
one cell of a jittered lattice, so that a chunk can be drawn from the few cells it touches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from tests.benchmarks.sizes import Size

VERSION = 1
CELL = (18, 45, 45)
SLIDE_CELL = (1, 100, 100)
_SEED = 20240229


def ensure(size: Size, folder: Path, needs: Sequence[str]) -> Path:
    """Make what is needed and not there yet; return the folder of this size.

    Parameters
    ----------
    needs
        Of ``volume``, ``part``, ``labels``, ``flat``, ``slide``, ``files``, ``background``.
    """
    home = folder / f"v{VERSION}-{size.name}"
    home.mkdir(parents=True, exist_ok=True)
    for name in needs:
        if not place(home, name).exists():
            _make(size, home, name)
    return home


def place(home: Path, name: str) -> Path:
    """Return where an input lies."""
    ending = {"flat": ".npy", "background": ".npy", "files": ""}
    return home / f"{name}{ending.get(name, '.zarr')}"


def _make(size: Size, home: Path, name: str) -> None:
    print(f"making {name} ({size.name})", flush=True)
    passing = home / f"passing-{os.getpid()}-{place(home, name).name}"
    shutil.rmtree(passing, ignore_errors=True)
    _MAKERS[name](size, passing)
    passing.rename(place(home, name))


# -- what is drawn --------------------------------------------------------------------------


class Nuclei:
    """Ellipsoids, one in each cell of a lattice.

    Attributes
    ----------
    centre, radius
        For each cell, float32 of shape ``(nz, ny, nx, 3)``.
    light
        Brightness in the centre, ``(nz, ny, nx)``.
    """

    def __init__(self, shape: Sequence[int], cell: Sequence[int], seed: int) -> None:
        self.cell = cell
        self.count = tuple(max(1, n // c) for n, c in zip(shape, cell, strict=True))
        rng = np.random.default_rng(seed)
        corner = np.stack(np.meshgrid(*map(np.arange, self.count), indexing="ij"), -1)
        self.radius = np.array(cell) * rng.uniform(0.22, 0.38, (*self.count, 3))
        free = np.array(cell) - 2 * self.radius
        shift = rng.uniform(0.15, 0.85, (*self.count, 3))
        self.centre = corner * np.array(cell) + self.radius + free * shift
        self.light = rng.uniform(250, 700, self.count)

    def touching(self, start: Sequence[int], stop: Sequence[int]) -> Any:
        """Yield the cells that a box touches."""
        ranges = [
            range(a // c, min(n, ceil(b / c)))
            for a, b, c, n in zip(start, stop, self.cell, self.count, strict=True)
        ]
        return product(*ranges)

    def draw(self, start: Sequence[int], stop: Sequence[int], image: Any, labels: Any) -> None:
        """Add light to `image` and put numbers into `labels`; either may be None."""
        for at in self.touching(start, stop):
            low = np.maximum(np.floor(self.centre[at] - self.radius[at]), start).astype(int)
            high = np.minimum(np.ceil(self.centre[at] + self.radius[at]) + 1, stop).astype(int)
            if (low >= high).any():
                continue
            inside = 1 - self._distance(at, low, high)
            box = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            if image is not None:
                image[box] += self.light[at] * np.minimum(np.maximum(inside, 0) * 3, 1)
            if labels is not None:
                labels[box][inside > 0] = 1 + np.ravel_multi_index(at, self.count)

    def _distance(self, at: Any, low: Any, high: Any) -> NDArray[np.float32]:
        total: Any = np.float32(0)
        for i in range(3):
            away = (np.arange(low[i], high[i]) - self.centre[at][i]) / self.radius[at][i]
            shape = [-1 if i == k else 1 for k in range(3)]
            total = total + np.square(away).astype(np.float32).reshape(shape)
        return total


def shading(y: Any, x: Any, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the light of the lamp: 1 in the middle, less towards the corners."""
    dy, dx = y / shape[0] - 0.45, x / shape[1] - 0.55
    return (1.15 - 0.9 * (dy[:, None] ** 2 + dx[None, :] ** 2)).astype(np.float32)


def _noisy(image: NDArray[np.float32], seed: Any, gain: float) -> NDArray[np.float32]:
    """Add noise as of counted photons: its square grows with the light."""
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return image + noise * np.sqrt(np.maximum(image, 1) * np.float32(gain))


def _brick(shape: Sequence[int], nuclei: Nuclei, seed: int, start: Any, stop: Any) -> Any:
    image = np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.float32)
    nuclei.draw(start, stop, image, None)
    image += 320 + 40 * np.sin(np.arange(start[0], stop[0]) / 37)[:, None, None]
    image *= shading(np.arange(start[1], stop[1]), np.arange(start[2], stop[2]), shape[1:])
    return np.clip(np.rint(_noisy(image, (seed, *start), 2.6)), 0, 65535).astype(np.uint16)


# -- where it goes --------------------------------------------------------------------------


def _create(
    path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any, clevel: int = 5
) -> Any:
    item = np.dtype(dtype).itemsize
    codec = BloscCodec(cname="zstd", clevel=clevel, shuffle="shuffle", typesize=item)
    axes = ("z", "y", "x")[-len(shape) :]
    return zarr.create_array(
        str(path),
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype=dtype,
        compressors=codec,
        dimension_names=axes,
        # Without it, zarr leaves out chunks without an object, and the labels are a sparse image.
        config={"write_empty_chunks": True},
    )


def _fill(array: Any, draw: Callable[[Any, Any], Any]) -> None:
    """Fill an array chunk by chunk, on all cores."""
    counts = [ceil(n / c) for n, c in zip(array.shape, array.chunks, strict=True)]

    def one(at: Sequence[int]) -> None:
        start = [i * c for i, c in zip(at, array.chunks, strict=True)]
        stop = [min(s + c, n) for s, c, n in zip(start, array.chunks, array.shape, strict=True)]
        array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = draw(start, stop)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, product(*map(range, counts))))


def _make_volume(size: Size, path: Path, shape: Sequence[int], seed: int) -> None:
    nuclei = Nuclei(shape, CELL, seed)
    array = _create(path, shape, size.chunks, np.uint16)
    _fill(array, lambda start, stop: _brick(shape, nuclei, seed, start, stop))


def _make_labels(size: Size, path: Path) -> None:
    nuclei = Nuclei(size.volume, CELL, _SEED)

    def draw(start: Any, stop: Any) -> Any:
        labels = np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.uint32)
        nuclei.draw(start, stop, None, labels)
        return labels

    _fill(_create(path, size.volume, size.chunks, np.uint32), draw)


def _make_flat(size: Size, path: Path) -> None:
    shape = size.volume[1:]
    flat = shading(np.arange(shape[0]), np.arange(shape[1]), shape)
    _save(path, np.rint(flat * 20_000).astype(np.uint16))


def _make_background(size: Size, path: Path) -> None:
    shape = size.plane
    light = 300 * shading(np.arange(shape[0]), np.arange(shape[1]), shape)
    _save(path, np.rint(light).astype(np.uint16))


def _save(path: Path, array: Any) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _make_slide(size: Size, path: Path) -> None:
    nuclei = Nuclei((1, *size.slide), SLIDE_CELL, _SEED + 2)
    nuclei.centre[..., 0], nuclei.radius[..., 0] = 0, 1

    def draw(start: Any, stop: Any) -> Any:
        image = np.zeros((1, stop[0] - start[0], stop[1] - start[1]), np.float32)
        nuclei.draw((0, *start), (1, *stop), image, None)
        light = shading(np.arange(start[0], stop[0]), np.arange(start[1], stop[1]), size.slide)
        image = (image[0] * 0.2 + 60) * light
        noisy = _noisy(image, (_SEED + 2, *start), 0.08)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    _fill(_create(path, size.slide, size.tile, np.uint8, clevel=1), draw)


def _make_files(size: Size, path: Path) -> None:
    import tifffile

    path.mkdir()
    nuclei = Nuclei((size.files * CELL[0], *size.plane), CELL, _SEED + 3)

    def one(index: int) -> None:
        z = index * CELL[0] + CELL[0] // 2
        plane = _brick((1, *size.plane), nuclei, _SEED + 3, (z, 0, 0), (z + 1, *size.plane))
        tifffile.imwrite(path / f"field{index:05d}.tif", plane[0])

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(size.files)))


_MAKERS: dict[str, Callable[[Size, Path], None]] = {
    "volume": lambda size, path: _make_volume(size, path, size.volume, _SEED),
    "part": lambda size, path: _make_volume(size, path, size.part, _SEED + 1),
    "labels": _make_labels,
    "flat": _make_flat,
    "background": _make_background,
    "slide": _make_slide,
    "files": _make_files,
}
