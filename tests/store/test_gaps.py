"""A plane that is missing in a stack is seen by the numbers of the others."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.pipelines.convert import convert
from lepton_pipe.store.gaps import first_gap


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["z0001.tif", "z0002.tif", "z0004.tif"], ("z0003.tif", 1)),
        (["z1", "z2", "z4", "z5", "z8"], ("z3", 3)),
        (["p000.png", "p010.png", "p020.png", "p040.png"], ("p030.png", 1)),
        (["c1_z9.tif", "c1_z10.tif", "c1_z12.tif"], ("c1_z11.tif", 1)),
        (["z0001.tif", "z0002.tif"], None),
        (["z1.tif", "z3.tif", "z5.tif"], None),
        (["z1.tif"], None),
        (["a.tif", "b.tif", "d.tif"], None),
        (["z1.tif", "z2.tif", "x4.tif"], None),
        (["z1.tif", "z2.tif", "z.tif"], None),
        (["t1_z1.tif", "t1_z2.tif", "t2_z1.tif", "t2_z2.tif"], None),
        (["z1.tif", "z01.tif", "z3.tif"], None),
        (["120013.tif", "120027.tif", "120044.tif", "120058.tif"], None),
    ],
)
def test_the_first_that_is_missing_and_how_many(names, expected):
    assert first_gap(names) == expected


@given(
    first=st.integers(0, 10**6),
    step=st.integers(1, 50),
    count=st.integers(7, 60),
    width=st.integers(1, 7),
    data=st.data(),
)
def test_what_was_taken_out_of_a_row_is_found(first, step, count, width, data):
    names = [f"img{first + i * step:0{width}}.png" for i in range(count)]
    assert first_gap(names) is None
    # As many steps of the usual length are left as there are others.
    gone = data.draw(st.integers(1, count - 5))
    left = names[:gone] + names[gone + 1 :]
    assert first_gap(left) == (names[gone], 1)


def test_the_plan_notes_it_and_the_run_goes_on(tmp_path):
    planes = tmp_path / "planes"
    planes.mkdir()
    for i in (1, 2, 4, 5):
        tifffile.imwrite(planes / f"z{i:04}.tif", np.full((16, 16), i, np.uint8))
    plan = convert.plan(raw=planes, out=tmp_path / "out.zarr")
    assert "note: input raw: the numbers of its files have a gap: z0003.tif is not" in str(plan)
    assert plan.run().out == tmp_path / "out.zarr"
    for name in ("z0004.tif", "z0005.tif"):
        (planes / name).rename(planes / f"z{int(name[1:5]) - 1:04}.tif")
    assert "have a gap" not in str(convert.plan(raw=planes, out=tmp_path / "more.zarr"))
