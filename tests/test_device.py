from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import scipy.ndimage

from lepton_pipe import device
from lepton_pipe.errors import RefusedError


class FakeRuntimeError(Exception):
    pass


@pytest.fixture
def cupy(monkeypatch):
    """A module that behaves as CuPy does, as far as the door to it goes."""
    fake = types.ModuleType("cupy")

    class ndarray(np.ndarray):  # noqa: N801
        pass

    ndarray.__module__ = "cupy._core.core"
    fake.ndarray = ndarray
    fake.asarray = lambda a: np.asarray(a).view(ndarray)
    fake.asnumpy = lambda a: np.asarray(a).view(np.ndarray)
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: fake.count, CUDARuntimeError=FakeRuntimeError
    )
    fake.cuda = types.SimpleNamespace(runtime=runtime)
    fake.count = 2
    ndimage = types.ModuleType("cupyx.scipy.ndimage")
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.ndimage", ndimage)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: fake)
    device.device_count.cache_clear()
    yield fake
    device.device_count.cache_clear()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(device, "device_count", lambda: 0)


def test_an_array_belongs_to_its_module(cupy):
    here, there = np.zeros(3), cupy.asarray(np.zeros(3))
    assert device.array_module(here) is np
    assert device.array_module() is np
    assert device.array_module(3.0, here) is np
    assert device.array_module(here, there) is cupy
    assert device.ndimage(here) is scipy.ndimage
    assert device.ndimage(there) is sys.modules["cupyx.scipy.ndimage"]


def test_arrays_are_moved_only_when_they_are_elsewhere(cupy):
    here = np.arange(3)
    assert device.to_host(here) is here
    assert device.to_device(here, "cpu") is here
    there = device.to_device(here, "gpu")
    assert device.array_module(there) is cupy
    back = device.to_device(there, "cpu")
    assert type(back) is np.ndarray
    assert back.tolist() == [0, 1, 2]


def test_a_device_is_chosen_that_is_there(cupy):
    assert device.device_count() == 2
    assert [device.choose_device(c) for c in ("auto", "cpu", "gpu")] == ["gpu", "cpu", "gpu"]


def test_without_a_device_the_cpu_is_taken_and_a_gpu_refused(no_gpu):
    assert [device.choose_device(c) for c in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(RefusedError, match=r"--device gpu: no CUDA device .*--device auto"):
        device.choose_device("gpu")


def test_a_machine_without_a_driver_has_no_devices(cupy):
    def fail():
        raise FakeRuntimeError

    cupy.cuda.runtime.getDeviceCount = fail
    assert device.device_count() == 0
    device.device_count.cache_clear()


def test_a_machine_without_cupy_has_no_devices(monkeypatch):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    device.device_count.cache_clear()
    assert device.device_count() == 0
    device.device_count.cache_clear()
