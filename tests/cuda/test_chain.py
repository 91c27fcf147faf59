"""Chains of pointwise steps as one kernel: the bits of NumPy, from the kernels' own bodies."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe import cuda
from lepton_pipe.device import to_device, to_host, traced
from lepton_pipe.device.traced import UntraceableError, as_input, computed
from lepton_pipe.geometry import Grid
from lepton_pipe.kernels import astype, clip, gaussian, rescale, where
from lepton_pipe.spec import Place
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.kernels.blockwise import noise
from tests.kernels.test_blocks_on_device import Run, picture

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float32", "float64")
ONE = (np.negative, np.absolute, np.square, np.logical_not, np.invert, np.isnan, np.isfinite)
OF_FLOATS = (np.sqrt, np.floor, np.ceil, np.trunc, np.rint, np.reciprocal, np.isinf, np.fabs)
TWO = (
    *(np.add, np.subtract, np.multiply, np.true_divide, np.maximum, np.minimum, np.fmax, np.fmin),
    *(np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal),
    *(np.logical_and, np.logical_or, np.logical_xor),
    *(np.bitwise_and, np.bitwise_or, np.bitwise_xor),
)
SHAPE = (3, 5, 7)


@pytest.fixture(autouse=True)
def gpu():
    with fake_cupy(kernels=True) as traffic:
        yield traffic


def awkward(dtype, seed=1):
    """Return the ends of a dtype, NaN and infinities among noise."""
    image = noise(SHAPE, dtype, seed)
    flat = image.reshape(-1)
    if image.dtype.kind == "f":
        flat[:8] = [np.nan, np.inf, -np.inf, -0.0, 0.0, 2.5, -3.5, 1e30]
    elif image.dtype.kind in "iu":
        info = np.iinfo(dtype)
        flat[:4] = [info.min, info.max, 0, info.max - 1]
    return image[::-1] if seed % 2 else image


def on_device(bodies, *images):
    """Return what bodies make of images, noted down and computed in one kernel."""
    inputs = [as_input(to_device(i, "gpu")) for i in images]
    made = {}
    for number, body in enumerate(bodies):
        result = body(*inputs)
        assert isinstance(result, traced.Traced)
        made[number] = result
    shape = made[0].shape
    return [to_host(found) for found in computed(made, shape, _empty).values()]


def _empty(shape, dtype):
    return sys.modules["cupy"].empty(shape, dtype)


def check(bodies, *images):
    """Hold one kernel to give what NumPy does, dtype and bits."""
    bodies = [b for b in bodies if not _in_half_floats(b, images)]
    with np.errstate(all="ignore"):
        expected = [body(*images) for body in bodies]
    for body, got, wanted in zip(bodies, on_device(bodies, *images), expected, strict=True):
        assert got.dtype == wanted.dtype, body
        np.testing.assert_array_equal(got, wanted, err_msg=str(body))


def _in_half_floats(body, images):
    """Tell whether NumPy computes in half floats, which have no name here."""
    with np.errstate(all="ignore"):
        return body(*images).dtype == np.float16


def supported(ufunc, *dtypes):
    try:
        ufunc.resolve_dtypes((*map(np.dtype, dtypes), None))
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("dtype", [*DTYPES, *FLOATS])
def test_ufuncs_are_numpy_s(dtype):
    one, other = awkward(dtype), awkward(dtype, 3)[:, ::-1]
    unary = [u for u in (*ONE, *(OF_FLOATS if dtype in FLOATS else ())) if supported(u, dtype)]
    binary = [u for u in TWO if supported(u, dtype, dtype)]
    bodies = [lambda a, b, u=u: u(a) for u in unary] + [lambda a, b, u=u: u(a, b) for u in binary]
    assert len(bodies) > 15
    check(bodies, one, other)


@pytest.mark.parametrize(
    "dtypes", [("int16", "uint8"), ("uint16", "int8"), ("int32", "float32"), ("bool", "int64")]
)
def test_dtypes_are_promoted_as_numpy_does(dtypes):
    images = awkward(dtypes[0]), awkward(dtypes[1], 3)
    check([np.add, np.multiply, np.maximum, np.less], *images)


def test_python_numbers_take_the_dtype_of_the_image_and_others_keep_theirs():
    for dtype in ("uint8", "float32", "uint64"):
        bodies = [
            lambda a: a + 1,
            lambda a: a * 2.5,
            lambda a: a > 7,
            lambda a: np.float64(0.1) + a,
            lambda a: a - np.int8(3),
        ]
        check(bodies, awkward(dtype))
    with pytest.raises(UntraceableError):
        on_device([lambda a: a > 300], awkward("uint8"))


def test_a_plane_is_spread_over_a_volume_and_a_view_is_read_where_it_lies():
    image, plane = awkward("uint16"), awkward("float32")[0, :1]
    check([lambda a, b: a / (b + 1)], image, plane)
    there = to_device(noise((4, 10, 9), "int32", 1), "gpu")[1:, ::2, 1:8]
    made = as_input(there) + 1
    (found,) = computed({"it": made}, made.shape, _empty).values()
    np.testing.assert_array_equal(to_host(found), to_host(there) + 1)


@pytest.mark.parametrize("source", ["uint16", "int32", "float32", "float64"])
def test_the_kernels_of_numbers_are_noted_from_their_own_bodies(source):
    place = Place.whole(Grid.of(SHAPE))
    bodies = [
        *(
            lambda a, t=t: astype.fn(a, t, cast="clip", place=place)
            for t in ("uint8", "int16", "bool", "int64")
        ),
        lambda a: clip.fn(a, 3, 90),
        lambda a: rescale.fn(a, 3, 90, out_range=(0, 200), dtype="uint8"),
        lambda a: rescale.fn(a, 3, 90),
        lambda a: where.fn(a > 7, a, 0),
    ]
    check(bodies, awkward(source))


NAMES = ("add", "subtract", "multiply", "maximum", "minimum", "greater", "where", "cast", "divide")


@settings(max_examples=8)
@given(st.data())
def test_any_chain_is_what_numpy_makes_of_it(data):
    dtypes = [data.draw(st.sampled_from([*DTYPES, *FLOATS])) for _ in range(2)]
    plan = data.draw(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9)), max_size=6))

    def body(*images):
        values = list(images)
        for name, n in plan:
            a, b = values[n % len(values)], values[-1]
            if name == "where":
                made = where.fn(a != 0, b, a) if a.dtype == b.dtype else a
            elif name == "cast":
                made = b.astype(np.float32)
            else:
                made = getattr(np, name)(a.astype(np.int32), b.astype(np.int16))
            values.append(made)
        return values[-1] * 1

    images = [awkward(d, i) for i, d in enumerate(dtypes)]
    images = [np.nan_to_num(i, nan=3, posinf=5, neginf=-5).clip(-99, 99) for i in images]
    images = [i.astype(d) for i, d in zip(images, dtypes, strict=True)]
    check([body], *images)


@lp.pipeline
def numbers(raw: lp.Image):
    """Chains of several steps, one of them written in the middle, and a filter between."""
    light = (raw * 1.5 + 3) / 7
    mask = (light > 2000) & (raw < 30000)
    smooth = gaussian(where(mask, light, 0), sigma=0.8)
    return {"mask": mask, "out": rescale(smooth - 1, 0, 5000, dtype="uint16", out_range=(0, 999))}


def test_a_pipeline_s_chains_are_one_kernel_each(monkeypatch):
    image = picture()
    expected = Run(numbers, "cpu", raw=image).all()
    launched = []
    real = cuda.compiled
    monkeypatch.setattr(
        "lepton_pipe.cuda.chain.compiled",
        lambda source, name: launched.append(source) or real(source, name),
    )
    run = Run(numbers, "gpu", raw=image)
    made = run.all()
    blocks = sum(len(stage.blocks) for stage in run.plan.stages if len(stage.steps) > 4)
    assert len(launched) == 2 * blocks
    assert len(set(launched)) <= 4
    np.testing.assert_array_equal(made["mask"], expected["mask"])
    assert np.abs(made["out"].astype(int) - expected["out"]).max() <= 1


def test_what_cannot_be_noted_down_runs_as_it_is():
    @lp.kernel
    def odd(image):
        return image + 1 if image.any() else image

    @lp.pipeline
    def mixed(raw: lp.Image):
        return odd(raw) * 2

    image = picture()
    np.testing.assert_array_equal(
        Run(mixed, "gpu", raw=image).all()["mixed"], Run(mixed, "cpu", raw=image).all()["mixed"]
    )
