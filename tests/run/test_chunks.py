"""Results stored in the chunks a user wants hold the same voxels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.errors import UsageError
from tests.command import assert_refused, lepton, names


@lp.pipeline
def convert(raw: lp.Image) -> dict[str, lp.Node]:
    """Change nothing."""
    return {"image": raw}


@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    """A volume of 26 x 300 x 270 voxels in bricks."""
    path = tmp_path_factory.mktemp("bricks") / "bricks.zarr"
    values = np.random.default_rng(1).integers(0, 65536, (26, 300, 270)).astype("u2")
    zarr.create_array(path, data=values, chunks=(8, 64, 64))
    return path, values


def levels(out):
    group = zarr.open_group(out / "image", mode="r")
    return [group[str(i)] for i in range(len(list(group.array_keys())))]


@settings(max_examples=12, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={"z": st.integers(1, 40), "y": st.integers(20, 400), "x": st.integers(20, 400)},
    )
)
def test_voxels_are_the_same_in_any_chunks(tmp_path_factory, bricks, wanted):
    path, values = bricks
    ever, out = (tmp_path_factory.mktemp("run") / n for n in ("ever", "out"))
    convert.plan(raw=path, out=ever, serial=True).run(progress=False)
    convert.plan(raw=path, out=out, serial=True, chunks=wanted).run(progress=False)
    made, before = levels(out), levels(ever)
    for axis, name in enumerate("zyx"):
        if name in wanted:
            assert made[0].chunks[axis] == min(wanted[name], values.shape[axis])
    np.testing.assert_array_equal(made[0][:], values)
    assert len(made) == len(before)
    for one, other in zip(made, before, strict=True):
        np.testing.assert_array_equal(one[:], other[:])


def test_planes_from_bricks_on_dask(tmp_path, bricks):
    path, values = bricks
    plan = convert.plan(raw=path, out=tmp_path / "out", workers=1, chunks="z=1,y=300,x=270")
    report = plan.run(progress=False)
    made = levels(tmp_path / "out")
    assert [a.chunks for a in made] == [(1, 300, 270), (1, 150, 135)]
    np.testing.assert_array_equal(made[0][:], values)
    assert report.outputs["image"]["chunks"] == [1, 300, 270]


def test_chunks_on_the_command_line_are_recorded(tmp_path, bricks):
    words = ("run", "convert", f"raw={bricks[0]}", "out=o", "--serial")
    done = lepton(*words, "--chunks", "z=1,x=100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert levels(tmp_path / "o")[0].chunks[::2] == (1, 100)
    record = json.loads((tmp_path / "o" / "lepton.json").read_text())
    assert record["measured"]["outputs"]["image"]["chunks"][::2] == [1, 100]


def test_chunks_that_cannot_be_are_refused_on_the_command_line(tmp_path, bricks):
    words = ("run", "convert", f"raw={bricks[0]}", "out=o", "--chunks")
    said = "'z=one' is not understood; write it as z=1,y=1024,x=1024"
    assert_refused(lepton(*words, "z=one", cwd=tmp_path), 1, said)
    assert_refused(lepton(*words, "t=1", cwd=tmp_path), 1, "no output image has an axis 't'")
    assert names(tmp_path) == set()


def test_a_parameter_may_not_be_called_chunks():
    with pytest.raises(UsageError, match="'chunks' is the name of an option of every run"):

        @lp.pipeline
        def mine(raw: lp.Image, *, chunks: int = 1) -> lp.Node:
            return raw + chunks
