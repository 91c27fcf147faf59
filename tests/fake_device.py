"""A stand-in for CuPy, so that what kernels do on a GPU is tested on machines without one.

Its arrays live in a module called ``cupy`` and hold their voxels in a NumPy array that nobody else
gets at: `tests.fake_arrays`. What CuPy refuses is refused: conversion to NumPy that was not asked
for, NumPy arrays among the arguments, functions and arguments that CuPy lacks, ``where=`` of a
ufunc, ``add.at`` on int64. Promotion is NumPy 2's, as in CuPy from version 14 on. Every copy
between host and device is counted.

What it offers is listed in `tests.cupy_reference`; `tests.fake_memory` has its memory and streams.
What it cannot tell, since its numbers are NumPy's: the roundings of a GPU, what CuPy leaves
undefined, the time that things take.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import scipy.ndimage

from lepton_pipe import device as door
from lepton_pipe.cuda import compiled
from lepton_pipe.device.lanes import clear_lanes
from tests.cuda.on_cpu import RawModule
from tests.cupy_reference import FILTERS, ROUTINES, UFUNCS, signatures
from tests.fake_arrays import TRAFFIC, Traffic, ndarray, on_device, ufunc, wrapped
from tests.fake_memory import (
    DEVICE,
    CUDARuntimeError,
    Event,
    Pool,
    Stream,
    alloc_pinned_memory,
    get_elapsed_time,
    reset,
)

# -- routines: https://docs.cupy.dev/en/stable/reference/routines.html ------------------------


def _make(value: Any, dtype: Any = None, order: Any = None) -> ndarray:
    """Copy what is on the host to the device."""
    made = np.array(value, dtype, order=order)
    if made.dtype.kind not in "biufc" or made.dtype.byteorder == ">":
        raise ValueError(f"Unsupported dtype {made.dtype}")
    TRAFFIC.to_device.append(made.shape)
    return ndarray(made)


class Creation:
    """Functions that are written out: they make arrays, or differ from NumPy's."""

    @staticmethod
    def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0):
        return obj.astype(dtype or obj.dtype) if isinstance(obj, ndarray) else _make(obj, dtype)

    @staticmethod
    def asarray(a, dtype=None, order=None):
        if isinstance(a, ndarray):
            return a.astype(dtype or a.dtype, copy=False)
        return _make(a, dtype, order)

    @staticmethod
    def asnumpy(a, stream=None, order="C", out=None):
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    @staticmethod
    def ascontiguousarray(a, dtype=None):
        return ndarray(np.ascontiguousarray(on_device(a), dtype))

    @staticmethod
    def empty(shape, dtype=float, order="C"):
        garbage = np.empty(shape, dtype, order)
        garbage.reshape(-1).view(np.uint8)[:] = 0xA5
        return ndarray(garbage)

    @staticmethod
    def zeros(shape, dtype=float, order="C"):
        return ndarray(np.zeros(shape, dtype, order))

    @staticmethod
    def ones(shape, dtype=None, order="C"):
        return ndarray(np.ones(shape, dtype, order))

    @staticmethod
    def full(shape, fill_value, dtype=None, order="C"):
        return ndarray(np.full(shape, on_device(fill_value), dtype, order))

    @staticmethod
    def arange(start, stop=None, step=1, dtype=None):
        ends = (0, start) if stop is None else (start, stop)
        return ndarray(np.arange(*ends, step, dtype))

    @staticmethod
    def histogram(x, bins=10, range=None, density=False, weights=None):  # noqa: A002
        """Count by edges. Those made here differ from NumPy's in the last place, as is allowed."""
        values = on_device(x).reshape(-1)
        if isinstance(bins, (int, np.integer)):
            edges = np.histogram_bin_edges(values, bins, range)
            edges[1:-1] = np.nextafter(edges[1:-1], edges[-1])
        else:
            edges = bins.get() if isinstance(bins, ndarray) else np.asarray(bins)
        if values.dtype.kind in "iu":  # as CuPy has it, whatever the edges are
            edges = np.append(edges[:-1], edges[-1] + 0.999)
        inside = values[(values >= edges[0]) & (values <= edges[-1])]
        found = np.minimum(np.searchsorted(edges, inside, "right") - 1, edges.size - 2)
        counts = np.bincount(found, minlength=edges.size - 1).astype(np.int64)
        return ndarray(counts), ndarray(edges)


_PLAIN = ("axis", "pad_width", "mode", "kind", "dtype", "minlength", "source", "destination")


def _routine(name: str, signature: inspect.Signature) -> Callable[..., Any]:
    """Return NumPy's function, held to CuPy's signature and to arrays on the device."""

    def called(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        out = bound.arguments.get("out")
        for key, value in bound.arguments.items():
            if key not in (*_PLAIN, "kwargs"):
                several = isinstance(value, (tuple, list)) and key == "tup"
                bound.arguments[key] = (
                    [on_device(v) for v in value] if several else on_device(value)
                )
        if name == "clip":
            _check_clip(bound.arguments)
        with np.errstate(all="ignore"):
            result = getattr(np, name)(*bound.args, **bound.kwargs)
        return wrapped(result) if out is None else out

    return called


def _check_clip(arguments: dict[str, Any]) -> None:
    # cupy.clip knows the ends of integers and floats only: a mask needs both bounds.
    if arguments["a"].dtype == np.bool_ and None in (arguments["a_min"], arguments["a_max"]):
        raise TypeError("Unsupported type <class 'NoneType'>")


# -- filters: https://docs.cupy.dev/en/stable/reference/scipy_ndimage.html --------------------


_ARRAYS = ("input", "weights", "footprint", "structure")


def _filter(name: str, signature: inspect.Signature) -> Callable[..., Any]:
    """Return SciPy's filter, for arrays on the device alone."""

    def called(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for key in set(_ARRAYS) & set(bound.arguments):
            if isinstance(bound.arguments[key], np.ndarray):
                raise TypeError(f"{name}: {key} must be cupy.ndarray")
            bound.arguments[key] = on_device(bound.arguments[key])
        result = getattr(scipy.ndimage, name)(*bound.args, **bound.kwargs)
        return _backwards(*result) if name == "label" else ndarray(result)

    return called


def _backwards(labels: np.ndarray, count: int) -> tuple[ndarray, int]:
    # The order of labels is CuPy's own affair: no result may depend on it.
    return ndarray(np.where(labels > 0, count + 1 - labels, 0).astype(np.int32)), count


def generate_binary_structure(rank, connectivity):
    return _make(scipy.ndimage.generate_binary_structure(rank, connectivity))


# -- the modules ------------------------------------------------------------------------------


def _creation() -> dict[str, Callable[..., Any]]:
    return {n: getattr(Creation, n) for n in vars(Creation) if not n.startswith("_")}


def _modules(devices: int | None) -> dict[str, ModuleType]:
    """Return the modules that CuPy brings; None stands for a machine without a driver."""
    names = (
        *("cupy", "cupy.cuda", "cupy.cuda.runtime"),
        *("cupyx", "cupyx.scipy", "cupyx.scipy.ndimage"),
    )
    found = {name: ModuleType(name) for name in names}
    for name, module in found.items():
        module.__spec__ = ModuleSpec(name, None)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(found[parent], last, module)
    cupy, runtime, nd = found["cupy"], found["cupy.cuda.runtime"], found["cupyx.scipy.ndimage"]
    vars(cupy).update({n: ufunc(n) for n in UFUNCS}, ndarray=ndarray, ufunc=ufunc)
    vars(cupy).update(_creation())
    vars(cupy).update({n: _routine(n, s) for n, s in signatures(ROUTINES).items()})
    vars(nd).update({n: _filter(n, s) for n, s in signatures(FILTERS).items()})
    vars(nd).update(generate_binary_structure=generate_binary_structure)

    def count() -> int:
        if devices is None:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return devices

    vars(runtime).update(CUDARuntimeError=CUDARuntimeError, getDeviceCount=count)
    vars(runtime).update(memGetInfo=lambda: (DEVICE.free - DEVICE.used, 2**34))
    vars(cupy).update(get_default_memory_pool=Pool)
    vars(found["cupy.cuda"]).update(
        Device=lambda number: nullcontext(),
        Event=Event,
        Stream=Stream,
        alloc_pinned_memory=alloc_pinned_memory,
        get_elapsed_time=get_elapsed_time,
    )
    return found


@contextmanager
def fake_cupy(devices: int | None = 1, *, kernels: bool = False) -> Iterator[Traffic]:
    """Let CuPy be importable within the block; yields what is copied to and from the device.

    Parameters
    ----------
    kernels
        Whether CUDA sources can be compiled, for the CPU; else our own kernels are not used.
    """
    made = _modules(devices)
    if kernels:
        vars(made["cupy"]).update(RawModule=RawModule)
    compiled.cache_clear()
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    door.device_count.cache_clear()
    TRAFFIC.clear()
    clear_lanes()
    reset()
    try:
        yield TRAFFIC
    finally:
        clear_lanes()
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        door.device_count.cache_clear()
