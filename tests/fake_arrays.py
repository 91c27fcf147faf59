"""Arrays of a device that there is not, as CuPy's behave: see `tests.fake_device`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.cupy_reference import ADDED_AT, LEAST_AT
from tests.fake_memory import DEVICE, Stream, copy_in, copy_out

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
        self._voxels[_index(index)] = on_device(value)

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
    found = tuple(p if isinstance(p, slice) or p is ... else on_device(p) for p in parts)
    return found if isinstance(index, tuple) else found[0]


def on_device(argument: Any) -> Any:
    """Return the voxels of a device array, or a number; refuse all that lies on the host."""
    if isinstance(argument, ndarray):
        return argument._voxels
    if isinstance(argument, _SCALARS) or argument is None:
        return argument
    raise TypeError(f"Unsupported type {type(argument)}")


def wrapped(result: Any) -> Any:
    """Return results as they come from CuPy: arrays, of no axes where NumPy gives a number."""
    if isinstance(result, tuple):
        return tuple(map(wrapped, result))
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
            result = self._numpy(*map(on_device, args), **kwargs)
        return wrapped(result) if out is None else out

    def outer(self, A: Any, B: Any, **kwargs: Any) -> Any:  # noqa: N803  CuPy's names
        return self(A.reshape(A.shape + (1,) * B.ndim), B, **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        if a.dtype not in {"add": ADDED_AT, "minimum": LEAST_AT}.get(self.__name__, ()):
            raise TypeError(f"cupy.{self.__name__}.at does not support {a.dtype}")
        self._numpy.at(a._voxels, _index(indices), on_device(b))
