"""The canonical form of a bound pipeline: frozen steps, plain data, a digest."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lepton_pipe.errors import SpecError
from lepton_pipe.geometry import Depth, Grid
from lepton_pipe.spec.digest import code_digest
from lepton_pipe.spec.kernel import Kernel
from lepton_pipe.spec.node import Node
from lepton_pipe.spec.types import ImageType, NodeType, ValueType

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is the result of another step."""

    id: str


@dataclass(frozen=True)
class Step:
    """One kernel with all its arguments, or an input image (then `kernel` is None).

    ``id`` is the kernel's name, numbered where a pipeline uses it more than once; an input's is
    the name of the pipeline's parameter. ``declared`` is the cost that the kernel declares, which
    ``cost`` is until a machine is known.
    """

    id: str
    kernel: Kernel | None
    args: Mapping[str, Any]
    type: NodeType
    depth: Depth = ()
    scratch: float = 0.0
    cost: float = 0.0
    where: str = ""
    declared: float = 0.0

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Ids of the steps this one needs, each once."""
        return tuple(dict.fromkeys(a.id for a in self.args.values() if isinstance(a, Ref)))

    def to_json(self, code: str) -> dict[str, Any]:
        """Return the step as plain data; `code` is the version of its kernel's code."""
        data: dict[str, Any] = {"id": self.id, "type": self.type.to_json()}
        if self.kernel is not None:
            data |= {
                "kernel": kernel_name(self.kernel),
                "code": code,
                "args": {n: plain(a) for n, a in self.args.items()},
            }
        return data


@dataclass(frozen=True)
class Spec:
    """A pipeline bound to images and parameters: steps in an order in which they can run.

    Attributes
    ----------
    swept
        Values of the parameters that are swept over, by name: ``outputs`` are those of all
        variants then, see `lepton_pipe.spec.variants`.
    read
        Versions of kernels' code that are known; shared by all that is made of this by `replace`.
    """

    pipeline: str
    parameters: Mapping[str, Any]
    steps: tuple[Step, ...]
    outputs: Mapping[str, str]
    swept: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    read: dict[Kernel, str] = field(default_factory=dict, compare=False, repr=False)

    def __getitem__(self, step_id: str) -> Step:
        return self.by_id[step_id]

    @cached_property
    def by_id(self) -> dict[str, Step]:
        """Steps by id."""
        return {s.id: s for s in self.steps}

    @property
    def images(self) -> tuple[Step, ...]:
        """The input images."""
        return tuple(s for s in self.steps if s.kernel is None)

    def image_type(self, step_id: str) -> ImageType:
        """Return the type of a step that gives an image."""
        type_ = self.by_id[step_id].type
        if not isinstance(type_, ImageType):
            raise TypeError(f"step {step_id} gives a {type(type_).__name__}, not an image")
        return type_

    def leading_grid(self, step: Step) -> Grid:
        """Return the grid of a step's first image of full rank; an input's own."""
        if step.kernel is None:
            return self.image_type(step.id).grid
        images = self.image_inputs(step)
        first = self.image_type(images[0]).grid
        return (
            first if len(images) == 1 else max((self.image_type(i).grid for i in images), key=_rank)
        )

    def image_inputs(self, step: Step) -> tuple[str, ...]:
        """Ids of the images that a step needs."""
        return tuple(i for i in step.inputs if isinstance(self.by_id[i].type, ImageType))

    def value_inputs(self, step: Step) -> tuple[str, ...]:
        """Ids of the values that a step needs."""
        return tuple(i for i in step.inputs if not isinstance(self.by_id[i].type, ImageType))

    def is_per_block(self, step_id: str) -> bool:
        """Tell whether a step gives a value that has a part for each block of a stage."""
        type_ = self.by_id[step_id].type
        return isinstance(type_, ValueType) and type_.per_block

    @cached_property
    def codes(self) -> dict[Kernel, str]:
        """Version of each kernel's code."""
        kernels = {s.kernel for s in self.steps if s.kernel is not None}
        self.read.update((k, code_digest(k)) for k in kernels - self.read.keys())
        return {k: self.read[k] for k in kernels}

    def to_json(self) -> dict[str, Any]:
        """Return the canonical form: plain data that can be printed, compared and stored."""
        return {
            "format": FORMAT,
            "pipeline": self.pipeline,
            "parameters": {n: plain(v) for n, v in self.parameters.items()},
            **({"swept": plain(self.swept)} if self.swept else {}),
            "steps": [s.to_json(self.codes[s.kernel] if s.kernel else "") for s in self.steps],
            "outputs": dict(self.outputs),
        }

    @cached_property
    def digest(self) -> str:
        """Digest of the canonical form: changes with parameters, inputs' types and kernel code."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _rank(grid: Grid) -> tuple[int, int]:
    return grid.rank


def kernel_name(kernel: Kernel) -> str:
    """Return the full name of a kernel."""
    if isinstance(kernel.fn, np.ufunc):
        return f"numpy.{kernel.name}"
    return f"{getattr(kernel.fn, '__module__', '?')}.{kernel.name}"


def plain(value: Any) -> Any:
    """Return a parameter as JSON data.

    Raises
    ------
    TypeError
        When the value is neither a number, a text, an array, nor made of these.
    """
    if isinstance(value, Ref):
        return {"step": value.id}
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no word for it
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": value.dtype.str, "shape": list(value.shape), "base64": data}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot be a parameter: a pipeline is stored as plain "
        "data, so parameters are numbers, texts, arrays, or lists and mappings of these"
    )


def build_spec(
    pipeline: str,
    parameters: Mapping[str, Any],
    images: Mapping[str, Node],
    outputs: Mapping[str, Node],
) -> Spec:
    """Freeze the nodes reachable from `outputs`; equal computations become one step.

    Raises
    ------
    SpecError
        When a parameter is not plain data, or an image of another pipeline was used.
    """
    _refuse_not_plain(pipeline, parameters, "")
    names: dict[int, str] = {id(node): name for name, node in images.items()}
    steps = [Step(name, None, {}, node.type) for name, node in images.items()]
    known: dict[str, str] = {}
    ids = Ids(images)
    for node in _in_order(outputs.values()):
        if id(node) in names:
            continue
        if node.call is None:
            raise SpecError(
                pipeline,
                ["an image of another pipeline was used; make it a parameter, and pass it in"],
            )
        args = {
            n: Ref(names[id(a)]) if isinstance(a, Node) else a for n, a in node.call.args.items()
        }
        call = node.call
        _refuse_not_plain(f"{pipeline}: {call.kernel.name}", args, call.where)
        # The type belongs to the key: NumPy promotes np.float32(1) and 1.0 differently.
        same = [id(call.kernel), {n: plain(a) for n, a in args.items()}, node.type.to_json()]
        key = json.dumps(same)
        if key not in known:
            known[key] = ids.new(call.kernel.name)
            steps.append(
                Step(
                    known[key],
                    call.kernel,
                    args,
                    node.type,
                    call.depth,
                    call.scratch,
                    call.cost,
                    call.where,
                    call.cost,
                )
            )
        names[id(node)] = known[key]
    return Spec(
        pipeline, dict(parameters), tuple(steps), {n: names[id(o)] for n, o in outputs.items()}
    )


def _refuse_not_plain(what: str, parameters: Mapping[str, Any], where: str) -> None:
    for name, value in parameters.items():
        try:
            plain(value)
        except TypeError as error:
            raise SpecError(
                what, [f"{name}: {error}" + (f"\n    {where}" if where else "")]
            ) from None


class Ids:
    """Gives out ids: a name, then name_2, name_3 and so on, past those that are taken.

    What is told of a step besides stands after the number.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._used: Counter[str] = Counter(self._taken)

    def new(self, name: str, besides: str = "") -> str:
        """Return the next free id for a name."""
        while True:
            self._used[name + besides] += 1
            number = self._used[name + besides]
            made = (name if number == 1 else f"{name}_{number}") + besides
            if made not in self._taken:
                self._taken.add(made)
                return made


def _in_order(outputs: Any) -> Iterator[Node]:
    """Yield every node after all that it needs; without recursion, chains may be long."""
    done: set[int] = set()
    stack: list[tuple[Node, bool]] = [(o, False) for o in reversed(list(outputs))]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready or node.call is None:
            done.add(id(node))
            yield node
            continue
        stack.append((node, True))
        stack.extend(
            (a, False) for a in reversed(list(node.call.args.values())) if isinstance(a, Node)
        )
