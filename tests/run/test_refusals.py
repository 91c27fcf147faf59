"""Outputs in inputs, and inputs in outputs, however their paths are written."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from lepton_pipe.catalogue import find_pipeline
from lepton_pipe.errors import RefusedError
from lepton_pipe.run.refusals import refuse_places
from lepton_pipe.store import open_source


def _plane(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.zeros((4, 5), np.uint8)))
    return path


def _stack(folder):
    for i in range(3):
        _plane(folder / f"{i}.png")
    return open_source(f"{folder}/*.png")


@pytest.fixture
def out(tmp_path):
    """A result that may be replaced."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lepton.json").write_text("{}")
    return tmp_path / "out"


def test_an_output_beside_the_planes_of_a_stack(tmp_path):
    source = _stack(tmp_path / "in")
    assert len(source.paths()) == 3
    refuse_places(tmp_path / "in" / "out", {"raw": source}, overwrite=False)
    refuse_places(tmp_path / "in2", {"raw": source}, overwrite=False)


@pytest.mark.parametrize("folder", ["out", "out/deep/er"])
def test_planes_in_the_output(folder, tmp_path, out):
    source = _stack(tmp_path / folder)
    with pytest.raises(RefusedError, match=r"0\.png.* lie inside each other"):
        refuse_places(out, {"raw": source}, overwrite=True)


def test_a_plane_that_is_a_link_into_the_output(tmp_path, out):
    _stack(tmp_path / "in")
    (tmp_path / "in" / "9.png").symlink_to(_plane(tmp_path / "out" / "deep" / "x.png"))
    source = open_source(f"{tmp_path}/in/*.png")
    with pytest.raises(RefusedError, match=r"9\.png.* lie inside each other"):
        refuse_places(out, {"raw": source}, overwrite=True)


def test_a_folder_that_is_a_link_into_the_output(tmp_path, out):
    _stack(tmp_path / "out" / "deep")
    (tmp_path / "in").symlink_to(tmp_path / "out" / "deep")
    source = open_source(f"{tmp_path}/in/*.png")
    with pytest.raises(RefusedError, match=r"in/0\.png.* lie inside each other"):
        refuse_places(out, {"raw": source}, overwrite=True)


def test_an_output_in_an_input(tmp_path):
    whole = open_source(np.zeros((4, 5)))
    inputs = _stack(tmp_path / "in")
    folder = open_source(tmp_path / "in")
    assert folder.paths() == (tmp_path / "in",)
    refuse_places(tmp_path / "in" / "out", {"a": whole, "b": inputs}, overwrite=False)
    for out in (tmp_path / "in" / "out", tmp_path / "in" / ".." / "in" / "out"):
        with pytest.raises(RefusedError, match="lie inside each other"):
            refuse_places(out, {"raw": folder}, overwrite=False)


def test_where_nothing_can_be_made_is_not_told_as_a_full_disk(tmp_path):
    """There is no room in /proc, and none can be made: not even a folder can."""
    if not Path("/proc/self").exists():
        pytest.skip("this system has no /proc")
    np.save(tmp_path / "a.npy", np.zeros((100, 100), np.uint16))
    convert = find_pipeline("convert")
    with pytest.raises(RefusedError, match=r"nothing can be made in /proc \(.*an out= elsewhere$"):
        convert.plan(raw=tmp_path / "a.npy", out="/proc/x.zarr")
