"""TIFF: axes, voxel sizes, pyramids, and files that were cut off."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from lepton_pipe.errors import DamagedError, InputError
from lepton_pipe.geometry import Region
from lepton_pipe.store import open_source
from tests.store.conftest import pixels


def _read(source):
    return source.read(source.type.grid.region)


def test_ome_voxel_sizes(tmp_path):
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "TZYX",
        "PhysicalSizeX": 0.1,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.2,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 500,
        "PhysicalSizeZUnit": "nm",
        "TimeIncrement": 2.5,
        "TimeIncrementUnit": "min",
    }
    tifffile.imwrite(path, pixels((2, 3, 20, 30)), ome=True, metadata=metadata)
    grid = open_source(path).type.grid
    assert grid.scale == (2.5, 500, 0.2, 0.1)
    assert grid.unit == ("minute", "nanometer", "micrometer", "micrometer")


def test_imagej_voxel_sizes(tmp_path):
    path = tmp_path / "a.tif"
    metadata = {"axes": "TZYX", "unit": "um", "spacing": 3.5, "finterval": 0.5}
    tifffile.imwrite(
        path, pixels((2, 3, 20, 30)), imagej=True, resolution=(4, 5), metadata=metadata
    )
    grid = open_source(path).type.grid
    assert grid.scale == pytest.approx((0.5, 3.5, 0.2, 0.25))
    assert grid.unit == ("second", *["micrometer"] * 3)


def test_resolution_tags(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((20, 30)), resolution=(2000, 1000), resolutionunit="CENTIMETER")
    grid = open_source(path).type.grid
    assert grid.scale == (10.0, 5.0)
    assert grid.unit == ("micrometer", "micrometer")
    tifffile.imwrite(path, pixels((20, 30)), resolution=(72, 72), resolutionunit="INCH")
    assert open_source(path).type.grid.scale == (1.0, 1.0)


def test_the_user_knows_better(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((3, 20, 30)), photometric="minisblack", metadata=None)
    assert open_source(path).type.grid.axes == tuple("zyx")
    grid = open_source(path, axes="tyx", scale=0.5, unit="um").type.grid
    assert grid.axes == tuple("tyx")
    assert grid.scale == (1.0, 0.5, 0.5)


def test_pyramids(tmp_path):
    path = tmp_path / "a.ome.tif"
    whole = pixels((3, 128, 96), "uint8")
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(whole, subifds=1, tile=(32, 32), metadata=metadata, photometric="minisblack")
        half = whole[:, ::2, ::2]
        tiff.write(half, subfiletype=1, tile=(32, 32), photometric="minisblack")
    source = open_source(path)
    np.testing.assert_array_equal(_read(source), whole)
    assert source.chunks == (1, 32, 32)
    level = open_source(path, level=1)
    np.testing.assert_array_equal(_read(level), half)
    assert level.type.grid.scale == (1.0, 1.0, 1.0)
    assert level.type.grid.translation == (0.0, 0.25, 0.25)
    with pytest.raises(InputError, match="no scale level 2; levels are 0 to 1"):
        open_source(path, level=2)


def test_masks_and_floats(tmp_path):
    mask = pixels((20, 30), "bool")
    tifffile.imwrite(tmp_path / "m.tif", mask)
    source = open_source(tmp_path / "m.tif")
    assert source.type.kind == "mask"
    np.testing.assert_array_equal(_read(source), mask)


def test_pages_of_different_shapes_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for size in (20, 30, 40):
            tiff.write(pixels((size, size)), metadata=None)
    with pytest.raises(InputError, match="holds 3 images"):
        open_source(path)


WRITERS = {
    "plain": {"metadata": None},
    "zlib": {"compression": "zlib", "metadata": None},
    "tifffile": {"compression": "zlib"},
    "bigtiff": {"compression": "zlib", "bigtiff": True, "metadata": None},
    "ome": {"compression": "zlib", "ome": True, "metadata": {"axes": "ZYX"}},
    "ome-plain": {"ome": True, "metadata": {"axes": "ZYX"}},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "tiled": {"tile": (16, 16), "compression": "zlib", "byteorder": ">"},
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name):
    path = tmp_path / "a.tif"
    whole = pixels((9, 32, 48))
    tifffile.imwrite(path, whole, photometric="minisblack", **WRITERS[name])
    np.testing.assert_array_equal(_read(open_source(path)), whole)
    data = path.read_bytes()
    rng = np.random.default_rng(4)
    cuts = [1, 4, 9, len(data) // 2, *map(int, rng.integers(0, len(data) - 8, 25))]
    for cut in cuts:
        path.write_bytes(data[:cut])
        # What is cut may be padding: then every pixel must be there all the same.
        try:
            source = open_source(path)
        except InputError as error:
            message = str(error)
        else:
            np.testing.assert_array_equal(_read(source), whole, err_msg=f"cut at {cut}")
            continue
        assert str(path) in message
        assert "\n" not in message


def test_text_called_tif(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("this is not a picture")
    with pytest.raises(InputError, match=r"a\.tif: cannot be read as TIFF"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as TIFF"):
        open_source(path)


def test_damaged_pixels_are_named(tmp_path):
    path = tmp_path / "a.tif"
    kwargs = {"photometric": "minisblack", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, pixels((4, 32, 48)), **kwargs)
    source = open_source(path)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[2].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset + 20 : offset + 60] = bytes(40)
    path.write_bytes(data)
    region = Region((2, 0, 0), (3, 8, 8))
    with pytest.raises(DamagedError, match=r"a\.tif") as caught:
        source.read(region)
    assert str(region) in str(caught.value)


def test_a_changed_file_has_another_identity(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((20, 30)))
    before = open_source(path).identity()
    tifffile.imwrite(path, pixels((20, 30), seed=1))
    source = open_source(path)
    assert source.identity() != before
    np.testing.assert_array_equal(_read(source), pixels((20, 30), seed=1))


def test_several_scenes_in_one_file_are_refused_not_dropped(tmp_path):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(np.ones((5, 6), np.uint16))
        file.write(np.zeros((5, 6), np.uint16))
    with pytest.raises(InputError, match="holds 2 images"):
        open_source(path)


def test_an_integer_type_with_two_names_is_the_one_that_zarr_knows(tmp_path):
    path = tmp_path / "long.tif"
    tifffile.imwrite(path, np.arange(20, dtype=np.longlong).reshape(4, 5))
    assert open_source(path).type.dtype.char == np.dtype(np.int64).char
