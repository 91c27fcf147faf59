from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import SpecError, UsageError
from lepton_pipe.kernels.projection import project
from tests.kernels.blockwise import DTYPES, blocks, check, describe, images, noise

ALL = (*DTYPES, np.int8, np.uint32, np.int64, np.float16, np.float64)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), how=st.sampled_from(["max", "min", "mean", "sum"]), keepdims=st.booleans())
def test_projection_in_slabs(data, how, keepdims):
    axes, image = data.draw(images(dtypes=ALL, nan=True))
    axis = data.draw(st.sampled_from(axes))
    at = axes.index(axis)
    shape = [n for i, n in enumerate(image.shape) if i != at or keepdims]
    if keepdims:
        shape[at] = 1
    result = check(
        project,
        image,
        block=data.draw(blocks(shape)),
        slab=data.draw(st.integers(1, image.shape[at] + 1)),
        axes=axes,
        axis=axis,
        how=how,
        keepdims=keepdims,
        # The result's largest value says little of the terms that cancelled in a sum.
        ulps=64 * image.shape[at] if image.dtype.kind == "f" or how == "mean" else 0,
    )
    expected = getattr(np, how)(
        image if how in ("max", "min") or image.dtype.kind != "f" else image.astype(np.float64),
        axis=at,
        keepdims=keepdims,
    )
    if result.dtype.kind == "f":
        np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6 * magnitude(image))
    else:
        np.testing.assert_array_equal(result, expected)


def magnitude(image):
    finite = image[np.isfinite(image)].astype(float)
    return np.abs(finite).max(initial=0)


@pytest.mark.parametrize(
    ("dtype", "how", "expected"),
    [
        (np.uint8, "sum", np.uint64),
        (np.bool_, "sum", np.uint64),
        (np.int16, "sum", np.int64),
        (np.float32, "sum", np.float64),
        (np.uint16, "mean", np.float32),
        (np.bool_, "mean", np.float32),
        (np.int32, "mean", np.float64),
        (np.float16, "max", np.float16),
        (np.bool_, "max", np.bool_),
    ],
)
def test_dtypes(dtype, how, expected):
    image = noise((3, 4, 5), dtype, 1)
    assert describe(project, image, how=how)["project"].type.dtype == expected


def test_sums_are_exact():
    image = np.full((1000, 1, 2), 2**32 - 1, np.uint32)
    assert project(image, how="sum")[0, 0] == 1000 * (2**32 - 1)
    assert project(image, how="mean")[0, 0] == 2**32 - 1


def test_grid_and_kind():
    labels = noise((4, 5, 6), np.int64, 1)
    flat = describe(project, labels, kinds=["labels"])["project"].type
    assert (flat.grid.axes, flat.grid.shape, flat.kind) == (("y", "x"), (5, 6), "labels")
    kept = describe(project, labels, axis="y", how="mean", keepdims=True)["project"].type
    assert (kept.grid.shape, kept.grid.scale, kept.kind) == ((4, 1, 6), (1.0, 5.0, 1.0), "image")
    assert kept.grid.translation == (0.0, 2.0, 0.0)


@pytest.mark.parametrize(
    ("shape", "params", "says"),
    [
        ((8, 8), {}, "there is no axis 'z'; the image has axes yx"),
        ((8, 8), {"axis": 0}, "axis=0 must be the name of an axis, one of y, x"),
        ((8, 8), {"axis": "y", "how": "median"}, "how='median' is not known"),
        ((8,), {"axis": "x"}, "the image has no axis but x"),
    ],
)
def test_bad_parameters_are_refused(shape, params, says):
    image = np.zeros(shape, np.uint8)
    with pytest.raises((ValueError, TypeError, UsageError), match=says):
        project(image, **params)
    with pytest.raises(SpecError, match=f"project: .*{says}") as caught:
        describe(project, image, **params)
    assert len(caught.value.problems) == 1
