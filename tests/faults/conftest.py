from __future__ import annotations

import numpy as np
import pytest
import zarr
from scipy.ndimage import gaussian_filter

from tests.faults.world import World


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder with an image of blobs, in chunks, that is read by all runs."""
    folder = tmp_path_factory.mktemp("image")
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(16, 160, 160)), 2)
    image = (60_000 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint16)
    zarr.create_array(str(folder / "raw.zarr"), data=image, chunks=(8, 40, 40))
    return folder


@pytest.fixture(scope="session")
def golden(image_folder, tmp_path_factory):
    """Give what a pipeline publishes when nothing disturbs it, and the blocks it starts."""
    known = {}

    def of(pipeline, *words):
        if (pipeline, words) not in known:
            world = World(image_folder, tmp_path_factory.mktemp("golden"))
            done = world.run(pipeline, *words)
            assert done.returncode == 0, done.stderr
            known[pipeline, words] = world.published(), world.started()
        return known[pipeline, words]

    return of


@pytest.fixture
def world(image_folder, tmp_path):
    """A place for an output."""
    made = World(image_folder, tmp_path)
    yield made
    made.stop()
