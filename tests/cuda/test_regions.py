"""Tables of objects that were measured on the device are those of the host, to the last bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_pipe.cuda import regions as there
from lepton_pipe.device import to_device
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.kernels.regions import _columns, measure_by_part, regionprops
from lepton_pipe.merge.device_rows import Objects
from lepton_pipe.spec import Place
from tests.compiled.test_regions import NEEDS, same
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.kernels.blockwise import noise
from tests.kernels.reduced import image

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")

ALL = frozenset(NEEDS)
FLOATS = ("float16", "float32", "float64")
VALUES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", *FLOATS)


@pytest.fixture(autouse=True, scope="module")
def gpu():
    with fake_cupy(kernels=True) as traffic:
        yield traffic


def on_device(labels, values, corner, needs=ALL):
    given = [None if a is None else to_device(a, "gpu") for a in (labels, values)]
    assert there.fits(*given)
    rows = there.measured(*given)
    assert rows is not None
    dtype = None if values is None else values.dtype
    return _columns(Objects(rows, corner, dtype), labels.ndim, dtype, needs)


def published(labels, values, device="cpu", properties=None):
    """Return the table of an image of two blocks."""
    grid, table = Grid.of(labels.shape, "tczyx"[-labels.ndim :]), None
    cut = labels.shape[-1] // 2
    for start, stop in ((0, cut), (cut, labels.shape[-1])):
        region = Region((*(0,) * (labels.ndim - 1), start), (*labels.shape[:-1], stop))
        place = Place(region, region, grid)
        given = {
            name: None if a is None else to_device(a[region.slices], device)
            for name, a in (("labels", labels), ("intensity", values))
        }
        part = regionprops.run(given | {"properties": properties}, place)
        table = part if table is None else regionprops.combine(table, part)
    return regionprops.finish(table, {"properties": properties}, grid)


# Each makes a source of its own, which takes a second to compile.
KINDS = (
    ("int64", "uint16", 3),
    ("uint16", "int32", 2),
    ("int8", "float32", 3),
    ("uint64", "int64", 4),
    ("int32", "float64", 1),
    ("uint8", "bool", 5),
)


@st.composite
def measured(draw):
    """Labels and values as they may lie in memory; NaN and infinities among floats."""
    of_labels, of_values, ndim = draw(st.sampled_from(KINDS))
    shape = (*(draw(st.integers(1, 9)) for _ in range(ndim - 1)), draw(st.integers(1, 90)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(-2, draw(st.sampled_from([2, 7, 100])), shape)
    labels *= rng.random(shape) < draw(st.floats(0, 1))
    labels = np.repeat(labels, draw(st.sampled_from([1, 1, 5, 40])), -1)[..., : shape[-1]]
    labels = labels.clip(0 if of_labels[0] == "u" else None).astype(of_labels)
    values = image(shape, of_values, draw(st.integers(0, 99)))
    if values.dtype.kind == "f":
        odd = rng.random(shape) < draw(st.sampled_from([0, 0, 0.01]))
        values[odd] = rng.choice([np.nan, np.inf, -np.inf], odd.sum())
    if draw(st.booleans()):
        labels, values = np.asfortranarray(labels), values[..., ::-1]
    return labels, values, frozenset(draw(st.sets(st.sampled_from(NEEDS))))


@given(measured())
@settings(max_examples=50, deadline=None)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_tables_equal_those_by_part(case):
    labels, values, needs = case
    corner = [7 * i for i in range(labels.ndim)]
    same(on_device(labels, values, corner, needs), measure_by_part(labels, values, corner, needs))
    places = needs & {"position", "bbox"}
    same(on_device(labels, None, corner, places), measure_by_part(labels, None, corner, places))


def blobs(shape, seed=0, most=9):
    """Return labels of boxes of some voxels, background between them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, most, [-(-n // 5) for n in shape])
    for axis, n in enumerate(shape):
        coarse = np.repeat(coarse, 5, axis).take(range(n), axis)
    return coarse * (rng.random(shape) < 0.95)


@pytest.mark.parametrize("dtype", VALUES)
def test_every_dtype_of_values(dtype):
    labels = blobs((3, 70, 150)).astype(np.int32)
    values = image(labels.shape, dtype, 3)
    if values.dtype.kind in "iu":
        info = np.iinfo(dtype)
        values[:, ::3, ::5], values[:, 1::3, ::5] = info.min, info.max
    same(on_device(labels, values, (5, 0, 2)), measure_by_part(labels, values, (5, 0, 2), ALL))
    got, expected = (published(labels, values, d) for d in ("gpu", "cpu"))
    for name, column in expected.items():
        assert got[name].dtype == column.dtype
        np.testing.assert_array_equal(got[name], column, name)


# From 40 to 41 another way is taken.
@pytest.mark.parametrize("spread", [0, 9, 40, 41, 250])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_of_every_size_are_added_exactly(dtype, spread):
    rng = np.random.default_rng(5)
    info = np.finfo(dtype)
    lowest = max(info.minexp, -400) if spread < 250 else max(info.minexp - info.nmant, -500)
    power = rng.integers(lowest, lowest + spread + 1, (40, 70))
    power[0, :2] = lowest, lowest + spread
    # So that squares fit float64, float64 are not used to their ends.
    values = np.ldexp(rng.choice([-1.0, 1.0], power.shape) * (1 + rng.random(power.shape)), power)
    values = values.astype(dtype)
    labels = blobs(values.shape)
    got = on_device(labels, values, (0, 0))
    for row, label in enumerate(got["label"]):
        own = [Fraction(float(v)) for v in values[labels == label]]
        for name, number in (("value", sum(own)), ("square", sum(v * v for v in own))):
            total, rest = (float(got[f"{part}:{name}"][row]) for part in ("total", "rest"))
            assert total == float(number)
            assert abs(number - Fraction(total) - Fraction(rest)) <= abs(number) / 2**100


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_is_as_on_the_host(dtype):
    labels = np.repeat(np.arange(12), 9).reshape(9, 12)
    values = noise(labels.shape, dtype, 1)
    odd = [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf], [-np.inf, np.nan]]
    for label, some in enumerate(odd, 1):
        where = np.flatnonzero(labels == label)[: len(some)]
        values.reshape(-1)[where] = some
    values[labels == 7] = np.nan
    values[labels == 8] = np.inf
    values[labels == 9] = 0
    got, expected = (published(labels, values, d) for d in ("gpu", "cpu"))
    for name, column in expected.items():
        np.testing.assert_array_equal(got[name], column, name)


@pytest.mark.parametrize("step", [1, 2**20, 2**40 + 1])
def test_labels_may_lie_far_apart(step):
    labels = blobs((90, 90), most=200) * step
    values = noise(labels.shape, "uint16", 2)
    same(on_device(labels, values, (0, 0)), measure_by_part(labels, values, (0, 0), ALL))


def test_the_largest_label_is_measured_and_beyond_is_an_error():
    labels = np.array([[0, 2**63 - 1, 3]], np.uint64)
    assert on_device(labels, None, (0, 0))["label"].tolist() == [3, 2**63 - 1]
    labels[0, 0] = 2**63
    with pytest.raises(ValueError, match=f"label {2**63} is above"):
        regionprops.run({"labels": to_device(labels, "gpu")}, Place.whole(Grid.of((1, 3))))


def test_one_object_may_be_everywhere_and_none_anywhere():
    for value in (0, -1, 4):
        labels = np.full((4, 130, 70), value, np.int16)
        for values in (None, noise(labels.shape, "uint16", 1), noise(labels.shape, "float32", 1)):
            needs = ALL if values is not None else frozenset(["position", "bbox"])
            same(
                on_device(labels, values, (1, 2, 3), needs),
                measure_by_part(labels, values, (1, 2, 3), needs),
            )


def test_where_objects_are_small_they_are_measured_on_the_host(monkeypatch, gpu):
    monkeypatch.setattr(there, "_FREE_BYTES", 2**16)
    labels = np.arange(1, 90 * 90 + 1).reshape(90, 90)
    assert there.measured(to_device(labels, "gpu"), None) is None
    gpu.clear()
    place = Place.whole(Grid.of(labels.shape))
    (table,) = regionprops.run({"labels": to_device(labels, "gpu")}, place)
    assert labels.shape in gpu.to_host
    np.testing.assert_array_equal(table["label"], labels.ravel())


def test_a_table_that_is_full_is_made_anew(monkeypatch):
    monkeypatch.setattr(there, "_MOST_BITS", 2)
    monkeypatch.setattr(there, "_LEAST_BITS", 2)
    labels = blobs((70, 90), most=150)
    values = noise(labels.shape, "int32", 2)
    same(on_device(labels, values, (0, 0)), measure_by_part(labels, values, (0, 0), ALL))


def test_only_a_table_leaves_the_device(gpu):
    labels, values = blobs((5, 40, 60)), noise((5, 40, 60), "float32", 1)
    gpu.clear()
    on_device(labels, values, (0, 0, 0))
    assert all(len(shape) < 3 for shape in gpu.to_host)
