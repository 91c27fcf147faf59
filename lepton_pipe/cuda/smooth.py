"""A separable filter with what is done to each voxel before and after it, as one kernel."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from lepton_pipe.cuda import compiled
from lepton_pipe.cuda.chain import (
    Arguments,
    Node,
    UnknownOperationError,
    Writer,
    indented,
    known_type,
    strides_in,
)

FILTER = "filter"
"""What a node is that is filtered: its value is a `Filter`, its operand what is filtered."""
_TILE_X = 64
_THREADS = 256
_SHARED_BYTES = 48 * 2**10
# Tables of rows: one for each input.
_MOST_TABLES = 8
# Sums that a thread keeps for planes to come, times its rows: beyond, they leave the registers.
_MOST_SUMS = 64
# Blocks of threads from which on a GPU has enough to do.
_ENOUGH_BLOCKS = 1024
_SHORTEST = 16


@dataclass(frozen=True, eq=False)
class Filter:
    """A correlation along the last three axes.

    Attributes
    ----------
    weights
        Along z, y and x; one weight of 1 leaves an axis alone.
    start
        First voxel of the image for which a result is wanted, along all axes; 0 along others than
        the last three.
    image_shape
        Of the array that is filtered.
    """

    weights: tuple[tuple[float, ...], ...]
    start: tuple[int, ...]
    image_shape: tuple[int, ...]


def filter_of(weights: Sequence[Any], inner: Sequence[slice], shape: Sequence[int]) -> Filter:
    """Return the filter of weights for each axis, see `lepton_pipe.kernels.correlation`.

    Raises
    ------
    UnknownOperationError
        When it is along other axes than the last three, or reaches too far.
    """
    padded = [None] * (3 - len(weights)) + [None if w is None else list(w) for w in weights]
    if any(w is not None for w in padded[:-3]):
        raise UnknownOperationError("a filter along time or channels")
    taps = tuple(tuple(map(float, (1.0,) if w is None else w)) for w in padded[-3:])
    if _rows(taps) == 0:
        raise UnknownOperationError("a filter that reaches too far")
    starts = tuple(range(n)[part].start for part, n in zip(inner, shape, strict=True))
    return Filter(taps, starts, tuple(shape))


def correlated(block: Any, weights: Sequence[Any], inner: Sequence[slice]) -> Any:
    """Return an array of the device, correlated; None where there is no kernel for it.

    That is in double precision, along other axes than the last three, or with very many weights.
    """
    if np.promote_types(block.dtype, np.float32) != np.float32:
        return None
    shape = tuple(len(range(n)[part]) for part, n in zip(inner, block.shape, strict=True))
    single = np.dtype(np.float32)
    try:
        source = Node("input", block.dtype, value=block)
        operand = source if block.dtype == single else Node("cast", single, (source,))
        filtered = Node(FILTER, single, (operand,), filter_of(weights, inner, block.shape))
        made = importlib.import_module("cupy").empty(shape, single)
        run([filtered], filtered, [made])
    except UnknownOperationError:
        return None
    return made


def _rows(weights: Sequence[Sequence[float]]) -> int:
    """Return how many rows of a tile a thread computes; 0 where there is no room for one."""
    taps_z, taps_y, taps_x = map(len, weights)
    pitch = _TILE_X - 4 + 4 * ((taps_x + 6) // 4)
    columns = _TILE_X + taps_x - 1
    groups = max(1, _THREADS // columns)
    for rows in (8, 4, 2, 1):
        filtered = 4 * rows + taps_y - 1
        read = groups * -(-filtered // groups)
        shared = 4 * (read * pitch + filtered * _TILE_X)
        tables = 4 * _MOST_TABLES * read
        if max(1, taps_z - 1) * rows <= _MOST_SUMS and shared + tables <= _SHARED_BYTES:
            return rows
    return 0


def run(outputs: Sequence[Node], filtered: Node, arrays: Sequence[Any]) -> None:
    """Compute nodes that are made of a filter's result.

    Parameters
    ----------
    filtered
        The filter: its `Node.value` is a `Filter`, its only operand what is filtered.
    arrays
        Contiguous arrays for the results, all of the filter's shape.

    Raises
    ------
    UnknownOperationError
        When there is no way to write one of the operations.
    """
    filter_: Filter = filtered.value
    shape, image_shape = _volume(arrays[0].shape), _volume(filter_.image_shape)
    if not prod(shape):
        return
    if max(image_shape[-3], prod(image_shape[-2:])) >= 2**31:
        raise UnknownOperationError("a plane of more than 2**31 voxels")
    source, arguments = _written(outputs, filtered)
    if len(arguments.inputs) > _MOST_TABLES:
        raise UnknownOperationError(f"a filter of more than {_MOST_TABLES} images")
    if any(_reach(array) >= 2**31 for array in arguments.inputs):
        raise UnknownOperationError("a plane that lies scattered over memory")
    launch = _Launch(source, filter_, arguments, shape, image_shape)
    for index in np.ndindex(shape[:-3]):
        launch.at(index, arrays)


def _reach(array: Any) -> int:
    """Return how far the voxels of a plane lie apart in memory."""
    strides = strides_in(array, array.shape)[-2:]
    return sum(abs(s) * (n - 1) for s, n in zip(strides, array.shape[-2:], strict=True))


def _volume(shape: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + tuple(shape)


def _written(outputs: Sequence[Node], filtered: Node) -> tuple[str, Arguments]:
    filter_: Filter = filtered.value
    arguments = Arguments()
    reads = _Reads(filtered.args[0], arguments)
    load = Writer(arguments, _at_none, prefix="b", known=reads.names)
    loaded = load.value(filtered.args[0])
    known = {filtered: "filtered"}
    store = Writer(arguments, lambda n, a: _at(n, a, "z_out", "y_out", "x_out"), "v", known)
    stored = [f"out{i}[i] = {store.value(node)};" for i, node in enumerate(outputs)]
    parameters = [
        *arguments.parameters(outputs),
        "int planes",
        *(f"int {what}_{axis}" for what in ("start", "image", "result") for axis in "zyx"),
        *(f"long long stride{i}_{axis}" for i in range(len(arguments.inputs)) for axis in "zyx"),
    ]
    words = {
        "each": _rows(filter_.weights),
        "parameters": ",\n    ".join(parameters),
        "tables": indented(reads.tables, 4),
        "rows": indented(reads.rows, 8),
        "columns": indented(reads.columns, 8),
        "planes": indented(reads.planes, 12),
        "asked": indented(reads.asked, 16),
        "same": indented(reads.same, 20),
        "load": indented([*reads.present, *load.lines], 20),
        "loaded": loaded,
        "store": indented([*store.lines, *stored], 20),
    }
    for axis, weights in zip("zyx", filter_.weights, strict=True):
        words[f"taps_{axis}"], words[f"before_{axis}"] = len(weights), len(weights) // 2
        words[f"weights_{axis}"] = ", ".join(f"{float(np.float32(w)):.9e}f" for w in weights)
    return _template().substitute(words), arguments


class _Reads:
    """Lines that read the inputs of what is filtered.

    What changes along z is asked for a plane ahead, into registers; what is the same for all planes
    stays in the processor's cache, and is read when it is needed.

    Attributes
    ----------
    names
        The variable that holds the value of an input when a plane is put into shared memory.
    """

    def __init__(self, source: Node, arguments: Arguments) -> None:
        self.names: dict[Node, str] = {}
        self.tables: list[str] = []
        self.rows: list[str] = []
        self.columns: list[str] = []
        self.planes: list[str] = []
        self.asked: list[str] = []
        self.same: list[str] = []
        self.present: list[str] = []
        for node in _inputs(source):
            number = arguments.input(node.value)
            if f"here{number}" not in self.names.values():
                self._add(number, node)
            self.names[node] = f"here{number}"

    def _add(self, n: int, node: Node) -> None:
        type_, changes = known_type(node.dtype), strides_in(node.value, (0, 0, 0))[-3] != 0
        self.tables += [f"__shared__ int row{n}[ROWS_READ];", f"const {type_}* column{n}[ACROSS];"]
        self.rows.append(f"row{n}[row] = y * (int)stride{n}_y;")
        self.columns += [f"column{n}[c] = a{n} + x * stride{n}_x;", f"KEEP(column{n}[c]);"]
        if changes:
            self.tables.append(f"{type_} next{n}[ACROSS][DOWN];")
            self.planes.append(f"const {type_}* plane{n} = column{n}[c] + z * stride{n}_z;")
            self.planes.append(f"KEEP(plane{n});")
            self.asked.append(f"next{n}[c][r] = plane{n}[row{n}[row]];")
        else:
            self.tables.append(f"{type_} same{n}[BATCH];")
            self.same.append(f"same{n}[r % BATCH] = column{n}[c][row{n}[row]];")
        value = f"next{n}[c][r]" if changes else f"same{n}[r % BATCH]"
        self.present.append(f"const {type_} here{n} = {value};")


def _inputs(node: Node) -> list[Node]:
    """Return the inputs that a node is made of, in the order in which they come up."""
    found: dict[Node, None] = {}
    todo = [node]
    while todo:
        node = todo.pop()
        if node.op == "input":
            found[node] = None
        todo += reversed(node.args)
    return list(found)


def _at_none(number: int, array: Any) -> str:
    raise AssertionError(f"input {number}, {array.shape}, is read before it is used")


def _at(number: int, array: Any, z: str, y: str, x: str) -> str:
    """Return where a voxel lies in an input; most have their rows in one piece."""
    along_x = x if strides_in(array, (0, 0, 0))[-1] == 1 else f"{x} * stride{number}_x"
    return f"{z} * stride{number}_z + {y} * stride{number}_y + {along_x}"


@cache
def _template() -> Template:
    return Template((Path(__file__).parent / "smooth.cu").read_text("utf-8"))


class _Launch:
    """Starts a kernel for one volume after the other of arrays with more than three axes."""

    def __init__(
        self,
        source: str,
        filter_: Filter,
        arguments: Arguments,
        shape: tuple[int, ...],
        image_shape: tuple[int, ...],
    ) -> None:
        self._kernel = compiled(source, "smooth")
        self._arguments, self._shape, self._image_shape = arguments, shape, image_shape
        self._start = (0,) * (3 - len(filter_.start)) + filter_.start
        tile_y = 4 * _rows(filter_.weights)
        tiles = -(-shape[-1] // _TILE_X), -(-shape[-2] // tile_y)
        most = max(1, -(-_ENOUGH_BLOCKS // prod(tiles)))
        # Each piece of z begins with planes of which only sums are kept.
        self._planes = max(_SHORTEST, 2 * len(filter_.weights[0]), -(-shape[-3] // most))
        self._grid = (*tiles, -(-shape[-3] // self._planes))

    def at(self, index: tuple[int, ...], arrays: Sequence[Any]) -> None:
        """Compute the volume of an index along the leading axes."""
        sizes = (self._planes, *self._start[-3:], *self._image_shape[-3:], *self._shape[-3:])
        inputs = [self._part(a, index) for a in self._arguments.inputs]
        strides = [np.int64(s) for a in inputs for s in strides_in(a, (0, 0, 0))]
        outputs = [a.reshape(self._shape)[index] for a in arrays]
        numbers = [n.value for n in self._arguments.numbers]
        given = (*inputs, *outputs, *numbers, *map(np.int32, sizes), *strides)
        self._kernel(self._grid, (_THREADS,), given)

    def _part(self, array: Any, index: tuple[int, ...]) -> Any:
        """Return the volume of an input that goes with an index; one for all where it has one."""
        lead = max(0, array.ndim - 3)
        own = zip(index[len(index) - lead :], array.shape[:lead], strict=True)
        return array[tuple(0 if n == 1 else i for i, n in own)] if lead else array
