"""What a user sees who writes a pipeline that does not fit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import SpecError
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.kernels.morphology import opening
from lepton_pipe.kernels.regions import regionprops
from lepton_pipe.kernels.resample import crop
from tests.spec.binding import bind, image_type, problems


@lp.kernel(combine=np.add, finalize=float, value=lp.ValueType("float64"))
def total(block):
    return block.sum()


@lp.kernel(combine=np.add, value=lp.ValueType("int64", (4,)), finalize=lambda partial: partial)
def quarters(block):
    return np.bincount(block.ravel() % 4, minlength=4)


# -- all problems, each with its line -------------------------------------------------------


def three_mistakes(raw: lp.Image):
    smooth = gaussian(raw, sigma=-1.0)
    part = crop(smooth, z=(0, 2))
    edges = opening(part, size=0)
    return edges + 300


def test_all_problems_are_told_at_once_in_order_with_the_users_own_lines():
    found = problems(three_mistakes)
    assert [p.partition(":")[0] for p in found] == ["gaussian", "crop", "opening", "add"]
    for problem, line in zip(
        found,
        [
            "smooth = gaussian(raw, sigma=-1.0)",
            "part = crop(smooth, z=(0, 2))",
            "edges = opening(part, size=0)",
            "return edges + 300",
        ],
        strict=True,
    ):
        assert problem.splitlines()[-1].strip().endswith(f": {line}")
        assert "test_tracing.py:" in problem.splitlines()[-1]


def test_the_error_counts_the_problems_and_survives_pickling():
    with pytest.raises(SpecError, match=r"three_mistakes: 4 problems\n") as caught:
        bind(three_mistakes)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (copy.pipeline, copy.problems) == (caught.value.pipeline, caught.value.problems)
    assert str(copy) == str(caught.value)


def in_a_loop(raw: lp.Image):
    for _ in range(3):
        raw = gaussian(raw, sigma=-1.0)
    return raw


def test_one_problem_of_one_line_is_told_once():
    assert len(problems(in_a_loop)) == 1


def breaks_after_a_problem(raw: lp.Image):
    gaussian(raw, sigma=-1.0)
    return {}["nothing"]


def test_what_breaks_after_a_problem_does_not_hide_it():
    (problem,) = problems(breaks_after_a_problem)
    assert problem.startswith("gaussian: sigma=-1.0")


def test_an_error_of_the_users_own_is_not_dressed_up():
    def broken(raw: lp.Image):
        return {}["no such key"]

    with pytest.raises(KeyError):
        bind(broken)


def test_a_method_that_arrays_have_is_pointed_to_the_kernel():
    def careless(raw: lp.Image):
        return raw - raw.mean()

    with pytest.raises(SpecError, match=r"Image has no 'mean'[\s\S]*return raw - raw.mean\(\)"):
        bind(careless)


def wrong_calls(raw: lp.Image):
    a = gaussian(raw, 1, 2, 3)
    b = gaussian(raw, width=3)
    return a + b + gaussian(sigma=raw)


def test_calls_that_do_not_fit_the_signature_are_problems_too():
    found = problems(wrong_calls)
    assert "too many positional arguments; it takes image, sigma, truncate" in found[0]
    assert "unexpected keyword argument 'width'" in found[1]
    assert "gaussian() needs image" in found[2]
    assert [f.splitlines()[-1].split(": ")[-1].split(" ")[0] for f in found] == ["a", "b", "return"]


# -- what needs the data --------------------------------------------------------------------


def _if(raw: lp.Image):
    return raw if total(raw) > 3 else raw + 1


def _and(raw: lp.Image):
    return (raw > 3) and (raw < 5)


def _loop(raw: lp.Image):
    for plane in raw:
        raw = plane
    return raw


def _len(raw: lp.Image):
    return raw + len(raw)


def _index(raw: lp.Image):
    return raw[0]


def _mean(raw: lp.Image):
    return raw - np.mean(raw)


def _array(raw: lp.Image):
    return raw + np.asarray(raw)


def _float(raw: lp.Image):
    return raw * float(total(raw))


def _int(raw: lp.Image):
    return raw * int(total(raw))


def _text(raw: lp.Image):
    return raw, f"{total(raw):.2f}"


def _reduce(raw: lp.Image):
    return np.add.reduce(raw)


def _matmul(raw: lp.Image):
    return raw @ raw


def _divmod(raw: lp.Image):
    return np.divmod(raw, 2)


def _dtype(raw: lp.Image):
    return np.add(raw, 1, dtype=np.float32)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (_if, "if, while, and, or, not"),
        (_and, "if, while, and, or, not"),
        (_loop, "iterating"),
        (_len, "len()"),
        (_index, "indexing with 0 (see the kernel crop)"),
        (_mean, "np.mean (see the kernel mean)"),
        (_array, "a NumPy function that is not element-wise"),
        (_float, "float()"),
        (_int, "int()"),
        (_text, "formatting as a number"),
        (_reduce, "np.add used in this way"),
        (_matmul, "np.matmul used in this way"),
        (_divmod, "np.divmod used in this way"),
        (_dtype, "np.add used in this way"),
    ],
)
def test_what_needs_the_data_is_explained_with_the_users_line(fn, words):
    (problem,) = problems(fn)
    assert problem.startswith(f"{words} needs the data, but a pipeline is only described here")
    line = problem.splitlines()[-1]
    assert "test_tracing.py:" in line
    assert any(word in line for word in ("raw", "plane"))


def test_changing_an_image_in_place_is_explained():
    def counts(raw: lp.Image):
        raw += 1
        return raw

    (problem,) = problems(counts)
    assert "write x = x + 1 for x += 1" in problem
    assert problem.endswith(": raw += 1")


def test_nodes_can_be_shown():
    def shown(raw: lp.Image):
        assert repr(raw) == "<Image input yx(12, 16) uint8>"
        assert f"{gaussian(raw)}" == "<Image gaussian yx(12, 16) float32>"
        assert repr(total(raw)) == "<Value total float64>"
        assert repr(regionprops(raw > 1)) == "<Table regionprops>"
        return raw + 1

    with pytest.raises(SpecError, match="regionprops"):  # a mask is not labels
        bind(shown)


# -- what does not fit together -------------------------------------------------------------


def test_images_that_do_not_fit_are_named_with_their_shapes():
    def both(raw: lp.Image, dark: lp.Image):
        return raw - dark

    (problem,) = problems(both, image_type((4, 12, 16)), image_type((12, 15)))
    assert "x2 is yx(12, 15) and does not fit x1, zyx(4, 12, 16)" in problem


def test_other_axes_do_not_fit_although_lengths_do():
    def both(raw: lp.Image, dark: lp.Image):
        return raw - dark

    (problem,) = problems(
        both, image_type((3, 12, 16), axes="zyx"), image_type((3, 12, 16), axes="cyx")
    )
    assert "cyx(3, 12, 16)" in problem


def test_a_plane_fits_every_plane_of_a_stack():
    def both(dark: lp.Image, raw: lp.Image):
        return raw - dark

    spec = bind(both, image_type((12, 1), "float32"), image_type((4, 12, 16)))
    type_ = spec.image_type(spec.outputs["both"])
    assert type_.grid.axes == ("z", "y", "x")
    assert type_.grid.shape == (4, 12, 16)
    assert type_.dtype == np.float32


def test_an_array_among_nodes_is_refused():
    def darker(raw: lp.Image):
        return raw - np.ones((12, 16), np.uint8)

    (problem,) = problems(darker)
    assert "array of shape (12, 16)" in problem
    assert "annotated with lp.Image" in problem


def test_a_value_that_is_an_array_cannot_meet_an_image():
    def counts(raw: lp.Image):
        return raw + quarters(raw)

    (problem,) = problems(counts)
    assert "a value that is an array cannot be combined with an image" in problem


def test_a_table_is_no_input():
    def measured(raw: lp.Image):
        return gaussian(regionprops(raw))

    (problem,) = problems(measured, image_type(kind="labels", dtype="int64"))
    assert "image is a table; kernels take images and values" in problem


@pytest.mark.parametrize("op", [np.add, np.subtract, np.multiply, np.maximum])
def test_uint64_with_int64_is_refused_since_float64_would_lose_values(op):
    def mixed(a: lp.Image, b: lp.Image):
        return op(a, b)

    def scalar(a: lp.Image):
        return op(a, np.int64(3))

    for fn, types in (
        (mixed, ("uint64", "int64")),
        (mixed, ("int32", "uint64")),
        (scalar, ["uint64"]),
    ):
        (problem,) = problems(fn, *(image_type(dtype=t) for t in types))
        assert "becomes float64, which cannot hold integers above 2**53" in problem


def test_comparing_or_dividing_uint64_and_int64_loses_nothing_more():
    def mixed(a: lp.Image, b: lp.Image):
        return {"less": a < b, "ratio": a / b, "plain": a + 3}

    spec = bind(mixed, image_type(dtype="uint64"), image_type(dtype="int64"))
    dtypes = {n: spec.image_type(s).dtype for n, s in spec.outputs.items()}
    assert dtypes == {"less": np.bool_, "ratio": np.float64, "plain": np.uint64}


def test_a_parameter_that_is_not_plain_data_is_refused_at_its_line():
    @lp.kernel
    def apply(block, how):
        return how(block)

    def calls(raw: lp.Image):
        return apply(raw, abs)

    (problem,) = problems(calls)
    assert "how: <built-in function abs>" in problem
    assert problem.endswith(": return apply(raw, abs)")


def test_a_parameter_of_the_pipeline_that_is_not_plain_data_is_refused():
    def calls(raw: lp.Image, *, how=None):
        return raw + 1

    (problem,) = problems(calls, how=abs)
    assert problem.startswith("how: <built-in function abs>")


def test_an_image_of_another_pipeline_is_refused():
    kept = []

    def first(raw: lp.Image):
        kept.append(raw)
        return raw + 1

    def second(raw: lp.Image):
        return raw + kept[0]

    bind(first)
    (problem,) = problems(second)
    assert "an image of another pipeline was used" in problem


def test_an_image_without_voxels_is_refused():
    (problem,) = problems(three_mistakes, image_type((0, 4)))
    assert problem == "image 'raw' has shape (0, 4): there are no voxels to compute"


# -- rules that are wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (lambda sigm: 2, "names sigm, which the kernel does not have; it can name block, sigma"),
        (lambda sigma: 2.5 * sigma, "depth 2.5 is not whole voxels; round it up"),
        (-1, "is negative"),
        ({"z": 1}, "no axis 'z'"),
        ((1, 2, 3), "depth has 3 values"),
    ],
)
def test_a_depth_rule_that_makes_no_sense_is_a_problem_of_the_pipeline(depth, message):
    @lp.kernel(depth=depth)
    def mine(block, sigma=1.0):
        return block

    def uses(raw: lp.Image):
        return mine(raw)

    (problem,) = problems(uses)
    assert message in problem


def test_depth_may_differ_by_axis_and_side():
    @lp.kernel(depth={"y": (1, 0), "x": 3})
    def mine(block):
        return block

    def uses(raw: lp.Image):
        return mine(raw)

    assert bind(uses)["mine"].depth == ((1, 0), (3, 3))
