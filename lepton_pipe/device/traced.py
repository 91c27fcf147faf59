"""Arrays that note what is done to them: a kernel's own body tells what one CUDA kernel must do.

A kernel that looks at single voxels is run once on such arrays, before anything is computed. What
NumPy's functions would do to arrays of a device, they note; a chain of kernels becomes one
expression, which `lepton_pipe.cuda.chain` turns into one kernel. So the body in array operations
stays the only one, and says what must come out.

What depends on values (``if image.any()``), on neighbours or on functions that are not known raises
`UntraceableError`: such a kernel runs as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_pipe.cuda import smooth
from lepton_pipe.cuda.chain import Node, UnknownOperationError, chain

_NUMBERS = (bool, int, float, np.generic)


class UntraceableError(Exception):
    """A kernel does something that cannot be noted down; it has to run as it is."""


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of the device that is not computed yet."""

    __array_priority__ = 200
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, node: Node, shape: tuple[int, ...]) -> None:
        self.node, self.shape = node, shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that it would have."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """Number of its axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of its voxels."""
        return int(np.prod(self.shape))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", (None,))
        if method != "__call__" or kwargs or ufunc.nout != 1:
            raise UntraceableError(f"{ufunc.__name__} with {method} and {', '.join(kwargs)}")
        return _into(out[0], _applied(ufunc, inputs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise UntraceableError(func.__name__)

    def __bool__(self) -> bool:
        raise UntraceableError("a decision that depends on values")

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        whole = len(parts) == self.ndim and all(
            isinstance(part, slice) and part.indices(n) == (0, n, 1)
            for part, n in zip(parts, self.shape, strict=True)
        )
        if not whole:
            raise UntraceableError("a part of an image")
        return self

    def __setitem__(self, mask: Any, value: Any) -> None:
        if not isinstance(mask, Traced) or mask.dtype != np.bool_:
            raise UntraceableError("a part of an image is set")
        if mask.shape != self.shape:
            raise UntraceableError("a mask of another shape")
        made = _operand(value, self.dtype)
        self.node = Node("where", self.dtype, (mask.node, made, self.node))

    def astype(self, dtype: Any, copy: bool = True) -> Traced:
        """Convert to a dtype."""
        target = np.dtype(dtype)
        if target == self.dtype:
            return Traced(self.node, self.shape) if copy else self
        return Traced(_cast(self.node, target), self.shape)

    def clip(self, low: Any = None, high: Any = None, out: Any = None) -> Traced:
        """Keep values between two bounds."""
        return clip(self, low, high, out)


# -- functions, as those of a module of arrays ----------------------------------------------------


def where(condition: Any, a: Any, b: Any) -> Traced:
    """Choose voxel by voxel."""
    shape = _shape_of((condition, a, b))
    dtype = np.result_type(*(x.dtype if hasattr(x, "dtype") else x for x in (a, b)))
    chosen = (_operand(x, dtype) for x in (a, b))
    return Traced(Node("where", dtype, (_operand(condition, np.dtype(bool)), *chosen)), shape)


def clip(image: Any, low: Any, high: Any, out: Any = None) -> Traced:
    """Keep values between two bounds, as NumPy does: NaN stays, and `high` goes before `low`."""
    made = image
    if low is not None:
        made = _applied(np.maximum, (made, low))
    if high is not None:
        made = _applied(np.minimum, (made, high))
    return _into(out, made)


def correlate(block: Traced, weights: Sequence[Any], inner: Sequence[slice]) -> Traced:
    """Correlate with weights along axes, see `lepton_pipe.kernels.correlation.correlate`."""
    if np.promote_types(block.dtype, np.float32) != np.float32:
        raise UntraceableError(f"a filter in double precision, of {block.dtype}")
    try:
        found = smooth.filter_of(weights, inner, block.shape)
    except UnknownOperationError as error:
        raise UntraceableError(str(error)) from error
    shape = tuple(len(range(n)[part]) for part, n in zip(inner, block.shape, strict=True))
    operand = _cast(block.node, np.dtype(np.float32))
    return Traced(Node(smooth.FILTER, operand.dtype, (operand,), found), shape)


def asarray(value: Any, dtype: Any = None) -> Any:
    """Return an image as it is, or converted; copy small arrays of the host to the device."""
    if isinstance(value, Traced):
        return value if dtype is None else value.astype(dtype, copy=False)
    return importlib.import_module("cupy").asarray(value, dtype)


def __getattr__(name: str) -> Any:
    """Return NumPy's ufunc of a name, which asks the array what to do."""
    found = None if name.startswith("__") else getattr(np, name, None)
    if isinstance(found, np.ufunc):
        return found
    raise AttributeError(f"{name} cannot be noted down")


# -- how it is noted ------------------------------------------------------------------------------


def _into(out: Any, made: Traced) -> Traced:
    if out is None:
        return made
    if not isinstance(out, Traced) or out.shape != made.shape:
        raise UntraceableError("a result of another shape")
    if not np.can_cast(made.dtype, out.dtype, "same_kind"):
        raise UntraceableError(f"{made.dtype} into {out.dtype}")
    out.node = _cast(made.node, out.dtype)
    return out


def _applied(ufunc: np.ufunc, inputs: Sequence[Any]) -> Traced:
    asked = [_asked(x) for x in inputs]
    try:
        *computes, result = ufunc.resolve_dtypes((*asked, None))
    except TypeError as error:
        raise UntraceableError(str(error)) from error
    if len(set(computes)) != 1:
        raise UntraceableError(f"{ufunc.__name__} of {', '.join(map(str, computes))}")
    operands = tuple(_operand(x, work_) for x, work_ in zip(inputs, computes, strict=True))
    return Traced(Node(ufunc.__name__, result, operands), _shape_of(inputs))


def _asked(argument: Any) -> Any:
    if isinstance(argument, bool):
        return np.dtype(bool)
    if isinstance(argument, (int, float)) and not isinstance(argument, np.generic):
        return type(argument)  # it takes the dtype of the others
    return _of(argument).dtype


def _of(argument: Any) -> Any:
    """Return an operand; an array of the device as an input."""
    if isinstance(argument, (Traced, *_NUMBERS)):
        return argument
    if type(argument).__module__.partition(".")[0] == "cupy":
        return as_input(argument)
    raise UntraceableError(f"an operand that is a {type(argument).__name__}")


def _operand(argument: Any, dtype: np.dtype[Any]) -> Node:
    argument = _of(argument)
    if isinstance(argument, Traced):
        return _cast(argument.node, dtype)
    try:
        number = _number(argument, dtype)
    except OverflowError as error:
        raise UntraceableError(str(error)) from error
    return Node("number", dtype, value=number)


def _number(argument: Any, dtype: np.dtype[Any]) -> Any:
    """Return a number as one of a dtype; an integer that does not fit is not wrapped."""
    with np.errstate(all="ignore"):
        if isinstance(argument, np.generic):
            return np.asarray(argument).astype(dtype)[()]
        return np.asarray(argument, dtype)[()]


def _cast(node: Node, dtype: np.dtype[Any]) -> Node:
    return node if node.dtype == dtype else Node("cast", dtype, (node,))


def _shape_of(arguments: Sequence[Any]) -> tuple[int, ...]:
    return np.broadcast_shapes(*(getattr(a, "shape", ()) for a in arguments))


# -- from kernels to one kernel -------------------------------------------------------------------


def as_input(array: Any) -> Traced:
    """Return what stands for an array of the device."""
    return Traced(Node("input", array.dtype, value=array), tuple(array.shape))


def computed(results: Mapping[str, Traced], shape: tuple[int, ...], empty: Any) -> dict[str, Any]:
    """Compute traced arrays of one shape, all in one kernel.

    Parameters
    ----------
    empty
        Makes an array of the device, of a shape and dtype.

    Raises
    ------
    UntraceableError
        When one has another shape, or something in it that has no name in CUDA.
    """
    if any(r.shape != shape for r in results.values()):
        raise UntraceableError("a result of another shape")
    nodes = [r.node for r in results.values()]
    filters = _filters(nodes)
    if len(filters) > 1:
        raise UntraceableError("several filters")
    outputs = {name: empty(shape, r.dtype) for name, r in results.items()}
    try:
        if filters:
            smooth.run(nodes, filters[0], list(outputs.values()))
        else:
            chain(nodes, shape).run(list(outputs.values()))
    except UnknownOperationError as error:
        raise UntraceableError(str(error)) from error
    return outputs


def _filters(nodes: Sequence[Node]) -> list[Node]:
    """Return the filters that some nodes are made of."""
    seen: set[Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += node.args
    return [node for node in seen if node.op == smooth.FILTER]
