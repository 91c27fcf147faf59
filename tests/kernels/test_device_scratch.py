"""No kernel may need more of a GPU than it tells the planner: counted on the stand-in.

It counts the arrays that a kernel's own body makes. What CuPy's functions take inside themselves it
cannot know; the pool's limit and the second attempt of a block are there for that.
"""

from __future__ import annotations

import numpy as np
import pytest

from lepton_pipe.device import to_device
from lepton_pipe.kernels.flatfield import divide_flat
from lepton_pipe.kernels.labels import label_apply, label_join, local_labels
from lepton_pipe.kernels.morphology import erosion
from lepton_pipe.kernels.pointwise import where
from lepton_pipe.kernels.regions import regionprops
from lepton_pipe.plan.on_device import _SMALL_THINGS, device_scratch
from tests.cuda.on_cpu import COMPILER
from tests.fake_device import fake_cupy
from tests.fake_memory import DEVICE
from tests.kernels.blockwise import describe
from tests.kernels.test_scratch import CASES, image, kept, objects, prepared

VOLUME, PLANE = (24, 96, 100), (480, 500)
DTYPES = ("uint16", "float32", "float64")
# Their parameters are for larger images, or they take minutes on the stand-in.
_ELSEWHERE = {"range_counts"}
_CASES = [c for c in CASES if c.kernel.name not in _ELSEWHERE and len(c.shapes[0]) < 4]


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_device_scratch(case):
    shape = VOLUME if len(case.shapes[0]) == 3 else PLANE
    for dtype in sorted(set(DTYPES) & set(case.dtypes)):
        measure(case.kernel, [image(shape, dtype, 0)], case.params)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_device_scratch_of_several_images(dtype):
    first, mask = (image(VOLUME, t, 0) for t in (dtype, bool))
    measure(where, [mask, first, first], {})
    for flat in (first, first[0]):
        measure(divide_flat, [first, flat], {"level": np.ones(1)})


@pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")
@pytest.mark.parametrize("padding", [0, 1], ids=["whole", "view"])
@pytest.mark.parametrize("kind", ["blobs", "noise"])
@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_device_scratch_of_labels(kind, dtype, padding):
    mask = objects(VOLUME, kind, padding).astype(dtype)
    measure(label_join, [mask], {})
    _, count = local_labels(mask, 3, 1)
    measure(label_apply, [mask], {"table": np.arange(count + 1)})


@pytest.mark.skipif(COMPILER is None, reason="g++ is not there to compile kernels")
@pytest.mark.parametrize("kind", ["blobs", "noise"])
@pytest.mark.parametrize("dtype", [None, "uint16", "float16", "float32", "int64"])
def test_device_scratch_of_regionprops(kind, dtype):
    labels, _ = local_labels(objects(VOLUME, kind, 0), 3, 1)
    images = [labels] if dtype is None else [labels, image(VOLUME, dtype, 0)]
    measure(regionprops, images, {})


def test_device_scratch_of_a_window_without_a_kernel_of_ours():
    measure(erosion, [image(VOLUME, "float64", 0)], {"radius": 7})


def measure(kernel, arrays, params):
    """Assert that what a kernel takes of a device for a moment is what it declares."""
    step, args, place = prepared(kernel, arrays, params)
    with fake_cupy(kernels=COMPILER is not None), np.errstate(all="ignore"):
        names = list(args)[: len(arrays)]
        args |= {n: to_device(np.ascontiguousarray(args[n]), "gpu") for n in names}
        DEVICE.most = before = DEVICE.used
        result = kernel.run(args, place)
        taken = DEVICE.most - before - (kept(step, result) if kernel.role != "sweep" else 0)
    scratch = (taken - _SMALL_THINGS) / place.grid.size
    declared = device_scratch(describe(kernel, *arrays, **params), step)
    assert scratch <= declared, f"{arrays[0].dtype}: needs {scratch:.1f}, declares {declared}"
