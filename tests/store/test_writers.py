"""Chunks encoded by us are the chunks that zarr would write."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.geometry import Blocks, Grid, Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import (
    ArrayTarget,
    Layout,
    create_image,
    create_scratch,
    durable,
    open_source,
)
from lepton_pipe.store.checksums import FileSum
from lepton_pipe.store.durable import write_whole
from lepton_pipe.store.shards import morton_order
from lepton_pipe.store.writers import DirectWriter, ZarrWriter, open_writer
from lepton_pipe.store.zarr_chunks import ArrayHandle
from tests.store.conftest import pixels

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "?"]


def _files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _by_zarr(path, whole):
    """Write `whole` to the array at `path` by zarr-python alone, and return all files."""
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(path, mode="r+")[...] = whole
    return _files(path)


def _spec(path):
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}


@st.composite
def _layouts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 15), min_size=1, max_size=5)))
    chunks = tuple(draw(st.integers(1, 9)) for _ in shape)
    many = tuple(draw(st.integers(1, 3)) for _ in shape)
    shards = tuple(c * m for c, m in zip(chunks, many, strict=True))
    return shape, chunks, draw(st.sampled_from([None, shards]))


@settings(max_examples=25, deadline=None)
@given(layout=_layouts(), dtype=st.sampled_from(DTYPES), how=st.sampled_from(["result", "scratch"]))
def test_files_are_those_of_zarr(tmp_path_factory, layout, dtype, how):
    shape, chunks, shards = layout
    whole = pixels(shape, dtype)
    kind = ImageType(Grid.of(shape, "tczyx"[-len(shape) :]), whole.dtype)
    path = tmp_path_factory.mktemp("same")
    for name in "ab":
        if how == "scratch":
            create_scratch(path / name / "0", kind, chunks)
        else:
            create_image(path / name, "same", kind, [Layout(kind.grid, chunks, shards)])
    unit = (shards if how == "result" else None) or chunks
    writer = open_writer(path / "a/0")
    assert isinstance(writer, DirectWriter)
    for number, region in enumerate(Blocks(shape, unit)):
        (written,) = ArrayTarget(path / "a").write(region, whole[region.slices])
        position = Blocks(shape, unit).position(number)
        stored = (path / "a/0" / writer.storage.key(position)).read_bytes()
        assert written == (number, len(stored), FileSum.of(stored).crc)
    assert _files(path / "a/0") == _by_zarr(path / "b/0", whole)
    np.testing.assert_array_equal(tensorstore.open(_spec(path / "a/0")).result()[...], whole)


CODECS = {
    "none": None,
    "zstd": zarr.codecs.ZstdCodec(level=1),
    "zstd with checksum": [
        zarr.codecs.ZstdCodec(level=3, checksum=True),
        zarr.codecs.Crc32cCodec(),
    ],
    "blosc": zarr.codecs.BloscCodec(cname="lz4hc", clevel=3, shuffle="noshuffle"),
    "blosc of bytes": zarr.codecs.BloscCodec(cname="zlib", typesize=1, shuffle="bitshuffle"),
    "checksum alone": [zarr.codecs.Crc32cCodec()],
}


@pytest.mark.parametrize("shards", [None, (4, 8)], ids=["chunks", "shards"])
@pytest.mark.parametrize("fill", [0, 7])
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("codecs", CODECS)
def test_other_chains_and_fill_values_too(tmp_path, codecs, endian, fill, shards):
    whole = pixels((9, 13), "i4")
    for name in "ab":
        zarr.create_array(
            tmp_path / name,
            shape=whole.shape,
            chunks=(2, 4),
            shards=shards,
            dtype="i4",
            fill_value=fill,
            compressors=CODECS[codecs],
            serializer=zarr.codecs.BytesCodec(endian=endian),
        )
    writer = open_writer(tmp_path / "a")
    assert isinstance(writer, DirectWriter)
    writer.write(Region.whole(whole.shape), whole[:, ::-1].copy()[:, ::-1])
    assert _files(tmp_path / "a") == _by_zarr(tmp_path / "b", whole)


@pytest.mark.parametrize(
    "how",
    [
        {"compressors": zarr.codecs.GzipCodec()},
        {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()]},
        {"zarr_format": 2},
    ],
    ids=["gzip", "transpose", "two compressors", "v2"],
)
def test_what_is_not_understood_goes_through_zarr(tmp_path, how):
    whole = pixels((9, 13), "i4")
    zarr.create_array(tmp_path / "a", shape=whole.shape, chunks=(2, 4), dtype="i4", **how)
    writer = open_writer(tmp_path / "a")
    assert isinstance(writer, ZarrWriter)
    assert (writer.shape, writer.unit, writer.dtype) == ((9, 13), (2, 4), np.dtype("i4"))
    writer.write(Region((0, 0), (8, 8)), whole[:8, :8])
    written = writer.write(Region((8, 0), (9, 13)), whole[8:])
    assert [w.unit for w in written] == [16, 17, 18, 19]
    files = _files(tmp_path / "a")
    assert {(w.size, w.crc) for w in written} <= {
        (len(stored), FileSum.of(stored).crc) for stored in files.values()
    }
    read = zarr.open_array(tmp_path / "a")[...]
    np.testing.assert_array_equal(read[:8, :8], whole[:8, :8])
    np.testing.assert_array_equal(read[8:], whole[8:])


def test_an_index_at_the_start_of_shards(tmp_path):
    whole = pixels((9, 13), "u2")
    for name in "ab":
        inner = zarr.codecs.ShardingCodec(
            chunk_shape=(2, 4),
            codecs=[zarr.codecs.BytesCodec(), zarr.codecs.BloscCodec(typesize=2)],
            index_location="start",
        )
        zarr.create_array(
            tmp_path / name,
            shape=whole.shape,
            chunks=(4, 8),
            dtype="u2",
            serializer=inner,
            compressors=None,
        )
    writer = open_writer(tmp_path / "a")
    assert isinstance(writer, DirectWriter)
    writer.write(Region.whole(whole.shape), whole)
    assert _files(tmp_path / "a") == _by_zarr(tmp_path / "b", whole)
    assert ArrayHandle(str(tmp_path / "a")).direct is not None
    read = open_source(tmp_path / "a").read(Region((1, 2), (9, 12)))
    np.testing.assert_array_equal(read, whole[1:9, 2:12])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
def test_a_morton_curve_passes_everywhere_once(counts):
    order = morton_order(counts)
    assert sorted(order) == list(np.ndindex(*counts))
    assert order[0] == (0,) * len(counts)


def test_a_thread_reuses_its_buffer_and_shares_it_with_none(tmp_path):
    """Edge chunks of two dtypes and sizes at once, all through the buffers of the threads."""
    kinds = {"a": ("u2", (6, 7)), "b": ("f8", (5, 4)), "c": ("u1", (9, 9))}
    wholes = {name: pixels((23, 29), dtype) for name, (dtype, _) in kinds.items()}
    for name, (dtype, chunks) in kinds.items():
        create_scratch(tmp_path / name, ImageType(Grid.of((23, 29)), np.dtype(dtype)), chunks)

    def write(job):
        name, region = job
        ArrayTarget(tmp_path / name, None).write(region, wholes[name][region.slices])

    jobs = [(n, r) for n, (_, chunks) in kinds.items() for r in Blocks((23, 29), chunks)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, jobs))
    for name, whole in wholes.items():
        np.testing.assert_array_equal(zarr.open_array(tmp_path / name)[...], whole)


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    write_whole(tmp_path / "deep/er/file", [b"ab", memoryview(b"cd"), b""])
    assert (tmp_path / "deep/er/file").read_bytes() == b"abcd"
    with pytest.raises(TypeError):
        write_whole(tmp_path / "deep/er/file", [b"xy", "text"])
    assert (tmp_path / "deep/er/file").read_bytes() == b"abcd"
    assert len(list((tmp_path / "deep/er").iterdir())) == 1


def test_a_folder_that_has_gone_is_not_made_again(tmp_path):
    gone = tmp_path / "run"
    with pytest.raises(FileNotFoundError):
        write_whole(gone / "array/c/0", [b"ab"], within=gone / "array")
    assert not gone.exists()
    (gone / "array").mkdir(parents=True)
    assert write_whole(gone / "array/c/0", [b"ab"], within=gone / "array")[0] == 2


def test_writing_begins_early_and_never_matters(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(durable, "_sync_file_range", lambda: lambda *args: asked.append(args) or -1)
    large = bytes(1 << 20)
    write_whole(tmp_path / "small", [b"abc"])
    write_whole(tmp_path / "file", [large])
    assert [args[1:] for args in asked] == [(0, 0, 2)]
    monkeypatch.setattr(durable, "_sync_file_range", lambda: None)
    write_whole(tmp_path / "other", [large])
    assert (tmp_path / "other").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode: opened(Path("/dev/full") if mode == "wb" else self, mode)
    )
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", [os.urandom(1 << 16)])
    assert list(tmp_path.iterdir()) == []
