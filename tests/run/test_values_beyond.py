"""A value that turns out not to go with an image ends the run before a block is computed."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import KernelError, SpecError
from lepton_pipe.kernels import sum_of

IMAGE = np.full((30, 40), 7, np.uint8)
SAYS = "does not fit uint8, which holds 0 to 255 .*; use astype on the image first, such as astype"


@lp.pipeline
def weighed(raw: lp.Image, *, above: int = 3):
    return raw * sum_of(raw > above)


@lp.pipeline
def literal(raw: lp.Image):
    return raw + 1000


@lp.pipeline
def to_the_power(raw: lp.Image):
    return raw ** -sum_of(raw > 3)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_number_that_the_dtype_does_not_hold(tmp_path, on_error):
    plan = weighed.plan(raw=IMAGE, out=tmp_path / "out", serial=True, on_error=on_error)
    with pytest.raises(KernelError, match=f"multiply: 1200 {SAYS}") as caught:
        plan.run(progress=False)
    assert "return raw * sum_of(raw > above)" in str(caught.value)
    assert "block" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_number_that_fits_is_used(tmp_path):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    weighed.plan(raw=image, out=tmp_path / "out", serial=True, above=9).run(progress=False)
    got = zarr.open_group(tmp_path / "out" / "weighed", mode="r")["0"][:]
    np.testing.assert_array_equal(got, image * 2)


def test_the_same_on_arrays():
    with pytest.raises(OverflowError, match=f"1200 {SAYS}"):
        weighed(IMAGE)


def test_a_literal_is_refused_while_the_pipeline_is_read(tmp_path):
    with pytest.raises(SpecError, match=f"add: 1000 {SAYS}"):
        literal.plan(raw=IMAGE, out=tmp_path / "out")


def test_a_negative_power_of_integers_is_refused(tmp_path):
    plan = to_the_power.plan(raw=IMAGE.astype(np.int32), out=tmp_path / "out", serial=True)
    with pytest.raises(KernelError, match=r"power: .*negative integer power"):
        plan.run(progress=False)
