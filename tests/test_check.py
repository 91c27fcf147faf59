"""The check finds kernels that lie about themselves, and clears those that do not."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.check import check, compare
from lepton_pipe.device import ndimage
from lepton_pipe.errors import KernelError, UsageError
from lepton_pipe.kernels import regionprops, sum_of
from tests.command import lepton, names
from tests.run.five import picture

IMAGE = picture((40, 44), "uint16", 5)


@lp.kernel(depth=2)
def honest(block):
    return ndimage(block).maximum_filter(block, size=5)


@lp.kernel(depth=1)
def too_shallow(block):
    return ndimage(block).maximum_filter(block, size=5)


@lp.kernel
def counts_its_own_voxels(block):
    return block + np.uint16(block.size % 7)


@lp.kernel(combine=lambda a, b: a - b, value=lp.ValueType("int64"))
def order_matters(block):
    return int(block.sum())


@lp.kernel(dtype="float32")
def centred_on_the_block(block):
    return (block - block.mean()).astype(np.float32)


def piped(kernel):
    def one(raw: lp.Image):
        return {"result": kernel(raw)}

    return lp.pipeline(one)


@pytest.mark.parametrize("kernel", [honest, sum_of], ids=["honest", "sum_of"])
def test_a_correct_kernel_is_equal(kernel):
    result = check(piped(kernel), raw=IMAGE, dask=False)
    assert result.equal
    assert {d.verdict for d in result.differences} == {"equal"}
    assert len(result.differences) == 4


@pytest.mark.parametrize(
    "kernel",
    [too_shallow, counts_its_own_voxels, order_matters, centred_on_the_block],
    ids=lambda k: k.name,
)
def test_a_planted_bug_is_found(kernel):
    result = check(piped(kernel), raw=IMAGE, dask=False)
    assert not result.equal
    assert "DIFFERENT" in str(result)


def test_the_place_and_size_of_the_first_difference_are_told():
    @lp.kernel
    def marked(block, place):
        out = block.copy()
        start = place.write.start
        if start[1] > 0:  # the first voxel of every block that is not at the left edge
            out[0, 0] += 10
        return out

    result = check(piped(marked), raw=np.zeros((8, 40), np.int32), dask=False, runs=1)
    (difference,) = result.differences
    assert difference.verdict == "different"
    width = difference.blocks["x"]
    assert width < 40
    assert f"first at [0, {width}] (10 not 0), by 10 at most" in difference.detail


def test_dask_is_asked_too():
    result = check(piped(honest), raw=IMAGE, runs=1)
    assert [d.executor for d in result.differences] == ["dask"]
    assert result.equal


def test_a_part_from_the_middle_is_checked():
    shown = check(piped(honest), raw=IMAGE, part=16, dask=False, runs=1)
    assert shown.shapes == {"raw": (16, 16)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"part": 0}, "part=0 must be a whole number, at least 2: .*leave it out for 128"),
        ({"part": -3}, "part=-3 must be"),
        ({"part": 1}, "part=1 must be"),
        ({"part": 2.5}, "part=2.5 must be"),
        ({"runs": 0}, "runs=0 must be a whole number, at least 1: .*leave it out for 4"),
    ],
)
def test_what_would_compare_nothing_is_refused(how, words):
    with pytest.raises(UsageError, match=words):
        check(piped(honest), raw=IMAGE, **how)


def test_an_input_of_labels_stays_one(tmp_path):
    """Objects that were labelled before are measured in another pipeline."""
    np.save(tmp_path / "raw.npy", IMAGE)
    made = lepton("run", "nuclei", "raw=raw.npy", "out=o", "--serial", cwd=tmp_path)
    assert made.returncode == 0, made.stderr

    @lp.pipeline
    def measure(found: lp.Image, raw: lp.Image):
        return {"table": regionprops(found, raw), "found": found}

    images = {"found": tmp_path / "o" / "labels", "raw": IMAGE}
    result = check(measure, **images, dask=False, runs=2)
    assert result.equal, str(result)
    assert measure(**images)["found"].max() > 0


def test_the_command_says_different_and_exits_with_2(tmp_path):
    np.save(tmp_path / "raw.npy", IMAGE)
    (tmp_path / "mine.py").write_text(
        "import lepton_pipe as lp\n"
        "from scipy.ndimage import maximum_filter\n\n"
        "@lp.kernel(depth=1)\n"
        "def too_shallow(block):\n"
        "    return maximum_filter(block, 5)\n\n"
        "@lp.pipeline\n"
        "def mine(raw: lp.Image):\n"
        "    return too_shallow(raw)\n"
    )
    before = names(tmp_path)
    done = lepton("check", "mine.py", "raw=raw.npy", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "DIFFERENT" in done.stdout
    assert "first at [" in done.stdout
    assert names(tmp_path) - {"__pycache__"} == before


# -- what counts as the same ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "got", "verdict"),
    [
        ([1, 2], [1, 2], "equal"),
        ([1, 2], [1, 3], "different"),
        ([1.0, np.nan], [1.0, np.nan], "equal"),
        ([1.0, np.nan], [1.0, 2.0], "different"),
        ([1.0, 2.0], [1.0, np.nan], "different"),
        ([1.0, np.inf], [1.0, np.inf], "equal"),
        ([1.0, np.inf], [1.0, -np.inf], "different"),
        ([1.0, np.inf], [1.0, 1e300], "different"),
        ([1.0, 1e9], [1.0 + 1e-9, 1e9], "equal within tolerance"),
        ([1.0, 2.0], [1.0 + 1e-9, 2.0], "different"),
        ([0.0, 0.0], [0.0, 1e-300], "different"),
        ([True, False], [True, True], "different"),
    ],
)
def test_what_counts_as_the_same(expected, got, verdict):
    assert compare(np.array(expected), np.array(got))[0] == verdict


def test_other_dtypes_and_shapes_are_different():
    one = np.zeros(3, np.float32)
    assert compare(one, one.astype(np.float64))[0] == "different"
    assert compare(one, one[:2])[0] == "different"
    assert compare({"a": one}, {"b": one})[0] == "different"
    assert compare({"a": one, "b": one}, {"a": one, "b": one + 1})[1].startswith(": column b")


def test_large_integers_are_told_apart():
    a = np.array([2**53, 2**62], np.int64)
    assert compare(a, a + np.array([1, 0]))[0] == "different"


@lp.kernel
def raises(block):
    raise ValueError("not today")


def test_a_kernel_that_raises_is_named_with_its_line():
    @lp.pipeline
    def failing(raw: lp.Image):
        return {"out": raises(raw)}

    with pytest.raises(
        KernelError, match=r"raises failed on the whole part: ValueError: not today"
    ):
        check(failing, raw=IMAGE)
