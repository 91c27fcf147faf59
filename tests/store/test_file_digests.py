"""Stamps by bytes: found whatever size and time say, and the same for a copy."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import tifffile
import zarr

from lepton_pipe.store import file_digests, open_source
from lepton_pipe.store.stamps import ABSENT
from tests.store.conftest import pixels
from tests.store.test_stamps import changed, stamps, touch

SHAPE = (4, 8, 12)


def _zarr(path, **words):
    zarr.create_array(path, data=pixels(SHAPE), chunks=(2, 8, 6), compressors=None, **words)


def _planes(path):
    path.mkdir()
    for i, plane in enumerate(pixels(SHAPE)):
        _tiff(path / f"{i}.tif", plane)


def _tiff(path, image=None):
    tifffile.imwrite(path, pixels(SHAPE) if image is None else image, photometric="minisblack")


WAYS = {
    "chunks": ("a.zarr", _zarr, "c/1/0/1", {(1, 0, 1)}),
    "shards": ("a.zarr", lambda p: _zarr(p, shards=(4, 8, 6)), "c/0/0/1", {(0, 0, 1)}),
    "planes": ("planes", _planes, "2.tif", {(2, 0, 0)}),
    "npy": ("a.npy", lambda p: np.save(p, pixels(SHAPE)), "", {(0, 0, 0)}),
    "tiff": ("a.tif", _tiff, "", {(0, 0, 0)}),
}


@pytest.fixture(params=WAYS)
def way(request, tmp_path):
    """Return an image, a file of it, and the units that lie in that."""
    name, write, file, units = WAYS[request.param]
    write(tmp_path / name)
    return tmp_path / name, tmp_path / name / file if file else tmp_path / name, units


def known(path):
    return open_source(path).known_by_bytes()


def replace_last_byte(file):
    """Change a file, and nothing that is seen without reading it: as ``cp -p`` does."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_other_bytes_of_the_same_size_and_time(way):
    path, file, units = way
    by_time, by_bytes = stamps(open_source(path)), stamps(known(path))
    replace_last_byte(file)
    assert stamps(open_source(path)) == by_time
    assert changed(by_bytes, stamps(known(path))) == units


def test_the_same_bytes_at_another_time_and_place(way, tmp_path, monkeypatch):
    path, file, _ = way
    before, form = stamps(known(path)), known(path).form_stamp()
    touch(file)
    monkeypatch.setattr(file_digests, "_PIECE", 64)
    assert stamps(known(path)) == before
    copy = tmp_path / f"copy.{path.name}"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    assert stamps(known(copy)) == before
    assert known(copy).form_stamp() == form


def test_the_two_kinds_are_never_mixed(way):
    path, *_ = way
    assert known(path).form_stamp() != open_source(path).form_stamp()


def test_planes_by_other_names(tmp_path):
    _planes(tmp_path / "planes")
    before = stamps(known(tmp_path / "planes"))
    (tmp_path / "planes/3.tif").rename(tmp_path / "planes/7.tif")
    assert stamps(known(tmp_path / "planes")) == before


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_a_file_that_was_opened_and_is_another_now(tmp_path, name):
    """What is read may be of the old file, which is mapped or open."""
    _, write, *_ = WAYS[name.removeprefix("a.").replace("tif", "tiff")]
    write(tmp_path / name)
    source = known(tmp_path / name)
    before = stamps(source)
    assert stamps(source) == before
    replace_last_byte(tmp_path / name)
    assert stamps(source) != before
    assert stamps(source) != stamps(source)


def test_files_that_are_not_there_or_cannot_be_read(tmp_path):
    _zarr(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/c/0/0/0").unlink()
    (tmp_path / "a.zarr/c/0/0/1").unlink()
    (tmp_path / "a.zarr/c/0/0/1").mkdir()
    one, other = stamps(known(tmp_path / "a.zarr")), stamps(known(tmp_path / "a.zarr"))
    assert one[0, 0, 0] == ABSENT
    assert changed(one, other) == {(0, 0, 1)}


def test_what_is_not_in_files_here_is_known_as_ever():
    array = open_source(pixels(SHAPE))
    assert array.known_by_bytes() is array
    store = zarr.storage.FsspecStore.from_url("memory://lepton/digests.zarr")
    zarr.create_array(store, data=pixels((4, 4)), chunks=(2, 2), overwrite=True)
    remote = open_source("memory://lepton/digests.zarr")
    assert remote.known_by_bytes() is remote


def test_an_interrupt_ends_the_reading(tmp_path, monkeypatch):
    files = [tmp_path / str(i) for i in range(40)]
    for file in files:
        file.write_bytes(b"x" * 1000)
    read, real = [], file_digests._digest

    def interrupted(stop, path):
        read.append(path)
        if len(read) == 1:
            raise KeyboardInterrupt
        stop.wait(10)
        return real(stop, path)

    monkeypatch.setattr(file_digests, "_digest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file_digests.file_digests([str(f) for f in files])
    assert len(read) < len(files)
