"""What only a real GPU can tell: CuPy's own code, a GPU's roundings, copies that overlap."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from lepton_pipe.compiled import ranks
from lepton_pipe.cuda import medians
from lepton_pipe.device import device_count, run_model, to_device, to_host
from lepton_pipe.device.lanes import Lane
from lepton_pipe.geometry import Region
from lepton_pipe.kernels.labels import label_apply, label_join
from lepton_pipe.store import open_source
from lepton_pipe.worker.direct import read_direct
from tests.cuda import test_extremes, test_medians
from tests.cuda.test_labels import both as labels_of_both
from tests.cuda.test_labels import joined, snake
from tests.cuda.test_labels import whole as whole_place
from tests.cuda.test_regions import blobs, published
from tests.kernels import one_body
from tests.kernels.blockwise import assert_same, noise
from tests.kernels.test_blocks_on_device import Run, background, objects, picture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device_count() == 0, reason="no CUDA device, or no CuPy"),
]


@pytest.mark.parametrize(("kernel", "params", "dtype"), one_body.expand(one_body.MAPS))
def test_a_map_is_the_same_on_a_gpu(kernel, params, dtype):
    image = one_body.picture(one_body.GRID.shape, dtype)
    place = one_body.place_of(kernel, params, image)
    got, expected = one_body.both(kernel, params, image, place)
    assert_same(to_host(got), expected, ulps=64)


@pytest.mark.parametrize(("kernel", "params", "dtype"), one_body.expand(one_body.REDUCTIONS))
def test_a_partial_is_the_same_on_a_gpu(kernel, params, dtype):
    image = one_body.picture(one_body.GRID.shape, dtype)
    place = one_body.place_of(kernel, params, image)
    one_body.assert_equal(*one_body.both(kernel, params, image, place))


@pytest.mark.parametrize("pipeline", [objects, background], ids=lambda p: p.name)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_pipeline_gives_the_same_on_a_gpu(pipeline, dtype):
    image = picture(dtype)
    made, expected = (Run(pipeline, d, raw=image).all() for d in ("gpu", "cpu"))
    for name, want in expected.items():
        if isinstance(want, dict):
            for column in want:
                np.testing.assert_allclose(made[name][column], want[column], rtol=1e-5)
        elif name in ("mask", "objects"):
            np.testing.assert_array_equal(made[name], want)
        else:
            np.testing.assert_allclose(made[name], want, rtol=1e-5)


def test_an_image_comes_back_from_a_gpu_as_it_went():
    image = np.random.default_rng(1).integers(0, 2**16, (40, 600, 700)).astype(np.uint16)
    lane = Lane()
    with lane.entered():
        there = lane.take_in(image)
        back = lane.bring_back(there)
        part = lane.bring_back(there[3:, ::2, 5:90])
    np.testing.assert_array_equal(back, image)
    np.testing.assert_array_equal(part, image[3:, ::2, 5:90])
    assert lane.busy.take()["copy_in"] > 0
    np.testing.assert_array_equal(to_host(to_device(image, "gpu")), image)


@pytest.mark.parametrize("more", [{}, {"shards": (32, 128, 256)}], ids=["chunks", "shards"])
def test_a_region_is_read_straight_to_a_gpu(tmp_path, more):
    pytest.importorskip("kvikio")
    image = np.random.default_rng(1).integers(0, 2**16, (40, 300, 301)).astype(np.uint16)
    path = str(tmp_path / "raw.zarr")
    layout = {"shape": image.shape, "chunks": (16, 64, 128), "dtype": image.dtype}
    zarr.create_array(path, **layout, compressors=None, **more)[...] = image
    region, lane = Region((0, 5, 0), (40, 290, 301)), Lane()
    with lane.entered():
        made, straight = read_direct(lane, open_source(path), region)
        back = lane.bring_back(made)
    np.testing.assert_array_equal(back, image[region.slices])
    assert straight > 0


def test_a_model_runs_on_the_block_where_it_lies():
    torch = pytest.importorskip("torch")
    cupy = pytest.importorskip("cupy")
    image = np.random.default_rng(1).random((1, 1, 20, 33), np.float32)
    weights = torch.linspace(-1, 1, 9).reshape(1, 1, 3, 3)

    def net(x):
        return torch.nn.functional.conv2d(x, weights.to(x.device), padding=1)

    lane = Lane()
    with lane.entered():
        got = run_model(net, lane.take_in(image) * 2)
        assert isinstance(got, cupy.ndarray)
        back = lane.bring_back(got)
    np.testing.assert_allclose(back, run_model(net, image * 2), rtol=1e-2, atol=1e-2)


SHAPES = [(97, 301, 403), (3, 2, 33, 70, 129), (1, 1, 2_000_003), (2_003, 1, 501), (4_001, 2_999)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.1, 0.32, 0.6, 0.97])
def test_components_are_those_of_the_host_on_a_gpu(shape, density):
    # Many threads join one object here: what one of them lost would be seen.
    mask = np.random.default_rng(7).random(shape) < density
    spatial = min(3, mask.ndim)
    place = whole_place(shape, spatial)
    for connectivity in range(1, spatial + 1):
        table = joined(mask, place, connectivity).part(0)
        got, expected = labels_of_both(
            label_apply, mask, place, connectivity=connectivity, table=table
        )
        np.testing.assert_array_equal(to_host(got), expected)
        got, expected = labels_of_both(label_join, mask, place, connectivity=connectivity)
        for name in ("size", "own"):
            mine, theirs = (getattr(part.blocks[0], name) for part in (got, expected))
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("turn", range(4))
def test_an_object_that_winds_is_one_on_a_gpu(turn):
    mask = np.rot90(snake(3001), turn)
    place = whole_place(mask.shape, 2)
    got, _ = labels_of_both(label_apply, mask, place, connectivity=1, table=np.array([0, 7]))
    np.testing.assert_array_equal(to_host(got), 7 * mask)


@pytest.mark.parametrize("dtype", [None, *one_body.ALL, "float16"])
@pytest.mark.parametrize("most", [2, 9, 5000])
def test_tables_are_those_of_the_host_on_a_gpu(dtype, most):
    labels = blobs((40, 203, 331), most=most).astype(np.int32)
    values = None if dtype is None else one_body.picture(labels.shape, dtype)
    got, again, expected = (published(labels, values, d) for d in ("gpu", "gpu", "cpu"))
    for name, column in expected.items():
        assert got[name].tobytes() == again[name].tobytes()
        np.testing.assert_array_equal(got[name], column, name)


# The last two are larger than what lies on a GPU at a time.
EXTREMES = [
    *test_extremes.CASES,
    ((150, 700, 650), "uint16", (3, 3, 3)),
    ((150, 700, 650), "int32", (9, 40, 31)),
]


@pytest.mark.parametrize(("shape", "dtype", "size"), EXTREMES)
@pytest.mark.parametrize("largest", [False, True])
def test_extremes_are_the_same_on_a_gpu(shape, dtype, size, largest):
    image = noise(shape, dtype, 1, nan=True)
    got, expected = test_extremes.extremes_of(image, size, largest=largest)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(to_host(got), expected)


MEDIANS = [
    *test_medians.CASES,
    ((30, 40, 70), "uint8", np.ones((5, 5, 5), bool)),
    ((150, 700, 650), "uint16", np.ones((3, 3, 3), bool)),
]


@pytest.mark.parametrize(("shape", "dtype", "cells"), MEDIANS)
def test_medians_are_the_same_on_a_gpu(shape, dtype, cells):
    image = noise(shape, dtype, 1, nan=True)
    got = medians.median(to_device(image, "gpu"), cells)
    np.testing.assert_array_equal(to_host(got), ranks.median(image, cells))
