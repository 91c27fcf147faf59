"""The quick way into plain TIFF files gives what tifffile gives, or nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import DamagedError, InputError
from lepton_pipe.geometry import Region
from lepton_pipe.store import open_source
from lepton_pipe.store.planes import read_header
from lepton_pipe.store.tiff_plane import plain_page, plain_pixels
from tests.store.conftest import pixels


def _agrees(path):
    """Compare both ways into a file, and tell whether the quick one was taken."""
    page, quick = plain_page(path), plain_pixels(path)
    if page is None:
        assert quick is None
        return False
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        assert len(tiff.pages) == 1
        assert (first.shape, first.axes) == (page.shape, "YX")
        assert np.dtype(first.dtype) == page.dtype.newbyteorder("=")
        if quick is not None:
            slow = first.asarray()
            assert quick.dtype == slow.dtype
            np.testing.assert_array_equal(quick, slow)
    return quick is not None


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_plain_files_are_read_as_tifffile_reads_them(tmp_path_factory, data):
    dtype = data.draw(st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i8", "f2", "f4", "f8"]))
    shape = (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
    compression = data.draw(st.sampled_from([None, "zlib"]))
    predictor = (
        compression is not None and dtype[0] != "f" and dtype[1] != "8" and data.draw(st.booleans())
    )
    path = tmp_path_factory.mktemp("plain") / "a.tif"
    tifffile.imwrite(
        path,
        pixels(shape, dtype),
        byteorder=data.draw(st.sampled_from("<>")),
        compression=compression,
        predictor=predictor,
        rowsperstrip=data.draw(st.integers(1, 50)),
        photometric=data.draw(st.sampled_from(["minisblack", "miniswhite"])),
        description=data.draw(st.sampled_from([None, "text", "x" * 5000])),
        metadata=data.draw(st.sampled_from([None, {}, {"note": "y" * 9000}])),
        resolution=(1.5, 2.5),
    )
    assert _agrees(path)


OTHERS = {
    "rgb": {"data": pixels((8, 9, 3), "u1"), "photometric": "rgb"},
    "planar": {"data": pixels((3, 8, 9), "u1"), "photometric": "rgb", "planarconfig": "separate"},
    "pages": {"data": pixels((2, 8, 9), "u1"), "photometric": "minisblack"},
    "tiles": {"data": pixels((20, 20)), "tile": (16, 16)},
    "big": {"data": pixels((8, 9)), "bigtiff": True},
    "lzw": {"data": pixels((8, 9)), "compression": "lzw"},
    "zstd": {"data": pixels((8, 9)), "compression": "zstd"},
    "bits": {"data": pixels((8, 9), "?")},
    "float predictor": {"data": pixels((8, 9), "f4"), "compression": "zlib", "predictor": 3},
    "volume": {"data": pixels((16, 32, 32)), "volumetric": True, "tile": (16, 16, 16)},
    "palette": {
        "data": pixels((8, 9), "u1"),
        "photometric": "palette",
        "colormap": np.zeros((3, 256), "u2"),
    },
    "private tag": {"data": pixels((8, 9)), "extratags": [(33628, 4, 1, 7, True)]},
    "sub-images": {"data": pixels((8, 9)), "subifds": 1},
    "reduced": {"data": pixels((8, 9)), "subfiletype": 1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_file_is_left_to_tifffile(tmp_path, name):
    how = dict(OTHERS[name])
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=how.pop("bigtiff", False)) as writer:
        data = how.pop("data")
        writer.write(data, **how)
        if name == "sub-images":
            writer.write(data[::2, ::2], subfiletype=1)
    assert plain_page(tmp_path / "a.tif") is None
    assert plain_pixels(tmp_path / "a.tif") is None


def test_imagej_and_ome_planes_are_plain(tmp_path):
    for name, how in {"a.tif": {"imagej": True}, "b.ome.tif": {"ome": True}}.items():
        tifffile.imwrite(tmp_path / name, pixels((8, 9)), **how)
        assert _agrees(tmp_path / name)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_off_anywhere(tmp_path, compression):
    whole, path = pixels((12, 9)), tmp_path / "a.tif"
    kept = io.BytesIO()
    tifffile.imwrite(kept, whole, compression=compression, rowsperstrip=5, metadata=None)
    for size in range(len(kept.getvalue())):
        path.write_bytes(kept.getvalue()[:size])
        assert plain_page(path) is None
        assert plain_pixels(path) is None
        with pytest.raises(InputError):
            read_header(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_flipped_bits_give_what_tifffile_makes_of_them_or_nothing(tmp_path, compression):
    kept, path = io.BytesIO(), tmp_path / "a.tif"
    tifffile.imwrite(kept, pixels((12, 9)), compression=compression, rowsperstrip=5, metadata=None)
    good, quick = kept.getvalue(), 0
    for bit in range(0, len(good) * 8, 7):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        quick += _agrees(path)
    assert quick > 10


def test_strips_that_hold_too_little_are_damage(tmp_path):
    """The directory is whole; what it leads to is not."""
    for i in range(2):
        tifffile.imwrite(tmp_path / f"{i}.tif", pixels((12, 9)), compression="zlib", metadata=None)
    source = open_source(tmp_path)
    page = plain_page(tmp_path / "1.tif")
    data = bytearray((tmp_path / "1.tif").read_bytes())
    start = page.offsets[0] + 4
    data[start : start + 20] = bytes(20)
    (tmp_path / "1.tif").write_bytes(data)
    with pytest.raises(DamagedError, match=r"1\.tif: cannot be decoded"):
        source.read(Region((1, 0, 0), (2, 12, 9)))
