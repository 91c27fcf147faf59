"""Models in kernels: on the device and the stream of the block, and what goes wrong in them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.device import array_module, memory, run_model, to_device
from lepton_pipe.device.faults import fault_of
from lepton_pipe.errors import DeviceLostError, DeviceMemoryError
from tests.fake_device import fake_cupy


class Tensor:
    """A tensor of the stand-in for PyTorch; its array tells where it is."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array

    def contiguous(self):
        return self


@pytest.fixture
def torch(monkeypatch):
    """Stand for PyTorch; `used` notes streams, and how often memory is given back."""
    made, cuda = ModuleType("torch"), ModuleType("torch.cuda")
    made.used = []

    @contextmanager
    def entered(what):
        made.used.append(what)
        yield

    made.inference_mode = lambda: entered("inference")
    made.from_numpy = made.from_dlpack = Tensor
    cuda.ExternalStream = lambda pointer: f"stream {pointer}"
    cuda.stream = entered
    cuda.is_initialized = lambda: True
    cuda.empty_cache = lambda: made.used.append("emptied")
    made.cuda = cuda
    monkeypatch.setitem(sys.modules, "torch", made)
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    return made


def doubled(tensor):
    return Tensor(tensor.array * 2)


def test_a_model_runs_on_the_host(torch):
    image = np.arange(24.0).reshape(4, 6)[:, ::2]
    image.flags.writeable = False
    seen = []
    got = run_model(lambda t: seen.append(t.array) or doubled(t), image)
    np.testing.assert_array_equal(got, image * 2)
    assert seen[0].flags.writeable and seen[0].flags.c_contiguous
    assert torch.used == ["inference"]


def test_a_model_runs_on_the_device_and_stream_of_the_block(torch, monkeypatch):
    image = np.arange(24.0).reshape(4, 6)
    with fake_cupy() as traffic:
        cupy = sys.modules["cupy"]
        monkeypatch.setattr(cupy, "from_dlpack", lambda t: t.array, raising=False)
        stream = SimpleNamespace(ptr=4711)
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: stream, raising=False)
        there = to_device(image, "gpu")
        before = (len(traffic.to_device), len(traffic.to_host))
        got = run_model(doubled, there)
        assert array_module(got) is cupy
        assert (len(traffic.to_device), len(traffic.to_host)) == before, "nothing is copied"
        np.testing.assert_array_equal(cupy.asnumpy(got), image * 2)
    assert torch.used == ["inference", "stream 4711"]


def test_a_model_is_a_kernel_like_any_other(torch):
    @lp.kernel(depth=0, dtype="float32", scratch=8, cost=1)
    def net(image):
        return run_model(doubled, image.astype(np.float32))

    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    np.testing.assert_array_equal(net(image), image * np.float32(2))


def test_memory_that_a_model_keeps_is_given_back(torch):
    with fake_cupy():
        memory.free_pool()
        assert torch.used == ["emptied"]
        torch.cuda.is_initialized = lambda: False
        memory.free_pool()
    assert torch.used == ["emptied"]


@pytest.mark.parametrize(
    ("name", "text", "meaning"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB", DeviceMemoryError),
        ("AcceleratorError", "CUDA error: an illegal memory access", DeviceLostError),
        ("AcceleratorError", "CUDA error (cudaErrorInvalidValue)", None),
        ("TensorError", "sizes do not match", None),
    ],
)
def test_errors_of_a_model_mean_what_those_of_the_device_do(name, text, meaning):
    error = type(name, (RuntimeError,), {"__module__": "torch"})(text)
    found = fault_of(error)
    assert found is None if meaning is None else type(found) is meaning
