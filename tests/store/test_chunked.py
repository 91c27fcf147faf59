"""Reading chunk by chunk: decoded once, never stale, the same values whichever way."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec

from lepton_pipe.cache import chunks as cache
from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.geometry import Blocks, Grid, Region, symmetric_depth
from lepton_pipe.spec import ImageType
from lepton_pipe.store import ArrayTarget, create_scratch, open_source
from lepton_pipe.store.chunked import ChunkedSource
from lepton_pipe.store.codecs import Chain
from lepton_pipe.store.planes import decode as decode_plane
from lepton_pipe.store.unit_files import StoreFiles
from lepton_pipe.store.zarr_chunks import ArrayHandle
from tests.command import PATIENCE
from tests.store.conftest import ours, pixels


@pytest.fixture
def cached():
    cache.resize(1 << 24)
    yield
    cache.resize(0)


@pytest.fixture
def decoded(monkeypatch):
    """Names or shapes of everything that was decoded."""
    calls, decode = [], Chain.decode

    def counted(self, data, shape):
        calls.append(shape)
        return decode(self, data, shape)

    monkeypatch.setattr(Chain, "decode", counted)
    return calls


@pytest.mark.parametrize("shards", [None, (8, 16, 32)], ids=["chunks", "shards"])
def test_overlapping_blocks_decode_each_chunk_once(tmp_path, cached, decoded, shards):
    whole = ours(tmp_path / "o", (20, 40, 50), (4, 8, 16), shards)
    source = ArrayTarget(tmp_path / "o").source()
    regions = [
        b.grow(symmetric_depth((2, 3, 3)), whole.shape) for b in Blocks(whole.shape, (8, 16, 32))
    ]
    with ThreadPoolExecutor(4) as pool:
        for region, part in zip(regions, pool.map(source.read, regions), strict=True):
            np.testing.assert_array_equal(part, whole[region.slices])
    assert len(decoded) == 5 * 5 * 4


@pytest.mark.parametrize("codec", ["blosc", "zstd", "none"])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_chunks_in_one_piece_of_a_region_are_decoded_where_they_belong(
    tmp_path, monkeypatch, codec, endian
):
    compressors = {"blosc": BloscCodec(typesize=2), "zstd": ZstdCodec(), "none": None}[codec]
    array = zarr.create_array(
        tmp_path / "a",
        shape=(20, 8, 20),
        chunks=(4, 8, 10),
        dtype="uint16",
        compressors=compressors,
        serializer=BytesCodec(endian=endian),
        fill_value=7,
    )
    whole = pixels((20, 8, 20), "uint16")
    whole[8:12, :, :10] = 7  # a chunk that is not stored
    array[...] = whole
    assert not (tmp_path / "a/c/2/0/0").exists()
    pasted, paste = [], ChunkedSource.paste

    def counted(self, out, region, index, chunk):
        pasted.append(index)
        paste(self, out, region, index, chunk)

    monkeypatch.setattr(ChunkedSource, "paste", counted)
    source = open_source(tmp_path / "a", sparse=True)
    for start, stop, number in [
        ((4, 0, 0), (20, 8, 10), 0),
        ((0, 0, 10), (20, 8, 20), 0),
        ((2, 0, 0), (18, 8, 10), 2),
        ((0, 0, 0), (20, 8, 20), 10),
        ((0, 0, 2), (20, 7, 20), 10),
    ]:
        pasted.clear()
        region = Region(start, stop)
        np.testing.assert_array_equal(source.read(region), whole[region.slices])
        assert len(pasted) == number


def test_a_damaged_chunk_is_found_where_it_is_decoded_in_place(tmp_path):
    ours(tmp_path / "o", (16, 8), (4, 8))
    chunk = tmp_path / "o/0/c/2/0"
    data = bytearray(chunk.read_bytes())
    source = ArrayTarget(tmp_path / "o").source()
    for place in 4, 9, len(data) // 2, -1:
        torn = bytearray(data)
        torn[place] ^= 1
        chunk.write_bytes(torn)
        with pytest.raises(DamagedError, match="cannot be decoded"):
            source.read(source.type.grid.region)
    chunk.unlink()
    with pytest.raises(DamagedError, match="missing"):
        source.read(source.type.grid.region)


def test_without_a_cache_nothing_is_held(tmp_path, decoded):
    whole = ours(tmp_path / "o", (8, 8), (4, 4))
    source = ArrayTarget(tmp_path / "o").source()
    for _ in range(2):
        np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    assert len(decoded) == 8
    assert cache.snapshot().entries == 0


def test_a_region_that_is_a_chunk_is_not_copied(tmp_path, cached):
    ours(tmp_path / "o", (8, 12), (4, 8))
    source = ArrayTarget(tmp_path / "o").source()
    one, two = (source.read(Region((4, 0), (8, 8))) for _ in range(2))
    assert np.shares_memory(one, two)
    assert not one.flags.writeable
    part = source.read(Region((4, 0), (7, 8)))
    assert not np.shares_memory(one, part)
    edge = source.read(Region((4, 8), (8, 12)))
    assert edge.shape == (4, 4)


def test_a_chunk_written_anew_is_read_anew(tmp_path, cached):
    kind = ImageType(Grid.of((4, 8)), np.dtype("uint8"))
    create_scratch(tmp_path / "s", kind, (4, 4))
    target = ArrayTarget(tmp_path / "s", None)
    source = target.source()
    for value in (1, 2):
        target.write(kind.grid.region, np.full((4, 8), value, "uint8"))
        assert (source.read(kind.grid.region) == value).all()


def test_planes_written_anew_are_read_anew(tmp_path, cached):
    for value in (1, 2):
        for i in range(3):
            tifffile.imwrite(tmp_path / f"{i}.tif", np.full((5, 6), value, "uint8"))
            os.utime(tmp_path / f"{i}.tif", (value, value))
        source = open_source(tmp_path)
        assert (source.read(source.type.grid.region) == value).all()


@pytest.mark.parametrize("shards", [None, (8, 8)], ids=["chunks", "shards"])
def test_a_file_of_the_same_size_time_and_inode_is_read_anew(tmp_path, cached, shards):
    """As ``cp -p`` leaves it, which writes into the file that is there."""
    for name, value in (("a", 1), ("b", 2)):
        whole = np.full((8, 8), value, "uint16")
        zarr.create_array(tmp_path / name, data=whole, chunks=(4, 8), shards=shards)
    source = open_source(tmp_path / "a")
    assert (source.read(source.type.grid.region) == 1).all()
    for file in (tmp_path / "a/c").glob("*/*"):
        before = file.stat()
        file.write_bytes((tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = file.stat()
        assert (before.st_size, before.st_ino) == (after.st_size, after.st_ino)
    assert (source.read(source.type.grid.region) == 2).all()


def test_what_was_held_does_not_hide_a_loss(tmp_path, cached):
    ours(tmp_path / "o", (8, 8), (4, 4))
    source = ArrayTarget(tmp_path / "o").source()
    source.read(source.type.grid.region)
    (tmp_path / "o/0/c/1/1").unlink()
    with pytest.raises(DamagedError, match="c/1/1 is missing"):
        source.read(source.type.grid.region)
    (tmp_path / "o").rename(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="gone"):
        source.read(source.type.grid.region)


def test_a_chunk_that_failed_is_tried_again(tmp_path, cached):
    whole = ours(tmp_path / "o", (8, 8), (4, 4))
    source = ArrayTarget(tmp_path / "o").source()
    chunk = tmp_path / "o/0/c/0/1"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:-1])
    with pytest.raises(DamagedError, match=r"o/0: region .* checksum do not match"):
        source.read(source.type.grid.region)
    chunk.write_bytes(good)
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)


def test_a_missing_inner_chunk_of_our_own_is_damage(tmp_path):
    path = tmp_path / "o"
    ours(path, (8, 8), (2, 2), (4, 4))
    zarr.open_array(path / "0", mode="r+")[4:8, 4:8] = 0  # leaves no chunk in that shard
    array = zarr.open_array(path / "0", mode="r+")
    array[4:6, 4:6] = 7
    assert not open_source(path, sparse=True).read(Region((6, 6), (8, 8))).any()
    with pytest.raises(DamagedError, match=r"c/1/1 is missing \(voxels \[6:8, 6:8\]\).*--sparse"):
        open_source(path).read(Region((6, 6), (8, 8)))
    with pytest.raises(DamagedError, match="missing"):
        ArrayTarget(path).source().read(Region((6, 6), (8, 8)))


def test_sources_of_one_array_share_chunks_but_not_what_is_missing(tmp_path, cached):
    kind = ImageType(Grid.of((4, 8)), np.dtype("uint8"))
    create_scratch(tmp_path / "s", kind, (4, 4))
    target = ArrayTarget(tmp_path / "s", None)
    assert not open_source(tmp_path / "s", sparse=True).read(kind.grid.region).any()
    with pytest.raises(DamagedError, match="though it was written"):
        target.source().read(kind.grid.region)
    with pytest.raises(DamagedError, match="--sparse"):
        open_source(tmp_path / "s").read(kind.grid.region)


def test_a_disk_error_is_no_damage(tmp_path):
    ours(tmp_path / "o", (4, 4), (4, 4))
    chunk = tmp_path / "o/0/c/0/0"
    source = ArrayTarget(tmp_path / "o").source()
    chunk.unlink()
    chunk.symlink_to(chunk)
    with pytest.raises(RunError, match="cannot read region") as caught:
        source.read(source.type.grid.region)
    assert not isinstance(caught.value, DamagedError)


def test_pages_and_planes_are_decoded_once(tmp_path, cached, monkeypatch):
    whole = pixels((4, 20, 30))
    tifffile.imwrite(tmp_path / "a.tif", whole, compression="zlib", photometric="minisblack")
    (tmp_path / "planes").mkdir()
    for i, plane in enumerate(whole):
        tifffile.imwrite(tmp_path / f"planes/{i}.tif", plane)
    calls = []
    monkeypatch.setattr(
        "lepton_pipe.store.stack.decode", lambda path: calls.append(path) or decode_plane(path)
    )
    for name in ("a.tif", "planes"):
        source = open_source(tmp_path / name)
        before = cache.snapshot().misses
        for block in Blocks(whole.shape, (2, 10, 10)):
            np.testing.assert_array_equal(source.read(block), whole[block.slices])
        assert cache.snapshot().misses - before == 4
    assert len(calls) == 4


def test_remote_chunks_are_fetched_side_by_side_and_once(cached, monkeypatch):
    whole = pixels((16, 16))
    store = zarr.storage.FsspecStore.from_url("memory://lepton/side.zarr")
    zarr.create_array(store, data=whole, chunks=(4, 4), overwrite=True)
    source = open_source("memory://lepton/side.zarr")
    read, threads, gate = StoreFiles.read, set(), threading.Barrier(8, timeout=PATIENCE)

    def slow(self, *which):
        gate.wait()
        threads.add(threading.get_ident())
        return read(self, *which)

    monkeypatch.setattr(StoreFiles, "read", slow)
    for _ in range(2):
        np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    assert len(threads) == 8
    assert cache.snapshot().held_bytes >= whole.nbytes


def test_a_remote_region_that_only_zarr_reads_is_one_request(monkeypatch):
    whole = pixels((16, 16))
    store = zarr.storage.FsspecStore.from_url("memory://lepton/one.zarr")
    turned = zarr.codecs.TransposeCodec(order=(1, 0))
    zarr.create_array(store, data=whole, chunks=(4, 4), overwrite=True, filters=turned)
    source = open_source("memory://lepton/one.zarr")
    read, asked = ArrayHandle.read, []
    monkeypatch.setattr(
        ArrayHandle, "read", lambda self, which: asked.append(which) or read(self, which)
    )
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    assert len(asked) == 1
