"""One kernel for a chain of element-wise operations: read each voxel once, write each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lepton_pipe.cuda import THREADS, compiled
from lepton_pipe.cuda.operations import c_type, expression

# Voxels that a thread computes; their reads are under way at the same time.
_EACH = 4
_MOST_BLOCKS = 2**16


@dataclass(frozen=True, eq=False)
class Node:
    """What an array of a chain is: an input, a number, or an operation on others.

    Attributes
    ----------
    op
        ``input``, ``number``, ``cast``, ``where``, or the name of a ufunc, whose operands have the
        dtype in which it computes.
    dtype
        Of the result.
    args
        The operands.
    value
        Of an input its array, of a number that.
    """

    op: str
    dtype: np.dtype[Any]
    args: tuple[Node, ...] = ()
    value: Any = None


class UnknownOperationError(Exception):
    """A chain has an operation or a dtype that cannot be written here: its steps run by CuPy."""


@dataclass(frozen=True)
class Chain:
    """A source, and what is to be handed to it.

    Attributes
    ----------
    inputs, numbers
        Arrays and numbers of the chain, in the order of its arguments.
    """

    source: str
    inputs: tuple[Any, ...]
    numbers: tuple[Any, ...]

    def run(self, outputs: Sequence[Any]) -> None:
        """Compute; the outputs are contiguous arrays of one shape."""
        shape = outputs[0].shape
        size = prod(shape)
        if not size:
            return
        blocks = min(-(-size // (THREADS * _EACH)), _MOST_BLOCKS)
        extents = [np.int64(n) for n in shape]
        strides = [
            np.int64(s)
            for a in self.inputs
            for s in strides_in(a, shape)
            if not _is_plain(a, shape)
        ]
        arguments = (*self.inputs, *outputs, *self.numbers, np.int64(size), *extents, *strides)
        compiled(self.source, "chain")((blocks,), (THREADS,), arguments)


def chain(outputs: Sequence[Node], shape: Sequence[int]) -> Chain:
    """Return the kernel that computes some nodes over an array of a shape.

    Raises
    ------
    UnknownOperationError
        When there is no way to write one of the operations.
    """
    arguments, shape = Arguments(), tuple(shape)
    writer = Writer(arguments, lambda n, array: "i" if _is_plain(array, shape) else f"at{n}")
    values = [writer.value(node) for node in outputs]
    spread = [i for i, a in enumerate(arguments.inputs) if not _is_plain(a, shape)]
    index = "unsigned int" if prod(shape) < 2**31 - THREADS else "long long"
    axes = range(len(shape))
    parameters = [
        *arguments.parameters(outputs),
        "long long size",
        *(f"long long extent{k}" for k in axes),
        *(f"long long stride{i}_{k}" for i in spread for k in axes),
    ]
    body = [*_places(spread, axes, index), *writer.lines]
    body += [f"out{i}[i] = {value};" for i, value in enumerate(values)]
    source = _SOURCE.format(
        parameters=",\n    ".join(parameters), index=index, each=_EACH, body=indented(body, 8)
    )
    return Chain(source, tuple(arguments.inputs), tuple(n.value for n in arguments.numbers))


def indented(lines: Iterable[str], by: int) -> str:
    """Return lines of a source as one text."""
    return "\n".join(" " * by + line for line in lines)


def _is_plain(array: Any, shape: Sequence[int]) -> bool:
    """Tell whether an array has a voxel for each of the result, one after the other."""
    return tuple(array.shape) == tuple(shape) and bool(array.flags.c_contiguous)


def strides_in(array: Any, shape: Sequence[int]) -> list[int]:
    """Return by how many items an array goes on along each axis of a shape that it fits."""
    lead = len(shape) - array.ndim
    own = zip(array.shape, array.strides, strict=True)
    return [0] * lead + [0 if n == 1 else s // array.dtype.itemsize for n, s in own]


class Writer:
    """Writes a line for each operation, and each but once.

    Parameters
    ----------
    arguments
        Takes in the arrays and numbers that the lines need.
    place
        Gives the index at which the voxel of an input lies, by its number and array.
    prefix
        Of the names of variables.
    known
        Names of nodes that hold a value already.
    """

    def __init__(
        self,
        arguments: Arguments,
        place: Callable[[int, Any], str],
        prefix: str = "v",
        known: Mapping[Node, str] | None = None,
    ) -> None:
        self._arguments, self._place, self._prefix = arguments, place, prefix
        self._names: dict[Node, str] = dict(known or {})
        self.lines: list[str] = []

    def value(self, node: Node) -> str:
        """Return the name of the variable that holds a node's value."""
        if node not in self._names:
            self._names[node] = self._written(node)
        return self._names[node]

    def _written(self, node: Node) -> str:
        type_ = known_type(node.dtype)
        if node.op == "number":
            return self._arguments.number(node)
        if node.op == "input":
            number = self._arguments.input(node.value)
            return self._line(type_, f"a{number}[{self._place(number, node.value)}]")
        names = [self.value(a) for a in node.args]
        return self._line(type_, f"({type_})({_expression(node, names)})")

    def _line(self, type_: str, value: str) -> str:
        name = f"{self._prefix}{len(self.lines)}"
        self.lines.append(f"{type_} {name} = {value};")
        return name


class Arguments:
    """The arrays and numbers that a kernel is handed, each but once."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.numbers: list[Node] = []

    def input(self, array: Any) -> int:
        """Return the number of an array."""
        found = next((i for i, a in enumerate(self.inputs) if a is array), len(self.inputs))
        if found == len(self.inputs):
            self.inputs.append(array)
        return found

    def number(self, node: Node) -> str:
        """Return the name of a number."""
        self.numbers.append(node)
        return f"n{len(self.numbers) - 1}"

    def parameters(self, outputs: Sequence[Node]) -> list[str]:
        """Return how a kernel declares them, and its results."""
        return [
            *(f"const {known_type(a.dtype)}* __restrict__ a{i}" for i, a in enumerate(self.inputs)),
            *(f"{known_type(n.dtype)}* __restrict__ out{i}" for i, n in enumerate(outputs)),
            *(f"{known_type(n.dtype)} n{i}" for i, n in enumerate(self.numbers)),
        ]


def _expression(node: Node, names: list[str]) -> str:
    if node.op == "cast":
        return f"{names[0]} != 0" if node.dtype == np.bool_ else names[0]
    if node.op == "where":
        return f"{names[0]} ? {names[1]} : {names[2]}"
    found = expression(node.op, node.args[0].dtype, names) if node.args else None
    if found is None:
        raise UnknownOperationError(f"{node.op} gives {node.dtype} here")
    return found


def _places(spread: Sequence[int], axes: range, index: str) -> list[str]:
    """Return lines that find where the voxels of inputs of another shape lie."""
    if not spread:
        return []
    lines = [f"{index} rest = i;", *(f"long long at{i} = 0;" for i in spread)]
    for k in reversed(axes):
        lines.append(f"{{ {index} here = rest % ({index})extent{k}; rest /= ({index})extent{k};")
        lines += [f"at{i} += (long long)here * stride{i}_{k};" for i in spread]
        lines[-1] += " }"
    return lines


def known_type(dtype: np.dtype[Any]) -> str:
    """Return the C++ type of a dtype, which must have one."""
    found = c_type(dtype)
    if found is None:
        raise UnknownOperationError(f"{dtype} has no name in CUDA")
    return found


_SOURCE = """\
extern "C" __global__ void chain(
    {parameters})
{{
    const {index} step = ({index})gridDim.x * blockDim.x;
    const {index} end = ({index})size;
    #pragma unroll {each}
    for ({index} i = ({index})blockIdx.x * blockDim.x + threadIdx.x; i < end; i += step) {{
{body}
    }}
}}
"""
