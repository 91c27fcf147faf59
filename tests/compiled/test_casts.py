"""Casts by compiled loops: the values, losses and errors of the NumPy form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.errors import CastError
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import casts, pointwise
from lepton_pipe.kernels.casts import astype
from lepton_pipe.kernels.pointwise import rescale
from lepton_pipe.spec import Place
from tests.compiled.test_counts import laid_out

# Few, since each is compiled for itself.
PAIRS = [
    *[("float32", t) for t in ("bool", "uint8", "int16", "uint16", "int32", "int64")],
    *[("float64", t) for t in ("uint16", "uint32", "float32")],
    *[("uint16", "uint8"), ("int16", "uint16"), ("int64", "uint64"), ("uint64", "int8")],
    *[(">f4", "uint8"), ("uint16", "bool")],
]


def reference(call):
    """Call a function without the compiled loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(casts, "loops", lambda *_: None)
        return call()


def outcome(call):
    """Return a result, or the text of the refusal."""
    try:
        with np.errstate(all="ignore"):
            return call()
    except CastError as error:
        return str(error)


@st.composite
def around_limits(draw):
    """An image whose values lie at, and just beyond, the limits of a target."""
    source, name = draw(st.sampled_from(PAIRS))
    array, target = draw(laid_out([source])), np.dtype(name)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mild = rng.integers(0, 200 if target.itemsize > 1 else 2, array.shape).astype(array.dtype)
    array = np.where(rng.random(array.shape) < draw(st.sampled_from([0, 0.3, 1])), array, mild)
    if array.dtype.kind == "f":
        low, high = casts.limits(target) if target.kind != "f" else (-3.4028236e38, 3.5e38)
        special = [low, high, low - 0.5, high + 0.5, low - 0.51, high + 0.51, 0.5, 1.5, -0.3]
        special += [np.nan, np.inf, -np.inf, -0.0] if draw(st.booleans()) else []
        at = rng.integers(0, array.size, draw(st.integers(0, 4)))
        with np.errstate(over="ignore"):
            array.reshape(-1)[at] = rng.choice(special, at.size)
    array.flags.writeable = False
    return array, target, draw(st.sampled_from(["clip", "raise"]))


@settings(max_examples=250, deadline=None)
@given(around_limits())
def test_as_numpy(case):
    array, target, cast = case
    place = Place.whole(Grid.of(array.shape))
    args = {"image": array, "dtype": target.name, "cast": cast}
    got = outcome(lambda: astype.run(args, place))
    expected = reference(lambda: outcome(lambda: astype.run(args, place)))
    assert type(got) is type(expected)
    if isinstance(got, str):
        assert got == expected
    else:
        assert got.dtype == target == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_every_usual_cast_has_a_loop_and_wrapping_has_none():
    for source, target in (("f4", "u1"), ("f4", "u2"), ("f8", "f4"), ("u2", "u1"), ("f8", "?")):
        assert casts._loop_name(np.dtype(source), np.dtype(target), "raise")
        assert not casts._loop_name(np.dtype(source), np.dtype(target), "wrap")
    assert not casts._loop_name(np.dtype("f4"), np.dtype("u8"), "clip")


@pytest.mark.parametrize("size", [1, 7, 70_000, 300_001])
def test_parts_are_put_where_they_belong(size):
    array = np.arange(size, dtype=np.float32)[::-1] % 251
    np.testing.assert_array_equal(astype(array, "uint8"), array.astype(np.uint8))
    turned = np.arange(size, dtype=np.uint16).reshape(1, -1).T % 251
    np.testing.assert_array_equal(astype(turned, "uint8"), turned.astype(np.uint8))


# -- from one range to another --------------------------------------------------------------

RANGES = [(0, 1), (3, 90), (-5.5, 3e4), (7, 7), (9, 2), (-1e38, 1e38)]
SCALED = [
    *[("uint16", t) for t in ("float32", "uint8", "bool")],
    *[("float32", t) for t in ("float32", "uint16", "int32", "float64")],
    *[("float64", "uint8"), ("int32", "float32"), (">f4", "float32"), ("uint8", "float16")],
]


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(SCALED), st.sampled_from(RANGES))
def test_rescaled_as_by_numpy(data, pair, ends):
    source, target = data.draw(laid_out([pair[0]])), np.dtype(pair[1])
    if source.dtype.kind == "f" and source.size > 5:
        source = source.copy()
        at = (np.arange(4) * 7919) % source.size
        source.reshape(-1)[at] = [np.nan, np.inf, -np.inf, ends[1]]
    out_range = (0, 1) if target == np.bool_ else data.draw(st.sampled_from([(0, 1), (200, 3)]))
    kwargs = {"out_range": out_range, "dtype": target.name}
    args = {"image": source, "low": ends[0], "high": ends[1], **kwargs}
    with np.errstate(all="ignore"):
        got = rescale.run(args, None)
        numbers = (float(ends[0]), float(ends[1] - ends[0]), *map(float, out_range))
        numbers = (*numbers[:3], numbers[3] - numbers[2])
        expected = pointwise._rescale(source, numbers, target)
    assert got.dtype == target
    assert got.shape == source.shape
    np.testing.assert_array_equal(got, expected)
