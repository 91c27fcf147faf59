"""Broken and malicious inputs: each is refused in our words, in little memory, and never zeros."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError, InputError, LeptonError, RunError
from lepton_pipe.geometry import Region
from lepton_pipe.store import open_source
from tests.command import PATIENCE

OURS = (InputError, DamagedError)
SMALL = np.arange(64 * 64, dtype="u2").reshape(64, 64) % 251


def read_all(path, **how):
    source = open_source(path, **how)
    return source.read(source.type.grid.region)


# -- what claims to be large --------------------------------------------------------------------

# Memory is bounded to what is there after a first image was read, and 256 MiB.
CHILD = """
import resource, sys
from pathlib import Path
from lepton_pipe.store import open_source
from lepton_pipe.geometry import Region
import tifffile, PIL.Image, PIL.JpegImagePlugin

def read(path):
    source = open_source(path)
    source.read(Region((0,) * source.type.grid.ndim, (1,) * source.type.grid.ndim))

for path in sys.argv[1:]:
    if "good" in path:
        read(path)
        continue
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, resource.RLIM_INFINITY))
    try:
        read(path)
        print(Path(path).name, "was read")
    except BaseException as error:
        print(Path(path).name, type(error).__name__, str(error).replace(chr(10), " "))
"""


def zarr_with(path, data, chunks=(64, 64), compressor=None):
    path.mkdir()
    facts = {"zarr_format": 2, "shape": list(chunks), "chunks": list(chunks), "dtype": "|u1"}
    facts |= {"fill_value": 0, "order": "C", "filters": None, "compressor": compressor}
    (path / ".zarray").write_text(json.dumps(facts))
    (path / "0.0").write_bytes(data)


def zarr_bombs(folder):
    many, packed = np.zeros(1 << 29, "u1"), numcodecs.Zstd(1)
    huge = (1 << 20, 1 << 20)
    member = gzip.compress(bytes(1 << 24), 1)
    zarr_with(folder / "zstd", packed.encode(many), compressor={"id": "zstd", "level": 1})
    zarr_with(folder / "gzip", member * 32, compressor={"id": "gzip", "level": 1})
    zarr_with(folder / "zlib", gzip.zlib.compress(many, 1), compressor={"id": "zlib", "level": 1})
    for name in ("zstd", "gzip", "blosc", "lz4"):
        codec = numcodecs.get_codec({"id": name})
        zarr_with(folder / f"huge-{name}", codec.encode(SMALL), huge, codec.get_config())
    zarr_with(folder / "huge-none", SMALL.tobytes(), huge)
    blosc = bytearray(numcodecs.Blosc().encode(SMALL))
    struct.pack_into("<I", blosc, 4, 1 << 30)
    zarr_with(folder / "blosc", blosc, compressor={"id": "blosc"})
    (folder / "long").mkdir()
    with (folder / "long/zarr.json").open("wb") as file:
        file.truncate(1 << 30)
    (folder / "deep").mkdir()
    (folder / "deep/zarr.json").write_text("[" * 1_000_000)


def patched(data, mark, at, value):
    torn = bytearray(data)
    place = torn.index(mark) + at
    torn[place : place + len(value)] = value
    return bytes(torn)


def file_bombs(folder):
    size = struct.pack(">HH", 60_000, 60_000)
    jpeg = imagecodecs.jpeg8_encode(SMALL.astype("u1"))
    (folder / "a.jpg").write_bytes(patched(jpeg, b"\xff\xc0", 5, size))
    png = imagecodecs.png_encode(SMALL.astype("u1"))
    (folder / "a.png").write_bytes(patched(png, b"IHDR", 4, struct.pack(">II", 60_000, 60_000)))
    np.save(folder / "a.npy", SMALL)
    data = (folder / "a.npy").read_bytes()
    (folder / "a.npy").write_bytes(data.replace(b"(64, 64), }    ", b"(1 << 40, 64), }"[:15]))
    (folder / "b.npy").write_bytes(data.replace(b"(64, 64), }          ", b"(6400000000, 64), }  "))
    for name in ("none", "lzw", "zlib", "zstd", "jpeg"):
        path = folder / f"{name}.tif"
        pixels = SMALL.astype("u1" if name == "jpeg" else "u2")
        tifffile.imwrite(path, pixels, compression=None if name == "none" else name)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                tiff.pages[0].tags[tag].overwrite(60_000)
    tifffile.imwrite(folder / "tile.tif", SMALL.astype("u1"), compression="jpeg", tile=(16, 16))
    data = (folder / "tile.tif").read_bytes()
    (folder / "tile.tif").write_bytes(patched(data, b"\xff\xc0", 5, size))
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(12))
    xml = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><OME xmlns="x">&l12;</OME>'
    tifffile.imwrite(folder / "laughs.ome.tif", SMALL, description=xml, metadata=None)
    xml = '<OME><Image><Pixels DimensionOrder="XYCZT" SizeX="64" SizeY="64" SizeC="1" SizeZ="1" '
    xml += 'SizeT="9000000000" Type="uint16"><TiffData PlaneCount="9000000000"/></Pixels>'
    xml += "</Image></OME>"
    tifffile.imwrite(folder / "planes.ome.tif", SMALL, description=xml, metadata=None)


def test_what_claims_to_be_large_takes_no_memory(tmp_path):
    (tmp_path / "bombs").mkdir()
    (tmp_path / "good").mkdir()
    zarr_bombs(tmp_path / "bombs")
    file_bombs(tmp_path / "bombs")
    zarr_with(tmp_path / "good/a", SMALL.astype("u1").tobytes())
    tifffile.imwrite(tmp_path / "good/a.tif", SMALL, compression="lzw")
    (tmp_path / "good/a.jpg").write_bytes(imagecodecs.jpeg8_encode(SMALL.astype("u1")))
    (tmp_path / "good/a.png").write_bytes(imagecodecs.png_encode(SMALL.astype("u1")))
    good, bombs = (sorted(map(str, (tmp_path / n).iterdir())) for n in ("good", "bombs"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *good, *bombs],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = done.stdout.splitlines()
    assert len(told) == len(bombs) == 23, (told, done.stderr)
    wrong = [t for t in told if t.split()[1] not in ("InputError", "DamagedError")]
    assert not wrong


# -- what leads elsewhere, or would be executed -------------------------------------------------


def image_of(folder, path):
    multiscale = {"axes": [{"name": n} for n in "yx"], "datasets": [{"path": path}]}
    return zarr.create_group(folder, attributes={"ome": {"multiscales": [multiscale]}})


@pytest.mark.parametrize(
    "path", ["../secret", "0/../../secret", "{}/secret", "link", "file://x", "s3://b/x"]
)
def test_an_image_cannot_name_what_lies_outside(tmp_path, path):
    zarr.create_array(tmp_path / "secret", data=SMALL)
    image_of(tmp_path / "a", path.format(tmp_path))
    (tmp_path / "a/link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"a: the OME-Zarr metadata names .*outside"):
        open_source(tmp_path / "a")


def test_an_image_may_be_reached_by_a_link_and_have_links_inside(tmp_path):
    image_of(tmp_path / "a", "link").create_array("real", data=SMALL)
    (tmp_path / "a/link").symlink_to("real")
    (tmp_path / "b").symlink_to("a")
    np.testing.assert_array_equal(read_all(tmp_path / "b"), SMALL)


@pytest.mark.parametrize("name", ["../b.ome.tif", "{}/b.ome.tif", "link.ome.tif", "c:\\b.ome.tif"])
def test_ome_tiff_cannot_name_what_lies_outside(tmp_path, name):
    tifffile.imwrite(tmp_path / "b.ome.tif", SMALL, metadata={"axes": "YX"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.ome.tif").symlink_to(tmp_path / "b.ome.tif")
    xml = (
        '<OME UUID="urn:1"><Image><Pixels DimensionOrder="XYCZT" SizeX="64" SizeY="64" SizeC="1" '
        'SizeZ="1" SizeT="1" Type="uint16"><TiffData PlaneCount="1">'
        f'<UUID FileName="{name.format(tmp_path)}">urn:2</UUID></TiffData></Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "in/a.ome.tif", SMALL, description=xml, metadata=None)
    with pytest.raises(InputError, match=r"a\.ome\.tif: its OME-XML names .*outside"):
        open_source(tmp_path / "in/a.ome.tif")


class Pwn:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("where", ["filters", "compressor"])
@pytest.mark.parametrize("dtype", ["|u1", "|O"])
def test_nothing_is_unpickled(tmp_path, where, dtype):
    zarr_with(tmp_path / "a", pickle.dumps(Pwn(tmp_path / "pwned")))
    facts = json.loads((tmp_path / "a/.zarray").read_text()) | {"dtype": dtype}
    facts[where] = [{"id": "pickle"}] if where == "filters" else {"id": "pickle"}
    (tmp_path / "a/.zarray").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"pickle|dtype"):
        read_all(tmp_path / "a")
    np.save(tmp_path / "a.npy", np.array([Pwn(tmp_path / "pwned")]), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_all(tmp_path / "a.npy")
    assert not (tmp_path / "pwned").exists()


# -- what is broken -----------------------------------------------------------------------------

PAGES = np.stack([SMALL + i for i in range(6)])


def stack_of_pages(path, **how):
    tifffile.imwrite(path, PAGES, photometric="minisblack", **{"metadata": None, **how})
    return path.read_bytes()


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_150_cuts_of_a_compressed_stack_are_all_detected(tmp_path, compression):
    path = tmp_path / "a.tif"
    data = stack_of_pages(path, compression=compression)
    for cut in np.linspace(0, len(data) - 1, 150).astype(int):
        path.write_bytes(data[:cut])
        with pytest.raises(OURS) as caught:
            np.testing.assert_array_equal(read_all(path), PAGES)
        assert str(path) in str(caught.value)


def flipped_directory(path):
    data = bytearray(stack_of_pages(path))
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[3].offset
    data[offset : offset + 60] = bytes(b ^ 0xFF for b in data[offset : offset + 60])
    path.write_bytes(data)


def garbage(compression, dtype="u2"):
    def make(path):
        tifffile.imwrite(path, SMALL.astype(dtype), compression=compression, metadata=None)
        with tifffile.TiffFile(path) as tiff:
            at, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        data = bytearray(path.read_bytes())
        data[at : at + size] = np.random.default_rng(1).bytes(size)
        path.write_bytes(data)

    return make


def too_few_pages(path):
    tifffile.imwrite(path, PAGES, imagej=True)
    path.write_bytes(path.read_bytes().replace(b"images=6", b"images=9"))


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a picture"),
    "a folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "unreadable link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "directory": flipped_directory,
    "lzw": garbage("lzw"),
    "zlib": garbage("zlib"),
    "jpeg": garbage("jpeg", "u1"),
    "pages": too_few_pages,
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "header only": lambda path: path.write_bytes(b"II*\0\x08\0\0\0"),
    "circle": lambda path: path.write_bytes(b"II*\0\x08\0\0\0" + b"\0\0\x08\0\0\0"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_what_is_wrong(tmp_path, kind):
    path = tmp_path / "a.tif"
    BROKEN[kind](path)
    with pytest.raises(OURS) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [SMALL[:-1], SMALL.astype("f4"), np.stack([SMALL, SMALL])])
def test_a_plane_that_is_unlike_the_others(tmp_path, other):
    for i, plane in enumerate([SMALL, SMALL, other]):
        tifffile.imwrite(tmp_path / f"{i}.tif", plane, metadata=None)
    with pytest.raises(InputError, match=r"2\.tif"):
        read_all(tmp_path)


# -- what is flipped at random ------------------------------------------------------------------

flips = st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=4)


def flipped(data, places):
    torn = bytearray(data)
    for place, by in places:
        torn[int(place * len(torn))] ^= by
    return bytes(torn)


def error_or_shape(path, shape, dtype=None):
    """Read; what comes must be of the shape that the file tells now, or an error of ours."""
    try:
        source = open_source(path)
        if source.type.grid.size > 1 << 24:  # believed as far as a plan goes, which is small here
            return
        array = source.read(source.type.grid.region)
    except LeptonError as error:
        assert str(path) in str(error) or isinstance(error, RunError)  # noqa: PT017
        return
    assert array.shape == source.type.grid.shape
    if shape is not None:
        assert (array.shape, array.dtype) == (shape, dtype)


CODECS = {
    "none": None,
    "zstd": zarr.codecs.ZstdCodec(),
    "blosc": zarr.codecs.BloscCodec(),
    "gzip": zarr.codecs.GzipCodec(),
    "both": [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()],
}


@settings(max_examples=150, deadline=None)
@given(
    codec=st.sampled_from(sorted(CODECS)), sharded=st.booleans(), places=flips, cut=st.booleans()
)
def test_flips_in_chunks(tmp_path_factory, codec, sharded, places, cut):
    path = tmp_path_factory.mktemp("a") / "a"
    shards = (64, 64) if sharded else None
    zarr.create_array(path, data=SMALL, chunks=(32, 32), shards=shards, compressors=CODECS[codec])
    chunk = path / "c/0/0"
    torn = flipped(chunk.read_bytes(), places)
    chunk.write_bytes(torn[:-3] if cut else torn)
    error_or_shape(path, SMALL.shape, SMALL.dtype)


@settings(max_examples=100, deadline=None)
@given(places=flips)
def test_flips_in_metadata(tmp_path_factory, places):
    path = tmp_path_factory.mktemp("a") / "a"
    zarr.create_array(path, data=SMALL, chunks=(32, 32))
    metadata = path / "zarr.json"
    metadata.write_bytes(flipped(metadata.read_bytes(), places))
    error_or_shape(path, None)


@settings(max_examples=150, deadline=None)
@given(
    places=flips,
    how=st.sampled_from(
        [{}, {"compression": "lzw"}, {"compression": "zlib", "tile": (32, 32)}, {"imagej": True}]
    ),
)
def test_flips_in_tiff(tmp_path_factory, places, how):
    path = tmp_path_factory.mktemp("a") / "a.tif"
    data = stack_of_pages(path, **({**how, "metadata": {}} if "imagej" in how else how))
    if "compression" not in how:  # most of it would be pixels, in which any value is right
        places = [(place * 2000 / len(data), by) for place, by in places]
    path.write_bytes(flipped(data, places))
    error_or_shape(path, None)


def test_a_wrong_checksum_is_damage(tmp_path):
    checked = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    zarr.create_array(tmp_path / "a", data=SMALL, chunks=(64, 64), compressors=checked)
    chunk = tmp_path / "a/c/0/0"
    data = chunk.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 40)):
        chunk.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedError, match="checksum"):
            open_source(tmp_path / "a").read(Region((0, 0), (1, 1)))
