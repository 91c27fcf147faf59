"""The memory of devices: what is free, how much of it a process may take, and giving it back."""

from __future__ import annotations

import gc
import importlib
import threading
from typing import Any

_limiting = threading.Lock()


def _cupy() -> Any:
    return importlib.import_module("cupy")


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
    """Keep CuPy's pool of device memory of this process within `limit` bytes; 0 is no limit.

    Blocks that the pool only keeps for later count, too: CuPy frees those before it fails.
    """
    pool = _cupy().get_default_memory_pool()
    with _limiting:
        if pool.get_limit() != limit:
            pool.set_limit(size=limit)


def free_pool() -> None:
    """Give back to the device what this process holds there and does not need.

    That is what its pool keeps for later, and arrays in the traces of errors that were caught.
    """
    cupy = _cupy()
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()


def pool_bytes() -> tuple[int, int]:
    """Return what arrays of this process hold on the device, and what its pool holds in all."""
    pool = _cupy().get_default_memory_pool()
    return int(pool.used_bytes()), int(pool.total_bytes())
