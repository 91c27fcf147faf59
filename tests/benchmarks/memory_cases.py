"""The pipelines of which memory is measured, and their input images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import lepton_pipe as lp
from lepton_pipe.kernels import (
    astype,
    downsample,
    find_peaks,
    flatfield,
    gaussian,
    label,
    mean,
    median,
    opening,
    otsu,
    project,
    quantile,
    regionprops,
    std,
)

SIZES = {"small": 2**25, "medium": 2**27, "large": 2**29}
"""Voxels of the input image, uint16."""


@lp.kernel(depth=2, dtype="float32")
def own_kernel(block):
    """Smooth as a user would who knows NumPy and declares nothing."""
    block = block.astype(np.float32)
    for axis in range(block.ndim):
        block = (np.roll(block, 1, axis) + block + np.roll(block, -1, axis)) / 3
    return np.sqrt(block)


def _segment(raw: Any) -> dict[str, Any]:
    labels = label((smooth := gaussian(raw, sigma=2)) > otsu(smooth), min_size=20)
    return {"labels": labels, "cells": regionprops(labels, raw)}


def _shapes_3d(voxels: int) -> tuple[int, ...]:
    side = max(16, int((voxels / 4) ** (1 / 3)) // 16 * 16)
    return (max(1, voxels // (4 * side * side)), 2 * side, 2 * side)


def _shapes_2d(voxels: int) -> tuple[int, ...]:
    side = int(voxels**0.5)
    return (side, voxels // side)


def _shapes_4d(voxels: int) -> tuple[int, ...]:
    return (3, *_shapes_3d(voxels // 3))


@dataclass(frozen=True)
class Case:
    """A pipeline with the axes, shape and chunks of its input."""

    fn: Callable[[Any], dict[str, Any]]
    axes: str
    shape: Callable[[int], tuple[int, ...]]
    chunks: tuple[int, ...]


BRICK, TILE = (64, 128, 128), (1024, 1024)
CASES = {
    "smooth 3-D": Case(
        lambda raw: {"out": astype(gaussian(flatfield(raw), (1, 2, 2)), "uint16", cast="clip")},
        "zyx",
        _shapes_3d,
        BRICK,
    ),
    "segment 3-D": Case(_segment, "zyx", _shapes_3d, BRICK),
    "segment 2-D": Case(_segment, "yx", _shapes_2d, TILE),
    "pyramid 2-D": Case(lambda raw: {"out": raw}, "yx", _shapes_2d, TILE),
    "reduce 3-D": Case(
        lambda raw: {"mean": mean(raw), "std": std(raw), "high": quantile(raw, 0.99)},
        "zyx",
        _shapes_3d,
        BRICK,
    ),
    "median 3-D": Case(lambda raw: {"out": median(raw, 3)}, "zyx", _shapes_3d, BRICK),
    "opening 2-D": Case(lambda raw: {"out": opening(raw, 9)}, "yx", _shapes_2d, TILE),
    "project 4-D": Case(
        lambda raw: {"out": project(raw, "z", "mean")}, "czyx", _shapes_4d, (1, *BRICK)
    ),
    "flatfield 4-D": Case(lambda raw: {"out": flatfield(raw)}, "czyx", _shapes_4d, (1, *BRICK)),
    "downsample 4-D": Case(
        lambda raw: {"out": downsample(raw, 2)}, "tzyx", _shapes_4d, (1, *BRICK)
    ),
    "peaks 3-D": Case(
        lambda raw: {"peaks": find_peaks(gaussian(raw, 2), threshold=900)}, "zyx", _shapes_3d, BRICK
    ),
    "own kernel 3-D": Case(
        lambda raw: {"out": own_kernel(raw) * np.float32(2) > 30}, "zyx", _shapes_3d, BRICK
    ),
}


def tiny(case: Case) -> tuple[int, ...]:
    """Return the shape of an image that is next to nothing, but has scale levels."""
    return tuple({"z": 2, "y": 288, "x": 288}.get(axis, 1) for axis in case.axes)


def make_input(home: Path, name: str, shape: tuple[int, ...]) -> Path:
    """Write an image of blobs on noise, slab by slab, unless it is there."""
    case = CASES[name]
    path = home / f"{name.replace(' ', '-')}-{'x'.join(map(str, shape))}.zarr"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    chunks = tuple(map(min, case.chunks, shape))
    array = zarr.create_array(
        part, shape=shape, chunks=chunks, dtype="uint16", dimension_names=list(case.axes)
    )
    random = np.random.default_rng(0)
    y, x = (np.sin(np.arange(n, dtype=np.float32) / 9) for n in shape[-2:])
    blobs = 700 * (y[:, None] * x > 0.8).astype(np.float32)
    axis = max(0, len(shape) - 3)
    for start in range(0, shape[axis], chunks[axis]):
        slab = slice(start, min(start + chunks[axis], shape[axis]))
        size = (*shape[:axis], slab.stop - slab.start, *shape[axis + 1 :])
        noise = random.standard_normal(size, np.float32) * 20 + 200
        noise += blobs if axis or len(shape) > 2 else blobs[slab]
        array[(*[slice(None)] * axis, slab)] = np.clip(noise, 0, 65535).astype(np.uint16)
    part.rename(path)
    return path
