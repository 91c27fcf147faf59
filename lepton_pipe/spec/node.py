"""Image, Value and Table: what stands for data while a pipeline is described.

Nodes are built by calling kernels on nodes. NumPy's operators and element-wise ufuncs work
between images, values and scalars, with NumPy's own rules for dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.spec.types import ImageKind, ImageType, NodeType, TableType, ValueType

if TYPE_CHECKING:
    from lepton_pipe.spec.kernel import Kernel


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a kernel: its arguments by name, nodes among them, and what its rules said."""

    kernel: Kernel
    args: Mapping[str, Any]
    depth: Depth
    scratch: float
    cost: float
    where: str


class Node:
    """Something that will be computed; holds a type and where it comes from, never data."""

    __slots__ = ("call", "type")
    __hash__ = object.__hash__

    def __init__(self, type_: NodeType, call: Call | None) -> None:
        self.type = type_
        self.call = call

    def _no_data(self, what: str) -> NoReturn:
        raise TypeError(
            f"{what} needs the data, but a pipeline is only described here, nothing is computed "
            "yet: use kernels and NumPy operators (where() instead of if), or call the pipeline "
            "on arrays"
        )

    def __bool__(self) -> bool:
        self._no_data("if, while, and, or, not")

    def __iter__(self) -> NoReturn:
        self._no_data("iterating")

    def __len__(self) -> int:
        self._no_data("len()")

    def __float__(self) -> float:
        self._no_data("float()")

    def __int__(self) -> int:
        self._no_data("int()")

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec) if not spec else self._no_data("formatting as a number")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"{type(self).__name__} has no {name!r}: it stands for data that is not there yet; use "
            f"a kernel, such as mean(image), and not a method, such as image.mean()"
        )

    def __getitem__(self, index: object) -> NoReturn:
        self._no_data(f"indexing with {index!r} (see the kernel crop)")

    def __array_function__(self, func: Any, *_: object) -> NoReturn:
        name = getattr(func, "__name__", "function")
        instead = f" (see the kernel {name})" if name in ("where", "clip", "median", "mean") else ""
        self._no_data(f"np.{name}{instead}")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        self._no_data("a NumPy function that is not element-wise")


class _Arithmetic(NDArrayOperatorsMixin, Node):
    __slots__ = ()
    __hash__ = object.__hash__

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from lepton_pipe.spec.operators import ufunc_kernel

        if "out" in kwargs:
            raise TypeError(
                f"np.{ufunc.__name__} cannot change an image in place: a kernel gives a new image, "
                "so write x = x + 1 for x += 1"
            )
        if method != "__call__" or kwargs or ufunc.nout != 1 or ufunc.signature is not None:
            self._no_data(f"np.{ufunc.__name__} used in this way")
        return ufunc_kernel(ufunc)(*inputs)


class Image(_Arithmetic):
    """An image in a pipeline. As an annotation it marks a pipeline's image parameters."""

    __slots__ = ()
    type: ImageType

    @property
    def grid(self) -> Grid:
        """Shape, axes and voxel size."""
        return self.type.grid

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.type.grid.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.type.grid.ndim

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis names."""
        return self.type.grid.axes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the image will have."""
        return self.type.dtype

    @property
    def kind(self) -> ImageKind:
        """``"image"``, ``"mask"`` or ``"labels"``."""
        return self.type.kind

    def __repr__(self) -> str:
        name = self.call.kernel.name if self.call else "input"
        return f"<Image {name} {''.join(self.axes)}{self.shape} {self.dtype}>"


class Value(_Arithmetic):
    """A number or small array that a reduction will give."""

    __slots__ = ()
    type: ValueType

    def __repr__(self) -> str:
        return f"<Value {self.call.kernel.name if self.call else '?'} {self.type.dtype}>"


class Table(Node):
    """A table of measurements that a reduction will give."""

    __slots__ = ()
    type: TableType

    def __repr__(self) -> str:
        return f"<Table {self.call.kernel.name if self.call else '?'}>"
