"""Units that a user gives are those that OME-Zarr knows."""

from __future__ import annotations

import numpy as np
import ome_zarr.axes
import pytest
import tifffile

import lepton_pipe as lp
from lepton_pipe.errors import UsageError
from lepton_pipe.store import open_source
from lepton_pipe.store.unit_names import checked_unit

IMAGE = np.zeros((2, 3, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("micrometer", "micrometer"),
        ("Micrometer", "micrometer"),
        ("um", "micrometer"),
        ("µm", "micrometer"),
        ("nm", "nanometer"),
        ("arcsecond", "arcsecond"),
        ("pixel", None),
    ],
)
def test_names_and_what_is_short_for_them_are_taken(unit, expected):
    grid = lp.open_image(IMAGE, axes="tzyx", unit=unit).type.grid
    assert grid.unit == (None, expected, expected, expected)


def test_all_that_ome_zarr_knows_are_taken():
    for axis, units in (
        ("x", ome_zarr.axes.KNOWN_SPATIAL_UNITS),
        ("t", ome_zarr.axes.KNOWN_TEMPORAL_UNITS),
    ):
        assert all(checked_unit(unit, axis) == unit for unit in units)


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("furlong", "unit 'furlong'.*OME-Zarr.*give one such as nanometer, micrometer"),
        ("micrometr", "did you mean 'micrometer'?"),
        ("millimetre", "did you mean 'millimeter'?"),
        ("second", "for axis z"),
        ({"t": "micrometer"}, "'micrometer'.*for axis t"),
        ({"t": "secnd"}, "did you mean 'second'?"),
        (["um", "um", "feet"], "'feet'.*for axis x"),
        (3, "unit 3 of axis z is no name"),
    ],
)
def test_others_are_refused_with_what_may_be_meant(unit, told):
    with pytest.raises(UsageError, match=told):
        lp.open_image(IMAGE, axes="tzyx", unit=unit)


def test_what_a_file_says_is_taken_as_it_is(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        IMAGE[0],
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZYX", "spacing": 3.0, "unit": "furlong"},
    )
    assert open_source(path).type.grid.unit == ("furlong",) * 3
