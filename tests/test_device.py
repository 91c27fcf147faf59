"""The one door to CuPy: what is chosen, and what is copied."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import scipy.ndimage

from lepton_pipe.device import (
    array_module,
    choose_device,
    device_count,
    memory,
    ndimage,
    to_device,
    to_host,
)
from lepton_pipe.errors import RefusedError
from tests.fake_device import fake_cupy, ndarray


@pytest.fixture
def no_cupy(monkeypatch):
    """A machine on which CuPy cannot be found, whatever is installed on this one."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    device_count.cache_clear()
    yield
    device_count.cache_clear()


@pytest.fixture
def no_driver():
    with fake_cupy(devices=None) as traffic:
        yield traffic


@pytest.fixture
def two_devices():
    with fake_cupy(devices=2) as traffic:
        yield traffic


def test_without_cupy_there_are_no_devices(no_cupy):
    assert device_count() == 0
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(RefusedError, match="--device gpu: no CUDA device"):
        choose_device("gpu")


def test_without_a_driver_there_are_no_devices(no_driver):
    assert device_count() == 0
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(RefusedError, match="or no driver"):
        choose_device("gpu")


def test_a_machine_whose_devices_are_hidden_has_none():
    with fake_cupy(devices=0):
        assert device_count() == 0
        assert choose_device("auto") == "cpu"


def test_devices_are_counted_and_chosen(two_devices):
    assert device_count() == 2
    assert choose_device("auto") == choose_device("gpu") == "gpu"
    assert choose_device("cpu") == "cpu"


def test_an_error_that_is_not_of_the_driver_is_raised(two_devices, monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["cupy.cuda.runtime"], "getDeviceCount", broken)
    with pytest.raises(ZeroDivisionError):
        device_count()


def test_arrays_go_to_the_device_and_back(two_devices):
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    image.flags.writeable = False
    there = to_device(image, "gpu")
    assert isinstance(there, ndarray)
    back = to_host(there)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, image)
    assert two_devices.to_device == two_devices.to_host == [(3, 4)]


def test_what_is_there_already_is_not_copied(two_devices):
    image = np.zeros((3, 4))
    assert to_host(image) is image
    assert to_device(image, "cpu") is image
    there = to_device(image, "gpu")
    assert to_device(there, "gpu") is there
    assert two_devices.to_device == [(3, 4)]
    assert two_devices.to_host == []


def test_an_array_on_the_device_is_copied_back_for_the_cpu(two_devices):
    assert type(to_device(to_device(np.zeros(3), "gpu"), "cpu")) is np.ndarray
    assert two_devices.to_host == [(3,)]


def test_the_module_is_that_of_any_array(two_devices):
    host, there = np.zeros(3), to_device(np.zeros(3), "gpu")
    cupy, filters = sys.modules["cupy"], sys.modules["cupyx.scipy.ndimage"]
    assert array_module(host) is array_module(host, 3.0) is array_module() is np
    assert array_module(there) is array_module(host, there) is array_module(1, there) is cupy
    assert ndimage(host) is scipy.ndimage
    assert ndimage(there) is ndimage(host, there) is filters


def test_numpy_arrays_need_no_cupy(no_cupy):
    image = np.zeros(3)
    assert to_device(image, "cpu") is to_host(image) is image
    assert array_module(image) is np


# -- RMM ------------------------------------------------------------------------------------------


class Limited:
    def __init__(self, upstream, limit):
        self.upstream, self.limit = upstream, limit

    def get_allocation_limit(self):
        return self.limit


@pytest.fixture
def rmm(monkeypatch):
    """Stand for RMM, with the process's present memory in `current`."""
    made, mr = ModuleType("rmm"), ModuleType("rmm.mr")
    allocators = ModuleType("rmm.allocators.cupy")
    made.__spec__ = ModuleSpec("rmm", None)
    mr.CudaMemoryResource = type("CudaMemoryResource", (), {})
    mr.CudaAsyncMemoryResource = type("CudaAsyncMemoryResource", (), {})
    mr.LimitingResourceAdaptor = Limited
    mr.current = mr.CudaMemoryResource()
    mr.get_current_device_resource = lambda: mr.current
    mr.set_current_device_resource = lambda resource: setattr(mr, "current", resource)
    made.mr, allocators.rmm_cupy_allocator = mr, object()
    for name, module in (("rmm", made), ("rmm.mr", mr), ("rmm.allocators.cupy", allocators)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lepton_pipe.device.memory._rmm_pools", [])
    return made


def test_rmm_hands_out_the_memory_where_it_is_installed(rmm, monkeypatch):
    with fake_cupy():
        asked = []
        cuda = sys.modules["cupy"].cuda
        monkeypatch.setattr(cuda, "set_allocator", asked.append, raising=False)
        memory.limit_pool(2**30)
        memory.limit_pool(2**30)
        assert asked == [sys.modules["rmm.allocators.cupy"].rmm_cupy_allocator]
        assert rmm.mr.current.limit == 2**30
        assert type(rmm.mr.current.upstream) is rmm.mr.CudaAsyncMemoryResource
        memory.limit_pool(2**20)
        assert rmm.mr.current.limit == 2**20
        assert type(rmm.mr.current.upstream) is rmm.mr.CudaAsyncMemoryResource, "not limited twice"
        memory.free_pool()


def test_rmm_hands_out_memory_without_a_limit_too(rmm, monkeypatch):
    with fake_cupy():
        asked = []
        cuda = sys.modules["cupy"].cuda
        monkeypatch.setattr(cuda, "set_allocator", asked.append, raising=False)
        memory.limit_pool(0)
        memory.limit_pool(0)
        assert len(asked) == 1
        assert rmm.mr.current.limit > 2**60


def test_memory_of_rmm_that_was_set_up_before_is_used(rmm, monkeypatch):
    rmm.mr.current = own = object()
    with fake_cupy():
        cuda = sys.modules["cupy"].cuda
        monkeypatch.setattr(cuda, "set_allocator", lambda allocator: None, raising=False)
        memory.limit_pool(2**30)
        assert rmm.mr.current.upstream is own
