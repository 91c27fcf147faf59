"""An output that is an input as it is stored takes over its chunks, byte for byte."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import lepton_pipe as lp
from lepton_pipe.errors import InputError, LeptonError, WriteError
from lepton_pipe.kernels import gaussian

IMAGE = np.random.default_rng(0).integers(0, 900, (40, 70, 90)).astype(np.uint16)


@lp.pipeline
def keep(raw: lp.Image):
    """Keep the image, and something that needs its neighbourhood."""
    return {"image": raw, "again": raw, "smooth": gaussian(raw, 1.5)}


def stored(path, codec, chunks=(20, 48, 48)):
    array = zarr.create_array(
        str(path), shape=IMAGE.shape, chunks=chunks, dtype="u2", compressors=codec, fill_value=7
    )
    array[:] = IMAGE
    return path


def chunk(path):
    return (path / "c" / "1" / "1" / "0").read_bytes()


@pytest.mark.parametrize("options", [{"serial": True}, {"workers": 1, "threads": 2}])
@pytest.mark.parametrize("codec", [BloscCodec(cname="zstd", clevel=5), ZstdCodec(level=3)])
def test_chunks_are_taken_over_with_a_checksum(tmp_path, codec, options):
    path = stored(tmp_path / "raw.zarr", codec)
    keep.plan(raw=path, out=tmp_path / "out", **options).run(progress=False)
    for name in ("image", "again"):
        made = tmp_path / "out" / name / "0"
        assert chunk(made)[:-4] == chunk(path)
        np.testing.assert_array_equal(zarr.open_array(made)[:], IMAGE)
    coarse = zarr.open_array(tmp_path / "out" / "smooth" / "0")[:]
    np.testing.assert_array_equal(coarse, gaussian(IMAGE, 1.5))


@pytest.mark.parametrize(
    "case",
    [{"codec": GzipCodec()}, {"codec": None, "chunks": (10, 48, 48), "wanted": "z=20"}],
)
def test_what_cannot_be_taken_over_is_encoded(tmp_path, case):
    path = stored(tmp_path / "raw.zarr", case["codec"], case.get("chunks", (20, 48, 48)))
    plan = keep.plan(raw=path, out=tmp_path / "out", chunks=case.get("wanted"), serial=True)
    plan.run(progress=False)
    made = zarr.open_array(tmp_path / "out" / "image" / "0")
    assert isinstance(made.metadata.codecs[1], BloscCodec)
    np.testing.assert_array_equal(made[:], IMAGE)


def test_a_chunk_that_does_not_decode_is_not_copied(tmp_path):
    path = stored(tmp_path / "raw.zarr", ZstdCodec())
    broken = path / "c" / "1" / "1" / "0"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(LeptonError, match=r"cannot be decoded|damaged"):
        keep.plan(raw=path, out=tmp_path / "out", serial=True).run(progress=False)
    assert not (tmp_path / "out").exists()


def test_a_chunk_that_is_not_there_is_refused_or_written_as_fill_values(tmp_path):
    path = stored(tmp_path / "raw.zarr", ZstdCodec())
    (path / "c" / "1" / "1" / "0").unlink()
    with pytest.raises(InputError, match=r"1 of 8 chunk files are missing, such as c/1/1/0\."):
        keep.plan(raw=path, out=tmp_path / "out", serial=True)
    keep.plan(raw=path, out=tmp_path / "out", serial=True, sparse=True).run(progress=False)
    made = zarr.open_array(tmp_path / "out" / "image" / "0")[:]
    assert (made[20:40, 48:, :48] == 7).all()
    np.testing.assert_array_equal(made[:20], IMAGE[:20])


def test_a_disk_that_is_full_is_not_told_as_an_input_that_cannot_be_read(tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = keep.plan(
        raw=stored(tmp_path / "raw.zarr", ZstdCodec()), out=tmp_path / "out", serial=True
    )
    monkeypatch.setattr("lepton_pipe.store.writers.DirectWriter.put", full)
    with pytest.raises(WriteError, match="make room there, then type the same") as raised:
        plan.run(progress=False)
    assert "read for" not in str(raised.value)
