from __future__ import annotations

import numpy as np
import pytest

from lepton_pipe.cache import chunks as cache
from lepton_pipe.geometry import Grid
from lepton_pipe.spec import ImageType
from lepton_pipe.store import ArrayTarget, Layout, create_image
from lepton_pipe.store.source import handles


@pytest.fixture(autouse=True)
def _closed_files():
    yield
    handles.clear()
    cache.resize(0)


def pixels(shape, dtype="uint16", seed=0):
    """Values that differ from voxel to voxel and never are all zero."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) > 0.5
    top = min(np.iinfo(dtype).max, 60_000)
    return rng.integers(1, top, size=shape).astype(dtype)


def ours(path, shape, chunks, shards=None, dtype="uint16"):
    """Store values in an array as we make them, and return them."""
    kind = ImageType(Grid.of(shape), np.dtype(dtype))
    create_image(path, "o", kind, [Layout(kind.grid, chunks, shards)])
    whole = pixels(shape, dtype)
    ArrayTarget(path).write(kind.grid.region, whole)
    return whole
