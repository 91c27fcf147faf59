"""Kernels used in a way that their role does not allow, and places of resampling kernels."""

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels import histogram
from lepton_pipe.spec import ImageType, evaluate


def _add(a, b):
    return a + b


@lp.kernel(combine=_add)
def total(block):
    return int(block.sum())


@lp.kernel(combine=_add, sweep="axis", grid=lambda grid, axis: grid.drop(grid.axis(axis)))
def fold(image, other, axis="z"):
    return image.sum(0) + other.sum(0)


@lp.kernel(
    grid=lambda grid: Grid.of(tuple(2 * n for n in grid.shape)),
    needs=lambda region: Region(
        tuple(a // 2 for a in region.start), tuple(-(-b // 2) for b in region.stop)
    ),
)
def twice(block, *, place):
    """Repeat every voxel, and cut to what is asked for."""
    big = block.repeat(2, 0).repeat(2, 1)
    start = tuple(2 * a for a in place.read.start)
    return big[place.write.shift(tuple(-s for s in start)).slices]


TYPE = ImageType(Grid.of((4, 6, 5)), np.dtype(np.uint8))


def _bind(fn, type_=TYPE):
    return lp.pipeline(fn).bind({"raw": type_}, {})


def test_a_reduction_of_values_is_refused():
    def case(raw: lp.Image):
        return total(histogram(raw, bins=4, range=(0, 9)))

    with pytest.raises(SpecError, match="total: it works on images, and was given values alone"):
        _bind(case)


def test_a_sweep_over_two_images_is_refused():
    def case(raw: lp.Image):
        return fold(raw, raw + 1)

    with pytest.raises(SpecError, match="folds slabs of one image, and was given 2"):
        _bind(case)


def test_a_resampling_kernel_sees_the_same_place_whole_as_in_blocks():
    def case(raw: lp.Image):
        return twice(raw)

    image = np.arange(30, dtype=np.uint8).reshape(6, 5)
    type_ = ImageType(Grid.of(image.shape), image.dtype)
    (whole,) = evaluate(_bind(case, type_), {"raw": image}).values()
    np.testing.assert_array_equal(whole, image.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(twice(image), whole)
