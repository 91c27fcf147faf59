"""Chunks copied as bytes: who may, what comes out, and what is never passed on."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
import tensorstore
import tifffile
import zarr

from lepton_pipe.cache import chunks as cache
from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.geometry import Blocks, Region
from lepton_pipe.store import (
    ArrayTarget,
    Layout,
    copy_block,
    copyable,
    create_image,
    open_source,
)
from lepton_pipe.store.codecs import Chain
from tests.store.conftest import pixels

SHAPE, CHUNKS = (9, 14, 21), (4, 5, 8)

V3 = {
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4", clevel=3, shuffle="bitshuffle")},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=2)},
    "checked": {
        "compressors": [zarr.codecs.ZstdCodec(level=2, checksum=True), zarr.codecs.Crc32cCodec()]
    },
    "plain": {"compressors": None},
    "sharded": {"shards": (8, 10, 16)},
    "other fill": {"fill_value": 7},
}
V2 = {
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd", 2, -1)},
    "v2 bits": {"zarr_format": 2, "compressors": numcodecs.Blosc("lz4", 2, 2)},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(1)},
    "v2 plain": {"zarr_format": 2, "compressors": None, "fill_value": None},
}
CAN = V3 | V2


def _source(path, how, dtype="u2", chunks=CHUNKS):
    whole = pixels(SHAPE, dtype)
    array = zarr.create_array(path, shape=SHAPE, chunks=chunks, dtype=dtype, **how)
    array[...] = whole
    return open_source(path), whole


def _target(path, source, shards=None, codecs=None):
    layout = Layout(source.type.grid, CHUNKS, shards)
    codecs = codecs if codecs is not None else copyable(source)
    create_image(path, "copy", source.type, [layout], {0: codecs})
    return ArrayTarget(path)


@pytest.fixture
def never_encoded(monkeypatch):
    monkeypatch.setattr(Chain, "encode", lambda self, chunk: pytest.fail("was encoded"))


@pytest.mark.parametrize("shards", [None, (4, 10, 16)], ids=["chunks", "shards"])
@pytest.mark.parametrize("how", CAN)
def test_copies_hold_the_same_voxels(tmp_path, how, shards, never_encoded):
    source, whole = _source(tmp_path / "a", CAN[how])
    target = _target(tmp_path / "b", source, shards)
    for block in Blocks(SHAPE, shards or CHUNKS):
        voxels, written = copy_block(source, target, block)
        np.testing.assert_array_equal(voxels, whole[block.slices], strict=True)
        assert len(written) == 1
    read = target.source().read(Region.whole(SHAPE))
    np.testing.assert_array_equal(read, whole)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "b/0")[...], whole)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "b/0")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result()[...], whole)


@pytest.mark.parametrize("dtype", ["u1", "i4", "f8", "?"])
def test_bytes_are_those_of_the_source_and_a_checksum(tmp_path, dtype):
    source, _ = _source(tmp_path / "a", V2["v2 blosc"], dtype)
    target = _target(tmp_path / "b", source)
    copy_block(source, target, source.type.grid.region)
    stored = (tmp_path / "a/1.1.1").read_bytes()
    assert (tmp_path / "b/0/c/1/1/1").read_bytes()[:-4] == stored
    again = open_source(tmp_path / "b")
    assert copyable(again) == copyable(source)
    copy_block(again, _target(tmp_path / "c", again), source.type.grid.region)
    for name in ("c/0/0/0", "c/1/1/1"):
        assert (tmp_path / "b/0" / name).read_bytes() == (tmp_path / "c/0" / name).read_bytes()


def test_a_larger_region_can_be_read_along(tmp_path):
    source, whole = _source(tmp_path / "a", V3["blosc"])
    target = _target(tmp_path / "b", source)
    write, read = Region((4, 5, 8), (8, 10, 16)), Region((3, 2, 0), (9, 12, 20))
    cache.resize(1 << 20)
    voxels, _ = copy_block(source, target, write, read)
    np.testing.assert_array_equal(voxels, whole[read.slices])
    files = [p for p in (tmp_path / "b/0/c").rglob("*") if p.is_file()]
    assert [str(p.relative_to(tmp_path / "b/0")) for p in files] == ["c/1/1/1"]


def test_missing_chunks_of_a_sparse_image_are_written_as_fill_values(tmp_path):
    source, whole = _source(tmp_path / "a", V3["other fill"])
    (tmp_path / "a/c/1/1/1").unlink()
    whole[4:8, 5:10, 8:16] = 7
    target = _target(tmp_path / "b", source)
    with pytest.raises(DamagedError, match="c/1/1/1 is missing"):
        copy_block(source, target, Region.whole(SHAPE))
    source = source.as_sparse()
    np.testing.assert_array_equal(copy_block(source, target, Region.whole(SHAPE))[0], whole)
    np.testing.assert_array_equal(target.source().read(Region.whole(SHAPE)), whole)


@pytest.mark.parametrize("how", ["zstd", "checked", "v2 blosc"])
def test_damage_is_not_copied(tmp_path, how):
    source, _ = _source(tmp_path / "a", CAN[how])
    name = "1.1.1" if how.startswith("v2") else "c/1/1/1"
    stored = (tmp_path / "a" / name).read_bytes()
    (tmp_path / "a" / name).write_bytes(stored[:-9])
    target = _target(tmp_path / "b", source)
    with pytest.raises(DamagedError, match="cannot be decoded"):
        copy_block(source, target, Region((4, 5, 8), (8, 10, 16)))
    assert not [p for p in (tmp_path / "b/0/c").rglob("*") if p.is_file()]


def _gzip(path):
    return _source(path, {"compressors": zarr.codecs.GzipCodec()})[0]


def _big_endian(path):
    return _source(path, V2["v2 blosc"], ">u2")[0]


def _fortran(path):
    return _source(path, {"zarr_format": 2, "order": "F"})[0]


def _turned(path):
    _source(path, {})
    return open_source(path, axes="xyz")


def _tiff(path):
    tifffile.imwrite(path.with_suffix(".tif"), pixels((5, 6)))
    return open_source(path.with_suffix(".tif"))


def _memory(path):
    return open_source(pixels((5, 6)))


def _remote(path):
    store = zarr.storage.FsspecStore.from_url("memory://lepton/copy.zarr")
    zarr.create_array(store, data=pixels((5, 6)), chunks=(2, 2), overwrite=True)
    return open_source("memory://lepton/copy.zarr")


@pytest.mark.parametrize("make", [_gzip, _big_endian, _fortran, _turned, _tiff, _memory, _remote])
def test_others_cannot_be_copied(tmp_path, make):
    source = make(tmp_path / "a")
    assert copyable(source) is None
    create_image(tmp_path / "b", "b", source.type, [Layout(source.type.grid, source.chunks)])
    with pytest.raises(RunError, match="not laid out for the chunks"):
        copy_block(source, ArrayTarget(tmp_path / "b"), source.type.grid.region)


def test_a_target_of_another_layout_is_refused(tmp_path):
    source, _ = _source(tmp_path / "a", V3["blosc"], chunks=(4, 5, 4))
    target = _target(tmp_path / "b", source)
    with pytest.raises(RunError, match="not laid out"):
        copy_block(source, target, source.type.grid.region)
    source, _ = _source(tmp_path / "c", V3["blosc"])
    target = _target(tmp_path / "d", source, codecs=[zarr.codecs.ZstdCodec()])
    with pytest.raises(RunError, match="nothing was written"):
        copy_block(source, target, source.type.grid.region)
    with pytest.raises(ValueError, match="whole write units"):
        copy_block(source, _target(tmp_path / "e", source), Region((0, 0, 0), (4, 5, 7)))
