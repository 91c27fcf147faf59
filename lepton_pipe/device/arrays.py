"""Which module an array belongs to, which device is there, and moving arrays across.

A kernel asks here for the module of its block and so has one body for NumPy and CuPy.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np

from lepton_pipe.errors import RefusedError, UsageError

DeviceChoice = Literal["auto", "cpu", "gpu"]


_loading = threading.RLock()
_TRACED = "lepton_pipe.device.traced"


def load(name: str) -> ModuleType:
    """Import a module that is not needed before something is computed.

    One at a time: two threads that import packages whose modules need each other, such as SciPy's,
    can be handed half of one.
    """
    found = sys.modules.get(name)
    if found is not None and not getattr(found.__spec__, "_initializing", False):
        return found
    with _loading:
        return importlib.import_module(name)


def array_module(*arrays: Any) -> ModuleType:
    """Return the module the arrays belong to: ``cupy`` if any is a CuPy array, else ``numpy``.

    Of arrays that stand for those of a device while a kernel is noted down it is their own, see
    `lepton_pipe.device.traced`.
    """
    found: ModuleType = np
    for array in arrays:
        module = type(array).__module__
        if module == _TRACED:
            return sys.modules[_TRACED]
        if module.partition(".")[0] == "cupy":
            found = importlib.import_module("cupy")
    return found


def ndimage(*arrays: Any) -> ModuleType:
    """Return ``scipy.ndimage``, or ``cupyx.scipy.ndimage`` if any of the arrays is CuPy's."""
    on_device = array_module(*arrays) is not np
    return load("cupyx.scipy.ndimage" if on_device else "scipy.ndimage")


def tracing(array: Any) -> ModuleType | None:
    """Return `lepton_pipe.device.traced` for an array that notes what is done to it; else None."""
    return array_module(array) if type(array).__module__ == _TRACED else None


def loops(name: str, *arrays: Any) -> ModuleType | None:
    """Return the module `name` of compiled CPU loops; None if any of the arrays is not NumPy's.

    Numba takes half a second to load, so it is loaded by whoever computes first.
    """
    if array_module(*arrays) is not np:
        return None
    return load(f"lepton_pipe.compiled.{name}")


def own_kernels(name: str, *arrays: Any) -> ModuleType | None:
    """Return the module `name` of our own CUDA kernels; None if any of the arrays is not CuPy's."""
    cupy = sys.modules.get("cupy")
    if cupy is None or not hasattr(cupy, "RawModule"):
        return None
    if any(type(array).__module__.partition(".")[0] != "cupy" for array in arrays):
        return None
    return load(f"lepton_pipe.cuda.{name}")


@cache
def device_count() -> int:
    """Return the number of CUDA devices that CuPy can use; 0 without CuPy or a driver."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    cupy = importlib.import_module("cupy")
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


def choose_device(choice: DeviceChoice) -> Literal["cpu", "gpu"]:
    """Turn what the user asked for into a device that is there.

    Raises
    ------
    UsageError
        When the choice is none of auto, cpu and gpu.
    RefusedError
        When ``"gpu"`` was asked for and no CUDA device can be used.
    """
    if choice not in get_args(DeviceChoice):
        raise UsageError(f"device={choice!r} is not known; there are auto, cpu and gpu")
    if choice == "gpu" and device_count() == 0:
        raise RefusedError(
            "--device gpu: no CUDA device can be used from here (CuPy missing, or no driver); "
            "install lepton-pipe[gpu] on a machine with a GPU, or use --device auto"
        )
    return "gpu" if choice != "cpu" and device_count() > 0 else "cpu"


def to_device(array: Any, device: Literal["cpu", "gpu"]) -> Any:
    """Return `array` on `device`; the same object when it is there already."""
    if device == "cpu":
        return to_host(array)
    return importlib.import_module("cupy").asarray(array)


def frozen(array: Any) -> Any:
    """Return a view of an array that cannot be written to; other things as they are.

    A kernel that changed what it was given would change what other kernels are given. CuPy has no
    such views: what is wrong there is found on the CPU.
    """
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def to_host(array: Any) -> Any:
    """Return `array` as a NumPy array; the same object when it is one already."""
    if array_module(array) is np:
        return array
    return importlib.import_module("cupy").asnumpy(array)
