"""What is told before a run of kernels that are not of the package."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian


# What it needs is said, so that blocks do not depend on how fast this machine is at the moment.
@lp.kernel(depth=lambda radius: radius, scratch=8, cost=10_000)
def boxed(image, radius=1):
    """Filter along all axes, whatever they are."""
    return ndimage.maximum_filter(image, 2 * radius + 1)


@lp.kernel(depth=lambda radius: {"y": radius, "x": radius})
def squared(image, radius=1):
    """Filter planes."""
    return ndimage.maximum_filter(image, (1,) * (image.ndim - 2) + (2 * radius + 1,) * 2)


@lp.kernel
def doubled(image):
    """Look at no other voxel."""
    return image * 2


@lp.kernel(depth={"c": 2, "y": 2, "x": 2})
def all_named(image):
    """Look along channels, and say so."""
    return ndimage.maximum_filter(image, 5)


IMAGE = np.random.default_rng(0).integers(0, 200, (4, 60, 70), np.uint8)


def notes(tmp_path, kernel, chunks, **words):
    @lp.pipeline
    def one(raw: lp.Image) -> lp.Node:
        return kernel(raw, **words)

    np.save(tmp_path / "raw.npy", IMAGE)
    raw = lp.open_image(tmp_path / "raw.npy", axes="cyx")
    plan = one.plan(raw=raw, out=tmp_path / "o", chunks=chunks, serial=True)
    return plan, [n for n in plan.notes if "depends on the blocks" in n]


def test_one_depth_where_channels_are_cut_is_noted(tmp_path):
    plan, [note] = notes(tmp_path, boxed, "c=1,y=32,x=32", radius=2)
    assert note.startswith("boxed looks at voxels around")
    assert "not along c, where blocks are cut" in note
    # And so it is.
    plan.run(progress=False)
    made = lp.open_image(tmp_path / "o" / "one")
    assert (made.read(made.type.grid.region) != ndimage.maximum_filter(IMAGE, 5)).any()


@pytest.mark.parametrize(
    ("kernel", "chunks"),
    [(boxed, "c=4,y=32,x=32"), (squared, "c=1,y=32,x=32"), (all_named, "c=1"), (doubled, "c=1")],
)
def test_nothing_is_noted_where_the_result_is_that_of_the_whole(tmp_path, kernel, chunks):
    plan, found = notes(tmp_path, kernel, chunks)
    assert found == []
    plan.run(progress=False)
    made = lp.open_image(tmp_path / "o" / "one")
    assert (made.read(made.type.grid.region) == kernel.fn(IMAGE)).all()


def test_kernels_of_the_package_are_known_to_be_right(tmp_path):
    assert notes(tmp_path, gaussian, "c=1", sigma=1.0)[1] == []
