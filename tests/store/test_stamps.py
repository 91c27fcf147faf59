"""Stamps of what is stored: stable, one for each unit, changed by what changes the voxels alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from itertools import product
from pathlib import Path

import fsspec
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from lepton_pipe.geometry import Grid, Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import open_source
from lepton_pipe.store.source import Source
from lepton_pipe.store.stamps import ABSENT, STAMP_BYTES, file_version
from tests.store.conftest import pixels
from tests.store.test_contract import case  # noqa: F401  (a fixture)


def units(source):
    counts = [-(-n // u) for n, u in zip(source.type.grid.shape, source.stamp_unit, strict=True)]
    return list(product(*map(range, counts)))


def stamps(source):
    return dict(zip(units(source), source.unit_stamps(units(source)), strict=True))


def changed(before, after):
    return {unit for unit in before if before[unit] != after[unit]}


def touch(path, size=0):
    """Change a file as little as can be seen: its time, or its size alone."""
    status = path.stat()
    if size:
        with path.open("ab") as file:
            file.write(b"\0" * size)
    later = status.st_mtime_ns + (0 if size else 1_000)
    os.utime(path, ns=(status.st_atime_ns, later))


def test_stamps_are_stable_and_pickled_along(case):  # noqa: F811
    source, _ = case
    assert len(source.stamp_unit) == source.type.grid.ndim
    found = stamps(source)
    assert all(len(stamp) == STAMP_BYTES for stamp in found.values())
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert stamps(again) == found
    assert again.form_stamp() == source.form_stamp()
    assert ABSENT not in found.values()


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(
    ("kwargs", "file", "unit"),
    [
        ({"zarr_format": 3}, "c/1/0/2", (1, 0, 2)),
        ({"zarr_format": 3, "shards": (8, 16, 32)}, "c/0/1/1", (0, 1, 1)),
        ({"zarr_format": 2}, "1.3.2", (1, 3, 2)),
    ],
)
def test_the_file_of_one_unit(tmp_path, kwargs, file, unit, size):
    root = tmp_path / "a.zarr"
    zarr.create_array(root, data=pixels((8, 32, 64)), chunks=(4, 8, 16), **kwargs)
    source = open_source(root)
    before = stamps(source)
    touch(root / file, size)
    assert changed(before, stamps(source)) == {unit}
    (root / file).unlink()
    assert stamps(source)[unit] == ABSENT


def test_axes_in_another_order(tmp_path):
    root = tmp_path / "a.zarr"
    array = pixels((12, 20, 4), "uint8")
    zarr.create_array(root, data=array, chunks=(4, 10, 1), dimension_names=("y", "x", "c"))
    source = open_source(root)
    assert source.stamp_unit == (1, 4, 10)
    before = stamps(source)
    touch(root / "c/2/1/3")
    assert changed(before, stamps(source)) == {(3, 2, 1)}


def test_what_the_files_mean(tmp_path):
    root = tmp_path / "a.zarr"
    array = zarr.create_array(root, data=pixels((8, 8)), chunks=(4, 4))
    form = open_source(root).form_stamp()
    array.attrs["note"] = "seen"
    assert open_source(root).form_stamp() == form
    assert open_source(root, axes="zy").form_stamp() == form  # the type tells these apart
    metadata = (root / "zarr.json").read_text()
    (root / "zarr.json").write_text(metadata.replace('"fill_value": 0', '"fill_value": 7'))
    assert open_source(root).form_stamp() != form


def test_the_same_square_with_its_axes_exchanged(tmp_path):
    np.save(tmp_path / "a.npy", pixels((8, 8)))
    zarr.create_array(tmp_path / "a.zarr", data=pixels((8, 8)), chunks=(4, 4))
    for name in ("a.npy", "a.zarr"):
        one, other = (open_source(tmp_path / name, axes=axes) for axes in ("yx", "xy"))
        assert one.type == other.type
        assert one.form_stamp() != other.form_stamp()


def test_the_same_bytes_in_another_place(tmp_path):
    for name in "ab":
        zarr.create_array(tmp_path / name, data=pixels((8, 8)), chunks=(4, 4))
    assert open_source(tmp_path / "a").form_stamp() != open_source(tmp_path / "b").form_stamp()


def test_a_link_that_leads_elsewhere(tmp_path):
    for name in ("a", "b"):
        zarr.create_array(str(tmp_path / name), data=pixels((4, 6)), chunks=(2, 6))
    link = tmp_path / "link"
    link.symlink_to("a", target_is_directory=True)
    before = open_source(link).form_stamp()
    assert open_source(link).form_stamp() == before == open_source(tmp_path / "a").form_stamp()
    link.unlink()
    link.symlink_to("b", target_is_directory=True)
    assert open_source(link).form_stamp() != before


def test_planes(tmp_path):
    for i, plane in enumerate(pixels((4, 20, 33))):
        (tmp_path / f"img{i}.png").write_bytes(imagecodecs.png_encode(plane))
    source = open_source(tmp_path)
    assert source.stamp_unit == (1, 20, 33)
    before = stamps(source)
    touch(tmp_path / "img2.png")
    assert changed(before, stamps(source)) == {(2, 0, 0)}


def test_planes_that_moved_up(tmp_path):
    """Copies often share size and time, so the name belongs to the stamp."""
    for i in range(3):
        tifffile.imwrite(tmp_path / f"t{i}.tif", pixels((20, 33), seed=i))
        os.utime(tmp_path / f"t{i}.tif", ns=(0, 0))
    before = stamps(open_source(tmp_path))
    (tmp_path / "t0.tif").unlink()
    after = stamps(open_source(tmp_path))
    assert not set(before.values()) - {before[0, 0, 0]} - set(after.values())
    assert after[0, 0, 0] == before[1, 0, 0]


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_a_single_file_is_the_one_that_was_opened(tmp_path, name):
    """What was read may be of the old file, however late it was asked for."""
    path = tmp_path / name
    save = np.save if name == "a.npy" else tifffile.imwrite
    save(path, pixels((8, 8)))
    source = open_source(path)
    before = stamps(source)
    assert list(before) == [(0, 0)]
    touch(path)
    assert stamps(source) == before
    assert stamps(open_source(path)) != before


def test_arrays_by_their_values():
    whole = pixels((300, 1000, 7), "float32")
    before = stamps(open_source(whole))
    assert len(before) > 4
    assert stamps(open_source(np.asfortranarray(whole))) == before
    source = open_source(whole)
    z, y, _ = source.stamp_unit
    whole = whole.copy()
    whole[z, y - 1, 0] += 1
    assert changed(before, stamps(open_source(whole))) == {(1, 0, 0)}


def test_a_file_that_cannot_be_seen_is_never_the_same(tmp_path):
    path = f"{tmp_path}/{'n' * 300}"  # too long a name: no "not found"
    assert file_version(path) != file_version(path)
    assert file_version(f"{tmp_path}/none") == ABSENT


def test_a_source_that_cannot_tell_is_never_the_same():
    class Mute(Source):
        def _read(self, region):
            raise NotImplementedError

        def identity(self):
            return {}

    source = Mute("mute", ImageType(Grid.of((4, 4)), np.dtype("u1")), (2, 2))
    assert source.stamp_unit == (4, 4)
    assert stamps(source) != stamps(source)
    assert source.type.grid.region == Region.whole((4, 4))


def _memory(name, data):
    store = zarr.storage.FsspecStore.from_url(f"memory://lepton/{name}")
    zarr.create_array(store, data=data, chunks=(2, 3), overwrite=True)
    return f"memory://lepton/{name}"


def test_remote_chunks(tmp_path):
    url = _memory("stamps.zarr", pixels((6, 9)))
    source = open_source(url)
    before = stamps(source)
    assert len(set(before.values())) == 9
    assert stamps(source) == before
    files = fsspec.filesystem("memory")
    # Listed or asked for alone: the same stamps.
    assert {u: source.unit_stamps([u])[0] for u in before} == before
    files.pipe("/lepton/stamps.zarr/c/1/2", files.cat("/lepton/stamps.zarr/c/1/2"))
    assert changed(before, stamps(source)) == {(1, 2)}
    files.rm("/lepton/stamps.zarr/c/0/0")
    assert stamps(source)[0, 0] == ABSENT
    assert source.unit_stamps([(0, 0)]) == [ABSENT]


def test_remote_files_without_versions_are_never_the_same(monkeypatch):
    url = _memory("mute.zarr", pixels((6, 9)))
    source = open_source(url)
    known = fsspec.implementations.memory.MemoryFileSystem

    def info(self, path, **kwargs):
        return {"name": path, "size": 12, "type": "file"}

    def find(self, path, **kwargs):
        raise PermissionError(path)

    monkeypatch.setattr(known, "info", info)
    monkeypatch.setattr(known, "find", find)
    before, after = stamps(source), stamps(source)
    assert changed(before, after) == set(before)


def test_a_remote_tiff():
    with fsspec.open("memory://lepton/stamp.tif", "wb") as file:
        tifffile.imwrite(file, pixels((8, 8)))
    source = open_source("memory://lepton/stamp.tif")
    before = stamps(source)
    assert stamps(source) == before
    fsspec.filesystem("memory").pipe("/lepton/stamp.tif", b"other")
    assert stamps(source) != before


def test_another_process_gives_the_same(tmp_path):
    zarr.create_array(
        tmp_path / "a.zarr", data=pixels((8, 8), "float32"), chunks=(4, 4), fill_value=np.nan
    )
    source = open_source(tmp_path / "a.zarr")
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from lepton_pipe.store import open_source\n"
            "s = open_source(sys.argv[1]); print(s.form_stamp().hex())\n"
            "print(s.unit_stamps([(1, 0)])[0].hex())",
            str(tmp_path / "a.zarr"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout.split()
    assert told == [source.form_stamp().hex(), source.unit_stamps([(1, 0)])[0].hex()]
