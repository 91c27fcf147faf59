"""Components found by union-find on the device are those that compiled loops find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from lepton_pipe.device import own_kernels, to_device, to_host
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels.labels import _dtype, label_apply, label_join
from lepton_pipe.spec import Place
from tests.compiled.test_labels import blocks, labellings
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.kernels.blockwise import noise
from tests.kernels.test_blocks_on_device import Run, objects, picture

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")


@pytest.fixture(autouse=True, scope="module")
def gpu():
    with fake_cupy(kernels=True) as traffic:
        yield traffic


def both(kernel, mask, place, **params):
    """Return what a kernel makes of a mask on the device, and on the host."""
    there = to_device(mask, "gpu")
    assert own_kernels("labels", there).fits(there)
    return [kernel.run({"mask": m, **params}, place) for m in (there, mask)]


@given(blocks())
@settings(max_examples=40, deadline=None)
def test_a_block_is_described_as_on_the_host(case):
    mask, place, connectivity = case
    got, expected = both(label_join, mask, place, connectivity=connectivity, min_size=0)
    assert (got.above, got.below) == (expected.above, expected.below)
    (mine,), (theirs,) = got.blocks, expected.blocks
    assert mine[:2] == theirs[:2]
    for name in ("size", "own"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), name)
    there = theirs.size > 0
    np.testing.assert_array_equal(mine.first[there], theirs.first[there])


@given(labellings())
@settings(max_examples=40, deadline=None)
def test_a_block_is_painted_as_on_the_host(case):
    mask, spatial, connectivity = case
    if mask.ndim > spatial + 2:
        mask = mask.reshape(-1, *mask.shape[-spatial:])
    place = whole(mask.shape, spatial)
    table = joined(mask, place, connectivity).part(0)
    got, expected = both(label_apply, mask, place, connectivity=connectivity, table=table)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(to_host(got), expected)


def whole(shape, spatial):
    axes = "tc"[2 - len(shape) + spatial :] + "zyx"[3 - spatial :]
    return Place.whole(Grid.of(shape, axes))


def joined(mask, place, connectivity=1, min_size=2):
    partial = label_join.run({"mask": mask, "connectivity": connectivity}, place)
    return label_join.finish(partial, {"min_size": min_size}, place.grid)


def snake(n):
    """Return one object that fills half of a plane, and is joined at the ends of rows alone."""
    mask = np.zeros((n, n), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    return mask


@pytest.mark.parametrize("turn", range(4))
def test_an_object_that_winds_is_one(turn):
    mask = np.rot90(snake(61), turn)
    place = whole(mask.shape, 2)
    got, _ = both(label_apply, mask, place, connectivity=1, table=np.array([0, 7]))
    np.testing.assert_array_equal(to_host(got), 7 * mask)


def test_more_objects_than_a_block_of_threads_has_room_for():
    mask = noise((3, 90, 130), "bool", 4)
    mask[:, ::2, ::2] = True
    mask[:, 1::2] = mask[..., 1::2] = False
    got, expected = both(label_join, mask, whole(mask.shape, 3), connectivity=1)
    assert expected.blocks[0].size.size > 2500
    np.testing.assert_array_equal(got.blocks[0].size, expected.blocks[0].size)
    np.testing.assert_array_equal(got.blocks[0].first[1:], expected.blocks[0].first[1:])


def test_nothing_but_tables_and_faces_leaves_the_device(gpu):
    mask = noise((5, 20, 30), "bool", 4)
    gpu.clear()
    both(label_join, mask, whole(mask.shape, 3), connectivity=2)
    assert all(len(shape) < 3 for shape in gpu.to_host)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_pipeline_publishes_the_same_objects_and_their_table(dtype):
    image = picture(dtype)
    made, expected = (Run(objects, device, raw=image).all() for device in ("gpu", "cpu"))
    assert set(made) == set(expected)
    for name, want in expected.items():
        if isinstance(want, dict):
            for column in want:
                np.testing.assert_array_equal(made[name][column], want[column], column)


def test_numbers_that_32_bits_do_not_hold_are_painted(monkeypatch):
    monkeypatch.setattr("lepton_pipe.kernels.labels._dtype", lambda grid: np.int64)
    mask = noise((6, 40), "bool", 4)
    place = whole(mask.shape, 2)
    table = joined(mask, place).part(0) * 2**33
    got, expected = both(label_apply, mask, place, connectivity=1, table=table)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(to_host(got), expected)


def test_the_last_number_of_32_bits_is_painted():
    mask = np.array([[True, False, True]])
    table = np.array([0, 2**31 - 1, 0])
    got, _ = both(label_apply, mask, whole(mask.shape, 2), connectivity=1, table=table)
    assert _dtype(Grid.of(mask.shape)) is np.int32
    np.testing.assert_array_equal(to_host(got), [[2**31 - 1, 0, 0]])


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "uint8"])
def test_what_is_not_zero_is_foreground(dtype):
    mask = noise((7, 50), dtype, 4)
    mask[::3] = -0.0
    place = whole(mask.shape, 2)
    table = joined(mask, place).part(0)
    got, expected = both(label_apply, mask, place, connectivity=1, table=table)
    np.testing.assert_array_equal(to_host(got), expected)
