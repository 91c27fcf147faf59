"""Kernels of windows compile with CUDA's own compiler, and stay in the registers there are."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from lepton_pipe.cuda import OPTIONS, medians
from lepton_pipe.device import to_device
from tests.cuda import test_extremes, test_medians
from tests.cuda.test_extremes import ball
from tests.cuda.test_nvrtc import ARCHITECTURES, SOURCES, Collected, compiled_log, nvrtc
from tests.fake_device import fake_cupy

pytestmark = pytest.mark.skipif(nvrtc() is None, reason="NVRTC cannot be loaded")


def sources(extremes_in, medians_in):
    """Return the sources for images and windows."""
    SOURCES.clear()
    with fake_cupy(kernels=True):
        sys.modules["cupy"].RawModule = Collected
        for shape, dtype, size in extremes_in:
            test_extremes.extremes_of(np.zeros(shape, dtype), size, largest=len(shape) > 2)
        for shape, dtype, cells in medians_in:
            medians.median(to_device(np.zeros(shape, dtype), "gpu"), cells)
    return sorted(source for source, _ in SOURCES["all"])


@pytest.mark.parametrize(("architecture", "every"), [*zip(ARCHITECTURES, (6, 2), strict=True)])
def test_windows_compile(architecture, every):
    # They differ little: all of them would take a minute.
    found = sources(test_extremes.CASES, test_medians.CASES)
    assert len(found) > 60
    for source in found[::every]:
        compiled_log(source, OPTIONS, architecture)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_what_a_thread_compares_stays_in_registers(dtype):
    shape = (64, 64, 64)
    windows = [np.ones((3, 3, 3), bool), np.ones((1, 5, 5), bool), ball(2, 2, 2)]
    boxes = [(3, 3, 3), (1, 15, 15), (31, 31, 31)]
    found = sources(
        [(shape, dtype, size) for size in [*boxes, ball(2, 2, 2)]],
        [(shape, dtype, cells) for cells in windows[:2]],
    )
    assert len(found) == 7
    for source in found:
        log = compiled_log(source, (*OPTIONS, "--ptxas-options=-v"), "sm_90")
        (spilled,) = re.findall(r"(\d+) bytes spill stores", log)
        assert int(spilled) <= 16, source
