"""NumPy's operators and element-wise functions as kernels, with NumPy's own rules for dtypes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lepton_pipe.spec.absorb import Operation, Voxelwise
from lepton_pipe.spec.kernel import Kernel
from lepton_pipe.spec.types import ImageType, Place, ValueType


@functools.cache
def ufunc_kernel(ufunc: np.ufunc) -> Kernel:
    """Return the kernel that applies a NumPy ufunc element by element."""
    return UfuncKernel(ufunc)


class UfuncKernel(Kernel):
    """A NumPy ufunc. Its arguments are called ``x1, x2, ...`` as in NumPy's documentation."""

    def __init__(self, ufunc: np.ufunc) -> None:
        # NumPy converts dtypes in small buffers.
        absorb = _VOXELWISE.get(ufunc, ())
        super().__init__(
            _as_function(ufunc), cost=1.0, scratch=0.5, device_scratch=0.5, absorb=absorb
        )
        self.fn = ufunc
        names = [f"x{i + 1}" for i in range(ufunc.nin)]
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.signature = inspect.Signature([inspect.Parameter(n, positional) for n in names])

    def __reduce_ex__(self, protocol: Any) -> Any:
        return ufunc_kernel, (self.fn,)

    def run(self, args: Mapping[str, Any], place: Place | None) -> Any:
        """Apply the ufunc; it needs no place."""
        del place
        return _applied(self.fn, list(args.values()))

    def refuse_values(self, context: Mapping[str, Any]) -> None:
        """Raise where an image cannot be combined with a value that is known now."""
        with np.errstate(all="ignore"):
            _applied(self.fn, [_sample(a) for a in context.values()])

    def _compute_whole(self, bound: dict[str, Any]) -> Any:
        return self.run(bound, None)

    def _image_dtype(self, first: ImageType, context: Mapping[str, Any]) -> np.dtype[Any]:
        del first
        arguments = [context[n] for n in context if n != "grid"]
        if any(isinstance(a, ValueType) and a.shape for a in arguments):
            raise TypeError(
                "a value that is an array cannot be combined with an image voxel by voxel: the "
                "image is computed in blocks; make a number of it first"
            )
        with np.errstate(all="ignore"):
            result = np.asarray(_applied(self.fn, [_sample(a) for a in arguments]))
        _refuse_lossy(self.fn, arguments, result.dtype)
        return result.dtype

    def _value_type(self, context: Mapping[str, Any]) -> ValueType:
        arguments = list(context.values())
        with np.errstate(all="ignore"):
            result = np.asarray(_applied(self.fn, [_sample(a) for a in arguments]))
        shapes = [a.shape for a in arguments if isinstance(a, ValueType)]
        return ValueType(str(result.dtype), max(shapes, key=len))


def _operation(name: Any, *, x1: Any, x2: Any, place: Place) -> tuple[Operation]:
    del x1, place
    return ((name, x2),)


# What a filter can do to each voxel that it reads.
_VOXELWISE: Mapping[Any, Voxelwise] = {
    ufunc: Voxelwise(functools.partial(_operation, ufunc.__name__))
    for ufunc in (np.add, np.subtract, np.multiply, np.maximum, np.minimum)
}


def _as_function(ufunc: np.ufunc) -> Callable[..., Any]:
    """Return a function with the name, text and signature that a ufunc itself does not have."""

    def function(*args: Any) -> Any:
        return ufunc(*args)

    function.__name__, function.__doc__ = ufunc.__name__, ufunc.__doc__
    return function


def _sample(argument: Any) -> Any:
    if isinstance(argument, ImageType):
        return np.ones((1,), argument.dtype)
    return argument.sample() if isinstance(argument, ValueType) else argument


def _applied(ufunc: Any, arguments: list[Any]) -> Any:
    """Apply a ufunc; of a number that the dtype of an image does not hold say what to do."""
    try:
        return ufunc(*arguments)
    except OverflowError as error:
        dtypes = [a.dtype for a in arguments if hasattr(a, "dtype")]
        numbers = [a for a in arguments if type(a) is int]
        if not dtypes or not numbers:
            raise
        dtype = np.result_type(*dtypes)
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        beyond = next((n for n in numbers if not low <= n <= high), numbers[0])
        raise OverflowError(
            f"{beyond} does not fit {dtype}, which holds {low} to {high} and would be the dtype of "
            "the result: it cannot be computed; use astype on the image first, such as "
            'astype(image, "float32")'
        ) from error


def _refuse_lossy(ufunc: Any, arguments: list[Any], result: np.dtype[Any]) -> None:
    """Refuse what NumPy does in silence: a signed with an unsigned 64-bit integer gives float64."""
    integers = [
        np.dtype(a.dtype)
        for a in arguments
        if isinstance(a, (ImageType, np.integer)) and np.dtype(a.dtype).kind in "iu"
    ]
    mixed = len(integers) == 2 and integers[0].kind != integers[1].kind
    if mixed and result == np.float64 and "qq->q" in ufunc.types:
        raise TypeError(
            f"{integers[0]} with {integers[1]} becomes float64, which cannot hold integers above "
            "2**53: values would be lost; use astype on one of them first"
        )
