"""The zarr images of others: versions, layouts, axes, what is no image."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from ome_zarr.format import FormatV04, FormatV05
from ome_zarr.writer import write_image

from lepton_pipe.errors import DamagedError, InputError, UsageError
from lepton_pipe.geometry import Region
from lepton_pipe.store import open_source
from tests.store.conftest import pixels


@pytest.mark.parametrize("version", [FormatV04(), FormatV05()], ids=["0.4", "0.5"])
def test_images_written_by_ome_zarr(tmp_path, version):
    whole = pixels((2, 4, 40, 36))
    path = tmp_path / "a.ome.zarr"
    group = zarr.create_group(path, zarr_format=version.zarr_format)
    write_image(
        da.from_array(whole),
        group,
        fmt=version,
        axes="czyx",
        axes_units=dict.fromkeys("zyx", "micrometer"),
        scale={"c": 1, "z": 2.0, "y": 0.5, "x": 0.5},
        scale_factors=(2,),
    )
    source = open_source(path)
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    assert source.type.grid.axes == tuple("czyx")
    assert source.type.grid.scale == (1.0, 2.0, 0.5, 0.5)
    assert source.type.grid.unit == (None, *["micrometer"] * 3)
    level = open_source(path, level=1)
    assert level.type.grid.shape[-2:] == (20, 18)
    assert level.type.grid.scale[-1] == 1.0
    assert level.identity()["level"] == 1
    names = [
        d["path"] for d in (group.attrs.get("ome") or group.attrs)["multiscales"][0]["datasets"]
    ]
    assert open_source(path / names[1]).type == level.type
    assert open_source(path / names[1]).identity() == level.identity()


def _group(path, attributes, zarr_format=3, shape=(4, 20, 30), **kwargs):
    whole = pixels(shape, kwargs.pop("dtype", "uint16"))
    group = zarr.create_group(path, attributes=attributes, zarr_format=zarr_format)
    group.create_array("0", data=whole, chunks=tuple(max(1, n // 2) for n in shape), **kwargs)
    return whole


def _multiscales(names, *steps, **image):
    axes = [{"name": n, "type": t} for n, t in names]
    datasets = [{"path": "0", "coordinateTransformations": list(steps)}]
    return {"multiscales": [{"axes": axes, "datasets": datasets, **image}]}


def test_axes_in_another_order_are_sorted(tmp_path):
    names = [("x", "space"), ("channel_0", "channel"), ("y", "space")]
    scale = {"type": "scale", "scale": [0.1, 1, 0.2]}
    whole = _group(tmp_path / "a", {"ome": _multiscales(names, scale)}, shape=(30, 3, 20))
    source = open_source(tmp_path / "a")
    assert source.type.grid.axes == tuple("cyx")
    assert source.type.grid.scale == (1.0, 0.2, 0.1)
    assert source.chunks == (1, 10, 15)
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole.transpose(1, 2, 0))


def test_transformations_are_composed(tmp_path):
    steps = (
        {"type": "scale", "scale": [2, 2, 2]},
        {"type": "translation", "translation": [1, 2, 3]},
    )
    outer = [{"type": "scale", "scale": [1, 10, 10]}]
    names = [(n, "space") for n in "zyx"]
    ome = _multiscales(names, *steps, coordinateTransformations=outer)
    _group(tmp_path / "a", {"ome": ome})
    grid = open_source(tmp_path / "a").type.grid
    assert grid.scale == (2, 20, 20)
    assert grid.translation == (1, 20, 30)


def test_unknown_axes_of_length_one_are_dropped(tmp_path):
    names = [("angle", "space"), ("y", "space"), ("x", "space")]
    whole = _group(tmp_path / "a", {"ome": _multiscales(names)}, shape=(1, 20, 30))
    source = open_source(tmp_path / "a")
    assert source.type.grid.axes == ("y", "x")
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole[0])


def test_unknown_axes_are_an_error_that_axes_can_mend(tmp_path):
    names = [("angle", "space"), ("y", "space"), ("x", "space")]
    _group(tmp_path / "a", {"ome": _multiscales(names)})
    with pytest.raises(InputError, match="'angle' of length 4"):
        open_source(tmp_path / "a")
    assert open_source(tmp_path / "a", axes="tyx").type.grid.axes == tuple("tyx")


def test_labels_are_labels(tmp_path):
    ome = _multiscales([(n, "space") for n in "zyx"]) | {"image-label": {}}
    _group(tmp_path / "a", {"ome": ome}, dtype="int32")
    assert open_source(tmp_path / "a").type.kind == "labels"
    assert open_source(tmp_path / "a/0").type.kind == "labels"


def test_old_images_without_axes(tmp_path):
    attributes = {"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}]}]}
    _group(tmp_path / "a", attributes, zarr_format=2, shape=(1, 2, 3, 20, 30))
    assert open_source(tmp_path / "a").type.grid.axes == tuple("tczyx")


def test_bioformats2raw(tmp_path):
    attributes = {"ome": {"bioformats2raw.layout": 3}}
    zarr.create_group(tmp_path / "a", attributes=attributes)
    names = [(n, "space") for n in "zyx"]
    whole = _group(tmp_path / "a/0", {"ome": _multiscales(names)})
    zarr.create_group(tmp_path / "a/OME", attributes={"ome": {"series": ["0"]}})
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    _group(tmp_path / "a/1", {"ome": _multiscales(names)})
    with pytest.raises(InputError, match=r"holds 2 images; name one.*a/0, .*a/1"):
        open_source(tmp_path / "a")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"ome": {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}}, r"A/1/0"),
        ({"ome": {"well": {"images": [{"path": "0"}, {"path": "1"}]}}}, r"a well; name one.*a/0"),
        ({"ome": {"labels": ["nuclei"]}}, r"a/nuclei"),
        ({}, r"without OME-Zarr image metadata.*a/0"),
        ({"ome": {"multiscales": [{"datasets": "what"}]}}, "cannot be understood"),
        ({"ome": {"multiscales": [{"datasets": []}]}}, "no scale levels"),
        ({"ome": {"multiscales": [{"datasets": [{"path": "7"}]}]}}, r"no zarr array.*is there"),
        ({"ome": _multiscales([("y", "space"), ("x", "space")])}, "for 2 axes"),
    ],
)
def test_groups_that_are_no_image(tmp_path, attributes, message):
    _group(tmp_path / "a", attributes)
    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_levels_that_are_not_there(tmp_path):
    _group(tmp_path / "a", {"ome": _multiscales([(n, "space") for n in "zyx"])})
    with pytest.raises(InputError, match="no scale level 1; levels are 0 to 0"):
        open_source(tmp_path / "a", level=1)
    with pytest.raises(InputError, match="no scale level 3"):
        open_source(tmp_path / "a/0", level=3)


@pytest.mark.parametrize("dtype", ["complex64", "S4", "datetime64[s]"])
def test_dtypes_that_are_no_image(tmp_path, dtype):
    zarr.create_array(tmp_path / "a", shape=(4, 4), dtype=dtype, zarr_format=2)
    with pytest.raises(InputError, match="dtype"):
        open_source(tmp_path / "a")


def test_six_axes_and_empty_arrays(tmp_path):
    zarr.create_array(tmp_path / "six", shape=(2,) * 6, dtype="u1")
    with pytest.raises(InputError, match="6 axes"):
        open_source(tmp_path / "six")
    zarr.create_array(tmp_path / "none", shape=(0, 4), chunks=(1, 4), dtype="u1")
    with pytest.raises(InputError, match="empty"):
        open_source(tmp_path / "none")


def test_broken_metadata(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(4, 4), dtype="u1")
    (tmp_path / "a/zarr.json").write_text("{ this is no JSON")
    with pytest.raises(InputError, match="cannot be opened as zarr"):
        open_source(tmp_path / "a")


def test_a_codec_that_is_not_installed(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(4, 4), dtype="u1")
    text = (tmp_path / "a/zarr.json").read_text()
    (tmp_path / "a/zarr.json").write_text(text.replace('"zstd"', '"unheard-of"'))
    with pytest.raises(InputError, match="unheard-of"):
        open_source(tmp_path / "a")


def test_a_damaged_chunk_names_array_and_region(tmp_path):
    _group(tmp_path / "a", {"ome": _multiscales([(n, "space") for n in "zyx"])})
    source = open_source(tmp_path / "a")
    chunk = tmp_path / "a/0/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    region = Region((0, 0, 0), (1, 2, 3))
    with pytest.raises(DamagedError, match="a/0") as caught:
        source.read(region)
    assert str(region) in str(caught.value)
    chunk.unlink()
    with pytest.raises(DamagedError, match=r"c/0/0/0 is missing \(voxels .*and they read as 0"):
        source.read(region)
    assert not open_source(tmp_path / "a", sparse=True).read(region).any()


def test_scale_and_unit_given_by_the_user(tmp_path):
    zarr.create_array(tmp_path / "a", data=pixels((2, 4, 20, 30)))
    path = tmp_path / "a"
    grid = open_source(path, scale=(2, 0.5, 0.5), unit="um").type.grid
    assert grid.scale == (1, 2, 0.5, 0.5)
    assert grid.unit == (None, *["micrometer"] * 3)
    grid = open_source(path, axes="tzyx", scale={"t": 30}, unit={"t": "s"}).type.grid
    assert grid.scale == (30, 1, 1, 1)
    assert grid.unit == ("second", None, None, None)
    with pytest.raises(UsageError, match="positive"):
        open_source(path, scale=-1)
    with pytest.raises(InputError, match="name 2 axes, but the data has 4"):
        open_source(path, axes="yx")


def test_identity_changes_with_the_input(tmp_path):
    array = zarr.create_array(tmp_path / "a", data=pixels((20, 30)), chunks=(10, 10))
    before = open_source(tmp_path / "a").identity()
    array[0, 0] = 7
    after = open_source(tmp_path / "a").identity()
    assert after != before
    array.attrs["note"] = "new"
    assert open_source(tmp_path / "a").identity()["metadata"] != after["metadata"]
