"""What every source must do, run by each kind of input."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from lepton_pipe.cache import chunks as cache
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import ArrayTarget, Layout, create_image, create_scratch, open_source
from lepton_pipe.store.source import Source, handles
from tests.store.conftest import pixels


def _array(tmp_path):
    whole = pixels((7, 30, 41), ">u2")
    return open_source(whole), whole


def _array_transposed(tmp_path):
    whole = pixels((41, 30, 7), "float32")
    return open_source(whole, axes="xyz"), whole.transpose(2, 1, 0)


def _npy(tmp_path):
    whole = pixels((30, 41), "int32")
    np.save(tmp_path / "a.npy", whole)
    return open_source(tmp_path / "a.npy"), whole


def _npy_fortran(tmp_path):
    whole = pixels((5, 30, 41), "bool")
    np.save(tmp_path / "a.npy", np.asfortranarray(whole))
    return open_source(str(tmp_path / "a.npy")), whole


def _zarr(tmp_path, zarr_format, dtype="uint16", **kwargs):
    whole = pixels((7, 30, 41), dtype)
    zarr.create_array(
        tmp_path / "a.zarr", data=whole, chunks=(4, 8, 16), zarr_format=zarr_format, **kwargs
    )
    return open_source(tmp_path / "a.zarr"), whole


def _zarr2(tmp_path):
    return _zarr(tmp_path, 2, ">i4")


def _zarr3(tmp_path):
    return _zarr(tmp_path, 3)


def _zarr3_sharded(tmp_path):
    return _zarr(tmp_path, 3, shards=(8, 16, 32))


def _zarr_named(tmp_path):
    whole = pixels((30, 41, 3), "uint8")
    names = ("y", "x", "c")
    zarr.create_array(tmp_path / "a.zarr", data=whole, chunks=(8, 16, 3), dimension_names=names)
    return open_source(tmp_path / "a.zarr"), whole.transpose(2, 0, 1)


def _written(tmp_path, shape, dtype, chunks, shards):
    whole = pixels(shape, dtype)
    kind = ImageType(Grid.of(shape), whole.dtype)
    create_image(tmp_path / "o.zarr", "o", kind, [Layout(kind.grid, chunks, shards)])
    ArrayTarget(tmp_path / "o.zarr").write(kind.grid.region, whole)
    return whole


def _ours(tmp_path):
    whole = _written(tmp_path, (2, 3, 5, 20, 33), "int16", (1, 1, 2, 8, 8), (1, 1, 4, 16, 24))
    return open_source(tmp_path / "o.zarr"), whole


def _ours_strict(tmp_path):
    whole = _written(tmp_path, (5, 20, 33), "bool", (2, 8, 8), None)
    return ArrayTarget(tmp_path / "o.zarr", 0).source(), whole


def _scratch(tmp_path):
    whole = pixels((5, 20, 33), "float32")
    create_scratch(tmp_path / "s", ImageType(Grid.of(whole.shape), whole.dtype), (3, 8, 8))
    target = ArrayTarget(tmp_path / "s", None)
    target.write(Region.whole(whole.shape), whole)
    return target.source(), whole


def _ome_tiff(tmp_path):
    whole = pixels((2, 3, 4, 20, 33))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, whole.transpose(0, 2, 1, 3, 4), metadata={"axes": "TZCYX"}, ome=True)
    return open_source(path), whole


def _tiff_strips(tmp_path):
    whole = pixels((6, 64, 50), "uint8")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, whole, rowsperstrip=5, compression="zlib", metadata=None)
    return open_source(path), whole


def _tiff_tiles(tmp_path):
    whole = pixels((3, 70, 90), "float32")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, whole, tile=(16, 32), compression="zstd", predictor=True, photometric="minisblack"
    )
    return open_source(path), whole


def _tiff_rgb(tmp_path):
    whole = pixels((64, 50, 3), "uint8")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, whole, photometric="rgb", byteorder=">")
    return open_source(path), whole.transpose(2, 0, 1)


def _imagej(tmp_path):
    whole = pixels((4, 2, 20, 33))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, whole, imagej=True, metadata={"axes": "ZCYX"})
    return open_source(path), whole.transpose(1, 0, 2, 3)


def _png_stack(tmp_path):
    whole = pixels((12, 20, 33))
    for i, plane in enumerate(whole):
        (tmp_path / f"img{i}.png").write_bytes(imagecodecs.png_encode(plane))
    return open_source(tmp_path), whole


def _tiff_stack(tmp_path):
    whole = pixels((11, 20, 33), "float32")
    for i, plane in enumerate(whole):
        tifffile.imwrite(tmp_path / f"t{i}.tif", plane, compression="zlib")
    return open_source(f"{tmp_path}/t*.tif", axes="tyx"), whole


def _rgb_stack(tmp_path):
    whole = pixels((3, 20, 33, 3), "uint8")
    for i, plane in enumerate(whole):
        (tmp_path / f"img{i}.png").write_bytes(imagecodecs.png_encode(plane))
    return open_source(f"{tmp_path}/*.png"), whole.transpose(3, 0, 1, 2)


def _one_png(tmp_path):
    whole = pixels((20, 33), "uint8")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(whole))
    return open_source(tmp_path / "a.png"), whole


MAKERS = [
    _array,
    _array_transposed,
    _npy,
    _npy_fortran,
    _zarr2,
    _zarr3,
    _zarr3_sharded,
    _zarr_named,
    _ours,
    _ours_strict,
    _scratch,
    _ome_tiff,
    _tiff_strips,
    _tiff_tiles,
    _tiff_rgb,
    _imagej,
    _png_stack,
    _tiff_stack,
    _rgb_stack,
    _one_png,
]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__.strip("_"))
def case(request, tmp_path):
    return request.param(tmp_path)


def _regions(shape, count, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
        yield Region(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))


def test_whole(case):
    source, whole = case
    assert isinstance(source, Source)
    grid = source.type.grid
    assert grid.shape == whole.shape
    assert len(source.chunks) == grid.ndim
    read = source.read(grid.region)
    assert read.dtype == source.type.dtype
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize("budget", [0, 5_000, 1 << 24])
def test_random_regions_equal_the_whole(case, budget):
    source, whole = case
    cache.resize(budget)
    for region in _regions(whole.shape, 8):
        np.testing.assert_array_equal(source.read(region), whole[region.slices])


def test_a_region_outside_is_refused(case):
    source, whole = case
    beyond = Region((0,) * whole.ndim, tuple(n + 1 for n in whole.shape))
    with pytest.raises(ValueError, match="outside"):
        source.read(beyond)


@pytest.mark.parametrize("budget", [0, 5_000, 1 << 24])
def test_pickling_and_sharing_between_threads(case, budget):
    source, whole = case
    cache.resize(budget)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert again.type == source.type
    handles.clear()
    regions = list(_regions(whole.shape, 24, seed=2))
    with ThreadPoolExecutor(6) as pool:
        for region, part in zip(regions, pool.map(again.read, regions), strict=True):
            np.testing.assert_array_equal(part, whole[region.slices])


def test_identity_is_plain_and_stable(case):
    source, _ = case
    identity = source.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert source.identity() == identity
    stored = source.stored_bytes()
    assert stored is not None
    assert stored > 0


def test_paths_exist(case):
    source, _ = case
    assert all(path.is_absolute() and path.exists() for path in source.paths())
    assert source.paths() or source.uri == "array"
