"""Folders and patterns of planes."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from lepton_pipe.errors import DamagedError, InputError, RunError
from lepton_pipe.geometry import Region
from lepton_pipe.store import open_source
from lepton_pipe.store.stack import natural_key
from tests.store.conftest import pixels


def _png(path, plane):
    path.write_bytes(imagecodecs.png_encode(plane))


def _stack(folder, whole, name="img{}.png"):
    for i, plane in enumerate(whole):
        _png(folder / name.format(i), plane)


def test_natural_order():
    names = ["img10.png", "img2.png", "img1.png", "a/img1.png", "img.png"]
    assert sorted(names, key=natural_key) == [
        "a/img1.png",
        "img1.png",
        "img2.png",
        "img10.png",
        "img.png",
    ]


def test_a_stack_lies_along_z_and_may_lie_along_t_or_c(tmp_path):
    whole = pixels((11, 8, 9))
    _stack(tmp_path, whole)
    for axes in (None, "zyx", "tyx", "cyx"):
        source = open_source(tmp_path, axes=axes, scale={"y": 0.5, "x": 0.5}, unit="um")
        assert source.type.grid.axes == tuple(axes or "zyx")
        assert source.type.grid.scale == (1, 0.5, 0.5)
        assert source.chunks == (1, 8, 9)
        np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    with pytest.raises(InputError, match="'tczyx' do not fit planes"):
        open_source(tmp_path, axes="tczyx")


def test_colour_planes(tmp_path):
    whole = pixels((4, 8, 9, 3))
    _stack(tmp_path, whole)
    source = open_source(tmp_path, axes="tcyx")
    expected = whole.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(source.read(source.type.grid.region), expected)
    assert source.type.grid.axes == tuple("tcyx")
    part = Region((1, 1, 2, 3), (3, 2, 7, 5))
    np.testing.assert_array_equal(source.read(part), expected[part.slices])


def test_jpeg(tmp_path):
    whole = np.tile(np.arange(0, 200, 8, dtype="uint8"), (3, 20, 1))
    for i, plane in enumerate(whole):
        Image.fromarray(plane).save(tmp_path / f"{i}.jpg", quality=95)
    source = open_source(tmp_path)
    read = source.read(source.type.grid.region)
    assert read.shape == whole.shape
    assert np.abs(read.astype(int) - whole).max() <= 6
    first = tmp_path / "0.jpg"
    first.write_bytes(first.read_bytes()[:-30])
    with pytest.raises(DamagedError, match=r"0\.jpg: the JPEG file is cut off"):
        source.read(source.type.grid.region)


def test_folder_of_one_and_single_file(tmp_path):
    _stack(tmp_path, pixels((1, 8, 9)))
    assert open_source(tmp_path).type.grid.axes == tuple("zyx")
    assert open_source(tmp_path / "img0.png").type.grid.axes == tuple("yx")
    assert open_source(f"{tmp_path}/*.png").type.grid.axes == tuple("yx")
    with pytest.raises(InputError, match="not zyx"):
        open_source(tmp_path / "img0.png", axes="zyx")


def test_other_files_in_the_folder_are_left_out(tmp_path):
    _stack(tmp_path, pixels((2, 8, 9)))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._img0.png").write_text("what a Mac leaves behind")
    assert open_source(tmp_path).type.grid.shape == (2, 8, 9)


def test_unequal_planes(tmp_path):
    _stack(tmp_path, pixels((3, 8, 9)))
    _png(tmp_path / "img3.png", pixels((8, 10)))
    with pytest.raises(InputError, match=r"img3\.png: is uint16 of 8 x 10, but img0\.png"):
        open_source(tmp_path)
    _png(tmp_path / "img3.png", pixels((8, 9), "uint8"))
    with pytest.raises(InputError, match=r"img3\.png: is uint8"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jpeg", "a.tif"])
def test_text_called_an_image(tmp_path, name):
    for i in (0, 1):
        (tmp_path / f"{i}{name}").write_text("this is not a picture, whatever its name says")
    with pytest.raises(InputError, match=rf"0{name}: cannot be read as"):
        open_source(tmp_path)


def test_folders_that_are_no_stack(tmp_path):
    with pytest.raises(InputError, match="without TIFF, PNG or JPEG"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="no file matches"):
        open_source(tmp_path / "*.tif")
    _stack(tmp_path, pixels((2, 8, 9)))
    tifffile.imwrite(tmp_path / "a.tif", pixels((8, 9)))
    with pytest.raises(InputError, match="several kinds"):
        open_source(tmp_path)
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(InputError, match=r"a\.xyz: is not a TIFF"):
        open_source(f"{tmp_path}/a.*")
    with pytest.raises(InputError, match="no scale level 2"):
        open_source(f"{tmp_path}/*.png", level=2)


def test_volumes_do_not_stack(tmp_path):
    for i in (0, 1):
        tifffile.imwrite(tmp_path / f"{i}.tif", pixels((5, 8, 9)), photometric="minisblack")
    with pytest.raises(InputError, match=r"0\.tif: holds 5 pages"):
        open_source(tmp_path)


def test_a_truncated_tiff_plane_is_refused(tmp_path):
    for i in (0, 1):
        tifffile.imwrite(tmp_path / f"{i}.tif", pixels((40, 40)), compression="zlib")
    data = (tmp_path / "1.tif").read_bytes()
    (tmp_path / "1.tif").write_bytes(data[:-100])
    with pytest.raises(InputError, match=r"1\.tif: is cut off"):
        open_source(tmp_path)


def test_what_changes_or_goes_after_opening(tmp_path):
    _stack(tmp_path, pixels((3, 8, 9)))
    source = open_source(tmp_path)
    before = source.identity()
    _png(tmp_path / "img1.png", pixels((8, 12)))
    assert source.identity() != before
    with pytest.raises(DamagedError, match=r"img1\.png: is uint16 of \(8, 12\) now"):
        source.read(source.type.grid.region)
    data = (tmp_path / "img2.png").read_bytes()
    (tmp_path / "img2.png").write_bytes(data[:60])
    with pytest.raises(DamagedError, match=r"img2\.png: cannot be decoded"):
        source.read(Region((2, 0, 0), (3, 1, 1)))
    (tmp_path / "img2.png").unlink()
    with pytest.raises(RunError, match=r"img2\.png"):
        source.read(Region((2, 0, 0), (3, 1, 1)))


def test_planar_colour_tiff(tmp_path):
    whole = pixels((2, 3, 8, 9), "uint8")
    for i, plane in enumerate(whole):
        tifffile.imwrite(
            tmp_path / f"{i}.tif", plane, photometric="rgb", planarconfig="separate", byteorder=">"
        )
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole.transpose(1, 0, 2, 3))
