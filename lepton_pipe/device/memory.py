"""The memory of devices: what is free, how much of it a process may take, and giving it back.

Where RMM is installed it hands out the memory, so that other libraries of the process (cuCIM, cuDF,
a model) share one pool with us. Else CuPy's own pool does.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import threading
from typing import Any

from lepton_pipe.device.models import free_models_memory

_limiting = threading.Lock()
_NO_LIMIT = 2**62


def _cupy() -> Any:
    return importlib.import_module("cupy")


class _RmmPool:
    """RMM's memory, held to a limit; CuPy asks it for all that it needs."""

    def __init__(self, rmm: Any) -> None:
        self._rmm = rmm
        self._limited: Any = None
        self._memory = _memory_of(rmm)

    def set_limit(self, size: int) -> None:
        """Hold what is allocated from now on to so many bytes; 0 is no limit."""
        limited = self._rmm.mr.LimitingResourceAdaptor(self._memory, size or _NO_LIMIT)
        self._rmm.mr.set_current_device_resource(limited)
        allocator = importlib.import_module("rmm.allocators.cupy").rmm_cupy_allocator
        _cupy().cuda.set_allocator(allocator)
        self._limited = limited

    def get_limit(self) -> int:
        """Return the limit in bytes; 0 where there is none, -1 while RMM hands out nothing yet."""
        found = -1 if self._limited is None else int(self._limited.get_allocation_limit())
        return found if found < _NO_LIMIT else 0


def _memory_of(rmm: Any) -> Any:
    """Return the memory that was set up in this process, or else CUDA's own pool."""
    found = rmm.mr.get_current_device_resource()
    if type(found) is not rmm.mr.CudaMemoryResource:
        return found
    return rmm.mr.CudaAsyncMemoryResource()


_rmm_pools: list[_RmmPool] = []


def _pool() -> Any:
    """Return what hands out device memory: RMM where it is installed, else CuPy's pool."""
    if importlib.util.find_spec("rmm") is None:
        return _cupy().get_default_memory_pool()
    if not _rmm_pools:
        _rmm_pools.append(_RmmPool(importlib.import_module("rmm")))
    return _rmm_pools[0]


def free_bytes() -> int:
    """Return the bytes that are free on the device that has the least.

    CUDA takes some hundred MiB on each device for itself to find that out.
    """
    cupy = _cupy()
    found = []
    for number in range(int(cupy.cuda.runtime.getDeviceCount())):
        with cupy.cuda.Device(number):
            found.append(int(cupy.cuda.runtime.memGetInfo()[0]))
    return min(found)


def limit_pool(limit: int) -> None:
    """Keep the device memory that arrays of this process take within `limit` bytes; 0: no limit.

    Blocks that CuPy's pool only keeps for later count, too: it frees those before it fails.
    """
    with _limiting:
        pool = _pool()
        if pool.get_limit() != limit:
            pool.set_limit(size=limit)


def free_pool() -> None:
    """Give back to the device what this process holds there and does not need.

    That is what its pool keeps for later, and arrays in the traces of errors that were caught.
    """
    gc.collect()
    free_models_memory()
    # CuPy's has what was taken before RMM; RMM's own memory gives back what is asked for elsewhere.
    _cupy().get_default_memory_pool().free_all_blocks()
