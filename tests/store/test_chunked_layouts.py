"""Chunks of every layout and codec, read as zarr reads them; headers and indices that lie."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError
from lepton_pipe.geometry import Region
from lepton_pipe.store import ArrayTarget, open_source
from lepton_pipe.store.zarr_chunks import ArrayHandle
from tests.store.conftest import ours, pixels

COMPRESSORS = {
    "none": None,
    "zstd": zarr.codecs.ZstdCodec(),
    "blosc": zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle"),
    "checked": [zarr.codecs.BloscCodec(cname="zlib", typesize=1), zarr.codecs.Crc32cCodec()],
    "gzip": zarr.codecs.GzipCodec(),
    "both": [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()],
}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_direct_chunks_equal_those_of_zarr(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4), "shape"))
    chunks = tuple(data.draw(st.integers(1, 6)) for _ in shape)
    many = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    shards = data.draw(
        st.sampled_from([None, tuple(c * m for c, m in zip(chunks, many, strict=True))])
    )
    name = data.draw(st.sampled_from(sorted(COMPRESSORS)), "codec")
    dtype = data.draw(st.sampled_from(["u1", "i2", "u4", "i8", "f2", "f8", "?"]), "dtype")
    fill = data.draw(st.sampled_from([0, 1]), "fill")
    path = tmp_path_factory.mktemp("any")
    array = zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        fill_value=np.dtype(dtype).type(fill),
        compressors=COMPRESSORS[name],
        serializer=zarr.codecs.BytesCodec(endian=data.draw(st.sampled_from(["little", "big"]))),
    )
    written = tuple(slice(0, data.draw(st.integers(1, n))) for n in shape)
    whole = np.full(shape, fill, dtype)
    whole[written] = array[written] = pixels(shape, dtype)[written]
    handle = ArrayHandle(str(path), "fill")
    assert (handle.direct is None) == (name == "both")
    for index in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True))):
        cut = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        expected = whole[cut]
        np.testing.assert_array_equal(handle.read(cut), expected)
        if handle.direct is not None:
            chunk = handle.direct.chunk(index)
            assert chunk.shape == chunks
            assert not chunk.flags.writeable
            np.testing.assert_array_equal(chunk[tuple(map(slice, expected.shape))], expected)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("fill", [None, 3])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "|u1"])
@pytest.mark.parametrize("codec", ["blosc", "zstd", "none", "zlib", "gzip", "lz4", "bz2", "lzma"])
def test_version_2_too(tmp_path, codec, dtype, fill, order):
    import numcodecs

    made = {
        "blosc": numcodecs.Blosc("zstd", 1, -1),
        "zstd": numcodecs.Zstd(1),
        "none": None,
        "zlib": numcodecs.Zlib(),
        "gzip": numcodecs.GZip(),
        "lz4": numcodecs.LZ4(),
        "bz2": numcodecs.BZ2(),
        "lzma": numcodecs.LZMA(),
    }
    whole = pixels((9, 13), dtype)
    array = zarr.create_array(
        tmp_path / "a",
        shape=whole.shape,
        chunks=(4, 5),
        dtype=dtype,
        zarr_format=2,
        fill_value=fill,
        order=order,
        compressors=made[codec],
    )
    array[...] = whole
    (tmp_path / "a/1.1").unlink()
    whole[4:8, 5:10] = fill or 0
    source = open_source(tmp_path / "a", sparse=True)
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    direct = ArrayHandle(str(tmp_path / "a")).direct
    assert (direct is not None) == (codec != "lzma" and order == "C")


def test_axes_of_length_one_in_larger_chunks_are_dropped(tmp_path):
    whole = pixels((1, 9, 1, 13))
    zarr.create_array(
        tmp_path / "a",
        data=whole,
        chunks=(3, 4, 2, 5),
        dimension_names=("sample", "y", "other", "x"),
    )
    source = open_source(tmp_path / "a")
    assert source.type.grid.axes == ("y", "x")
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole[0, :, 0])


@pytest.mark.parametrize("at", [4, 12])
def test_a_blosc_header_that_lies_takes_no_memory(tmp_path, at):
    """Without a checksum, as most arrays are."""
    zarr.create_array(
        tmp_path / "a", data=pixels((8, 8)), chunks=(8, 8), compressors=zarr.codecs.BloscCodec()
    )
    chunk = tmp_path / "a/c/0/0"
    stored = bytearray(chunk.read_bytes())
    stored[at : at + 4] = (2**31 - 100).to_bytes(4, "little")
    chunk.write_bytes(stored)
    with pytest.raises(DamagedError, match="header that lies"):
        open_source(tmp_path / "a").read(Region((0, 0), (8, 8)))


def test_a_shard_whose_index_points_elsewhere_is_damage(tmp_path):
    ours(tmp_path / "o", (8, 8), (2, 2), (4, 4))
    shard = tmp_path / "o/0/c/0/0"
    shard.write_bytes(shard.read_bytes()[40:])
    with pytest.raises(DamagedError):
        ArrayTarget(tmp_path / "o").source().read(Region((0, 0), (8, 8)))
