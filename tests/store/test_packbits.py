"""Masks on the way take a bit for each voxel, as zarr's registry of extensions says."""

from __future__ import annotations

import json
import random
from math import prod

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from zarr.codecs import BytesCodec

from lepton_pipe.geometry import Blocks, Grid, Region
from lepton_pipe.geometry.layout import Layout
from lepton_pipe.spec import ImageType
from lepton_pipe.store.codecs import chain_of
from lepton_pipe.store.copying import copyable
from lepton_pipe.store.ome import create_image, create_scratch, scratch_codecs
from lepton_pipe.store.open import open_source
from lepton_pipe.store.packbits import PackBits
from lepton_pipe.store.target import ArrayTarget
from lepton_pipe.store.writers import DirectWriter, open_writer

BOOL = np.dtype(bool)


def mask(shape, often=0.5, seed=0):
    return np.random.default_rng(seed).random(shape) < often


def laid_out(path, shape, chunks):
    create_scratch(path, ImageType(Grid.of(shape), BOOL, "mask"), chunks)
    return path


def plain(path, values, **how):
    """Write an array of bits alone, by zarr-python."""
    made = zarr.create_array(
        path,
        shape=values.shape,
        dtype=BOOL,
        chunks=values.shape,
        serializer=PackBits(),
        compressors=None,
        **how,
    )
    made[...] = values
    return path


def test_the_first_voxel_is_the_lowest_bit_and_zeros_fill_the_last_byte(tmp_path):
    values = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 1, 1], [1, 0, 0, 0, 1]], bool)
    plain(tmp_path / "a", values)
    (file,) = [f for f in (tmp_path / "a" / "c").rglob("*") if f.is_file()]
    bits = sum(int(value) << i for i, value in enumerate(values.reshape(-1)))
    assert file.read_bytes() == bits.to_bytes(2, "little")


@given(
    shape=st.lists(st.integers(1, 13), min_size=1, max_size=4).map(tuple),
    often=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    data=st.data(),
)
@example(shape=(3, 7, 11), often=0.5, data=None)
def test_files_are_those_of_zarr_and_read_back(tmp_path_factory, shape, often, data):
    chunks = tuple(data.draw(st.integers(1, n)) if data else -(-n // 2) for n in shape)
    whole, path = mask(shape, often), tmp_path_factory.mktemp("bits")
    ours, theirs = (laid_out(path / name, shape, chunks) for name in "ab")
    assert isinstance(open_writer(ours), DirectWriter)
    for region in Blocks(shape, chunks):
        ArrayTarget(ours, None).write(region, whole[region.slices])
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(theirs, mode="r+")[...] = whole
    names = sorted(f.relative_to(ours) for f in ours.rglob("*") if f.is_file())
    assert len(names) == len(Blocks(shape, chunks)) + 1
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    read = ArrayTarget(ours, None).source().read(Region.whole(shape))
    assert read.dtype == BOOL
    assert (read == whole).all()
    assert (zarr.open_array(ours, mode="r")[...] == whole).all()


def test_noise_takes_an_eighth_and_blobs_far_less():
    shape = (16, 64, 64)
    codecs = [c.to_dict() for c in scratch_codecs(ImageType(Grid.of(shape), BOOL, "mask"))]
    chain = chain_of(codecs, BOOL)
    blobs = np.kron(mask((2, 4, 4)), np.ones((8, 16, 16), bool)).astype(bool)
    for values, most in ((mask(shape), 1 / 8 + 0.01), (blobs, 1 / 40)):
        pieces = chain.encode_if_it_pays(values)
        assert sum(map(len, pieces)) <= most * values.size
        assert (chain.decode(b"".join(pieces), shape) == values).all()


def test_every_flipped_bit_is_found():
    shape, values = (5, 6, 7), mask((5, 6, 7))
    codecs = [c.to_dict() for c in scratch_codecs(ImageType(Grid.of(shape), BOOL, "mask"))]
    chain = chain_of(codecs, BOOL)
    sound = b"".join(chain.encode(values))
    for number in range(300):
        chosen, torn = random.Random(number), bytearray(sound)  # noqa: S311
        torn[chosen.randrange(len(torn))] ^= 1 << chosen.randrange(8)
        with pytest.raises((ValueError, RuntimeError)):
            chain.decode(bytes(torn), shape)


def test_bits_that_are_too_few_or_too_many_are_refused(tmp_path):
    chain = chain_of([PackBits().to_dict()], BOOL)
    assert chain.decode(bytes(prod((3, 3)) // 8 + 1), (3, 3)).shape == (3, 3)
    for size in (0, 1, 3):
        with pytest.raises(ValueError, match="bytes"):
            chain.decode(bytes(size), (3, 3))


def test_an_input_of_bits_is_read_but_not_taken_over_as_it_is(tmp_path):
    values = mask((9, 10))
    source = open_source(plain(tmp_path / "a", values))
    assert (source.read(Region.whole(values.shape)) == values).all()
    assert copyable(source) is None


def test_results_take_a_byte_for_each_voxel_as_all_readers_know(tmp_path):
    type_ = ImageType(Grid.of((8, 8)), BOOL, "mask")
    create_image(tmp_path / "a", "a", type_, [Layout(type_.grid, (8, 8))])
    codecs = json.loads((tmp_path / "a/0/zarr.json").read_text())["codecs"]
    assert codecs[0]["name"] == "bytes"


@pytest.mark.parametrize("settings", [{"padding_encoding": "first_byte"}, {"first_bit": 1}])
def test_other_settings_are_not_taken_for_ours(settings):
    codec = {"name": "packbits", "configuration": settings}
    assert chain_of([codec], BOOL) is None
    with pytest.raises(ValueError, match="packbits"):
        PackBits.from_dict(codec)
    same = {"name": "packbits", "configuration": {"padding_encoding": "none", "last_bit": None}}
    assert chain_of([same], BOOL) == chain_of([PackBits.from_dict(same).to_dict()], BOOL)


def test_only_booleans_are_packed():
    assert chain_of([PackBits().to_dict()], np.dtype("u1")) is None
    assert chain_of([BytesCodec().to_dict()], BOOL).bits is False
    with pytest.raises(ValueError, match="booleans"):
        zarr.create_array({}, shape=(4,), dtype="u1", serializer=PackBits(), compressors=None)
