"""Whatever a kernel's own code raises, and wherever: the kernel and the user's line are named."""

import sys
import threading

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import KernelError
from lepton_pipe.kernels import gaussian
from tests.command import cleaned

IMAGE = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)


def _add(a, b):
    return a + b


def _broken(*_):
    raise ZeroDivisionError("as planned")


@lp.kernel(combine=_add, finalize=_broken)
def broken_at_the_end(block):
    return int(block.sum())


@lp.kernel(combine=_broken)
def broken_between_blocks(block):
    return int(block.sum())


@lp.kernel(value=lp.ValueType("float64"))
def broken_on_values(number):
    raise ZeroDivisionError("as planned")


@lp.kernel
def leaves(block):
    sys.exit(0)


@lp.kernel
def asks_wrongly(block):
    return gaussian(lp.Image(None, None), sigma=1)


@lp.kernel
def adds_in_place(block):
    block += 1
    return block


@lp.kernel
def assigns_in_place(block):
    block[:2] = 0
    return block


class _HoldsALock(Exception):  # noqa: N818
    def __init__(self):
        super().__init__("as planned")
        self.lock = threading.Lock()


@lp.kernel
def cannot_be_pickled(block):
    raise _HoldsALock


@lp.kernel(combine=_add)
def total(block):
    return int(block.sum())


def _pipeline(kernel, *, after_total=False):
    @lp.pipeline
    def case(raw: lp.Image):
        return kernel(total(raw)) if after_total else kernel(raw)

    return case


def _failure(pipeline, tmp_path, tiling=None, **options):
    plan = pipeline.plan(raw=IMAGE, out=tmp_path / "out", **options)
    with pytest.raises(KernelError) as caught:
        plan.run(progress=False)
    assert not cleaned(tmp_path / "out")
    return str(caught.value)


@pytest.mark.parametrize("kernel", [broken_at_the_end, leaves, cannot_be_pickled])
def test_the_kernel_and_the_line_are_named(kernel, tmp_path):
    text = _failure(_pipeline(kernel), tmp_path, serial=True)
    assert kernel.name in text
    assert "test_blame.py" in text
    assert "as planned" in text or "SystemExit" in text


@pytest.mark.parametrize("kernel", [adds_in_place, assigns_in_place])
def test_a_kernel_that_changes_its_image_is_told_to_copy_it(kernel, tmp_path):
    text = _failure(_pipeline(kernel), tmp_path, serial=True)
    assert "read-only; a kernel must not change the array it is given" in text
    assert "image.copy()" in text


def test_a_value_kernel_is_named(tmp_path):
    text = _failure(_pipeline(broken_on_values, after_total=True), tmp_path, serial=True)
    assert "broken_on_values failed" in text


def test_what_fails_between_blocks_is_named():
    from lepton_pipe.check import run_in_blocks
    from lepton_pipe.store import open_source

    source = open_source(IMAGE)
    spec = _pipeline(broken_between_blocks).bind({"raw": source.type}, {})
    with pytest.raises(KernelError, match=r"broken_between_blocks failed[\s\S]*combining"):
        run_in_blocks(spec, {"raw": source}, {"y": 7, "x": 9})


def test_an_error_of_our_own_inside_a_kernel_stays_readable(tmp_path):
    text = _failure(_pipeline(asks_wrongly), tmp_path, serial=True)
    assert "asks_wrongly" in text


def test_what_cannot_be_pickled_arrives_from_a_worker(tmp_path):
    text = _failure(_pipeline(cannot_be_pickled), tmp_path, workers=1, threads=1)
    assert "cannot_be_pickled failed on block" in text
    assert "_HoldsALock: as planned" in text
