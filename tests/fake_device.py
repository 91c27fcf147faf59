"""A stand-in for CuPy, so that what kernels do on a GPU is tested on machines without one.

Its arrays live in a module called ``cupy`` and hold their voxels in a NumPy array that nobody else
gets at. What CuPy refuses is refused: conversion to NumPy that was not asked for, NumPy arrays
among the arguments, functions and arguments that CuPy lacks, ``where=`` of a ufunc, ``add.at`` on
int64. Promotion is NumPy 2's, as in CuPy from version 14 on. Every copy between host and device is
counted.

What it offers is listed in `tests.cupy_reference`; `tests.fake_memory` has its memory and streams.
What it cannot tell, since its numbers are NumPy's: the roundings of a GPU, what CuPy leaves
undefined, the time that things take.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.ndimage

from lepton_pipe import device as door
from lepton_pipe.cuda import compiled
from lepton_pipe.device.lanes import clear_lanes
from tests.cuda.on_cpu import RawModule
from tests.cupy_reference import ADDED_AT, FILTERS, LEAST_AT, ROUTINES, UFUNCS, signatures
from tests.fake_memory import (
    DEVICE,
    CUDARuntimeError,
    Event,
    Pool,
    Stream,
    alloc_pinned_memory,
    copy_in,
    copy_out,
    get_elapsed_time,
    reset,
)

_COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
_SCALARS = (bool, int, float, complex, np.generic)


@dataclass
class Traffic:
    """What was copied: the shape of every array that went each way. `()` is a single number."""

    to_device: list[tuple[int, ...]] = field(default_factory=list)
    to_host: list[tuple[int, ...]] = field(default_factory=list)

    def part(self, way: list[tuple[int, ...]], part: np.ndarray) -> None:
        """Count a part of an image that goes one way as the image, once its last part has gone."""
        whole = part
        while isinstance(whole.base, np.ndarray) and whole.base.nbytes >= whole.nbytes:
            whole = whole.base
        address = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        if address + part.nbytes == whole.nbytes:
            way.append(whole.shape)

    def clear(self) -> None:
        """Forget what was counted."""
        self.to_device.clear()
        self.to_host.clear()


TRAFFIC = Traffic()


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801  CuPy's name
    """A device array. https://docs.cupy.dev/en/stable/reference/generated/cupy.ndarray.html."""

    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, voxels: Any) -> None:
        assert isinstance(voxels, (np.ndarray, np.generic))
        self._raw = np.asarray(voxels)
        DEVICE.check()
        DEVICE.take(self._raw)

    # What work on the current stream finds; `_raw` is for views and copies, which wait for nothing.
    _voxels = property(lambda self: DEVICE.use(self._raw))
    shape = property(lambda self: self._raw.shape)
    dtype = property(lambda self: self._raw.dtype)
    ndim = property(lambda self: self._raw.ndim)
    size = property(lambda self: self._raw.size)
    strides = property(lambda self: self._raw.strides)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._raw.flags.c_contiguous))
    itemsize = property(lambda self: self._raw.itemsize)
    nbytes = property(lambda self: self._raw.nbytes)
    T = property(lambda self: ndarray(self._raw.T))

    # -- between host and device ----------------------------------------------------------------

    def set(self, arr: np.ndarray, stream: Stream | None = None) -> None:
        """Copy from the host, without waiting where a stream is named."""
        assert (arr.shape, arr.dtype) == (self.shape, self.dtype)
        assert stream is not None, "copies of ours name their stream"
        DEVICE.check()
        TRAFFIC.part(TRAFFIC.to_device, self._raw)
        copy_in(self._raw, arr, stream)

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> np.ndarray:
        """Copy to the host."""
        if out is None:
            TRAFFIC.to_host.append(self.shape)
            return self._voxels.copy()
        assert (out.shape, out.dtype, blocking) == (self.shape, self.dtype, False)
        DEVICE.check()
        TRAFFIC.part(TRAFFIC.to_host, self._raw)
        copy_out(out, self._raw, stream)
        return out

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    # -- as NumPy dispatches ----------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        ours = getattr(sys.modules["cupy"], ufunc.__name__, None)
        called = ours if method == "__call__" else getattr(ours, method, None)
        if called is None:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        if ufunc.__name__ in _COMPARISONS:
            numbers = [isinstance(x, np.ndarray) and x.ndim == 0 for x in inputs]
            inputs = tuple(x.item() if n else x for x, n in zip(inputs, numbers, strict=True))
        return called(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        ours = getattr(sys.modules["cupy"], func.__name__, None)
        return NotImplemented if ours is None else ours(*args, **kwargs)

    # -- indexing ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        basic = all(isinstance(p, (slice, int)) or p is ... for p in _parts(index))
        return ndarray(self._raw[index] if basic else self._voxels[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._voxels[_index(index)] = _on_device(value)

    # -- methods ----------------------------------------------------------------------------

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: Any = True
    ) -> ndarray:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        with np.errstate(all="ignore"):
            return ndarray(self._voxels.astype(dtype, order))

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:  # noqa: A002
        return ndarray(self._raw.view(dtype or self.dtype))

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        made = self._raw.reshape(*shape, order=order)
        is_view = np.shares_memory(made, self._raw) or not made.size
        return ndarray(made if is_view else self._voxels.reshape(*shape, order=order))

    def copy(self, order: str = "C") -> ndarray:
        return ndarray(self._voxels.copy(order))

    def ravel(self, order: str = "C") -> ndarray:
        return ndarray(self._voxels.ravel(order))

    def transpose(self, *axes: Any) -> ndarray:
        return ndarray(self._voxels.transpose(*axes))

    def fill(self, value: Any) -> None:
        self[...] = value


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: cupy_function(name)(self, *args, **kwargs)


for _name in ("all", "any", "clip", "max", "mean", "min", "nonzero", "sum", "take"):
    setattr(ndarray, _name, _method(_name))


def cupy_function(name: str) -> Callable[..., Any]:
    return getattr(sys.modules["cupy"], name)


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _index(index: Any) -> Any:
    parts = _parts(index)
    found = tuple(p if isinstance(p, slice) or p is ... else _on_device(p) for p in parts)
    return found if isinstance(index, tuple) else found[0]


def _on_device(argument: Any) -> Any:
    """Return the voxels of a device array, or a number; refuse all that lies on the host."""
    if isinstance(argument, ndarray):
        return argument._voxels
    if isinstance(argument, _SCALARS) or argument is None:
        return argument
    raise TypeError(f"Unsupported type {type(argument)}")


def _wrapped(result: Any) -> Any:
    """Return results as they come from CuPy: arrays, of no axes where NumPy gives a number."""
    if isinstance(result, tuple):
        return tuple(map(_wrapped, result))
    return ndarray(np.asarray(result))


class ufunc:  # noqa: N801  CuPy's name
    """A universal function. https://docs.cupy.dev/en/stable/reference/generated/cupy.ufunc.html."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._numpy: np.ufunc = getattr(np, name)

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
        if set(kwargs) - {"casting"}:
            raise TypeError(f"Wrong arguments {kwargs}")
        kwargs |= {} if dtype is None else {"dtype": dtype}
        kwargs |= {} if out is None else {"out": out._voxels}
        with np.errstate(all="ignore"):
            result = self._numpy(*map(_on_device, args), **kwargs)
        return _wrapped(result) if out is None else out

    def outer(self, A: Any, B: Any, **kwargs: Any) -> Any:  # noqa: N803  CuPy's names
        return self(A.reshape(A.shape + (1,) * B.ndim), B, **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        if a.dtype not in {"add": ADDED_AT, "minimum": LEAST_AT}.get(self.__name__, ()):
            raise TypeError(f"cupy.{self.__name__}.at does not support {a.dtype}")
        self._numpy.at(a._voxels, _index(indices), _on_device(b))


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
        return ndarray(np.ascontiguousarray(_on_device(a), dtype))

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
        return ndarray(np.full(shape, _on_device(fill_value), dtype, order))

    @staticmethod
    def arange(start, stop=None, step=1, dtype=None):
        ends = (0, start) if stop is None else (start, stop)
        return ndarray(np.arange(*ends, step, dtype))

    @staticmethod
    def histogram(x, bins=10, range=None, density=False, weights=None):  # noqa: A002
        """Count by edges. Those made here differ from NumPy's in the last place, as is allowed."""
        values = _on_device(x).reshape(-1)
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
                    [_on_device(v) for v in value] if several else _on_device(value)
                )
        if name == "clip":
            _check_clip(bound.arguments)
        with np.errstate(all="ignore"):
            result = getattr(np, name)(*bound.args, **bound.kwargs)
        return _wrapped(result) if out is None else out

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
            bound.arguments[key] = _on_device(bound.arguments[key])
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
