"""Kernels: plain functions on blocks, with what the planner must know about them.

A kernel called on arrays computes at once; called on nodes it returns a node. There are four
roles, told apart by what is declared:

``map``
    ``block, ... -> block`` on the same grid, reading `depth` more voxels on every side. It may
    return a voxel for each that it was handed, or those alone that the block owns
    (``place.inner``).
``resample``
    ``block -> block`` on another grid (`grid` and `needs` declared).
``reduce``
    ``block -> partial``; partials are folded with `combine` and turned into a value or table
    with `finalize`.
``sweep``
    as ``reduce``, but along one axis and into an image (`sweep` names the parameter that holds
    the axis).

A kernel called on values alone is computed once, when they are known.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import cloudpickle
import numpy as np

from lepton_pipe.errors import UsageError
from lepton_pipe.geometry import Grid, Region, no_depth
from lepton_pipe.spec import rules, trace
from lepton_pipe.spec.absorb import Absorb
from lepton_pipe.spec.losses import Counting
from lepton_pipe.spec.node import Call, Image, Node, Table, Value
from lepton_pipe.spec.types import ImageKind, ImageType, PerBlock, Place, TableType, ValueType

# Bytes per voxel assumed for a kernel that does not say: three float64 copies of its array.
UNDECLARED_SCRATCH = 24.0

A = TypeVar("A")
Role = Literal["map", "resample", "reduce", "sweep"]
_BY_VALUE = "__lepton_pipe_by_value__"


def mark_by_value(module_name: str) -> None:
    """Send kernels of this module to workers as code: it cannot be imported by name there."""
    module = sys.modules[module_name]
    setattr(module, _BY_VALUE, True)
    cloudpickle.register_pickle_by_value(module)  # for what the kernels call


def is_by_value(module_name: str) -> bool:
    """Tell whether a module was marked, see `mark_by_value`: it was loaded from a file by path."""
    return getattr(sys.modules.get(module_name), _BY_VALUE, False) is True


def _load(module: str, name: str) -> Kernel:
    found: Kernel = getattr(importlib.import_module(module), name)
    return found


class Kernel:
    """A function on blocks and its declared rules; see `lepton_pipe.spec.declare.kernel`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        depth: rules.DepthRule = 0,
        dtype: rules.DTypeRule = "same",
        kind: ImageKind | Literal["same"] | Callable[..., ImageKind] | None = None,
        scratch: rules.NumberRule = UNDECLARED_SCRATCH,
        device_scratch: rules.NumberRule | None = None,
        cost: rules.NumberRule = 5.0,
        check: Callable[..., None] | None = None,
        combine: Callable[..., Any] | None = None,
        finalize: Callable[..., Any] | None = None,
        returns: Literal["value", "table"] = "value",
        value: ValueType | Callable[..., ValueType] = ValueType(),  # noqa: B008  frozen
        grid: Callable[..., Grid] | None = None,
        needs: Callable[..., Region] | None = None,
        sweep: str | None = None,
        absorb: Absorb | tuple[Absorb, ...] = (),
        counting: Counting | None = None,
        absent: Callable[[Place], Any] | None = None,
        version: str | None = None,
    ) -> None:
        self.fn = fn
        self.name = str(getattr(fn, "__name__", type(fn).__name__))
        self.__doc__ = fn.__doc__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn
        self.depth, self.dtype, self.kind = depth, dtype, kind
        self.scratch, self.cost, self.check = scratch, cost, check
        self.device_scratch = device_scratch
        self.combine, self.finalize = combine, finalize
        self.returns, self.value = returns, value
        self.grid, self.needs, self.sweep = grid, needs, sweep
        self.absorb = absorb if isinstance(absorb, tuple) else (absorb,)
        self.counting, self.absent, self.version = counting, absent, version
        self.signature = inspect.signature(fn)
        self.takes_place = "place" in self.signature.parameters
        self.role: Role = (
            "sweep" if sweep else "reduce" if combine else "resample" if needs else "map"
        )

    def absorbs(self, kind: type[A]) -> A | None:
        """Return what the kernel says of itself in `lepton_pipe.spec.absorb`, of one kind."""
        return next((a for a in self.absorb if isinstance(a, kind)), None)

    @property
    def declares_scratch(self) -> bool:
        """Whether the kernel says what memory it needs."""
        return self.scratch != UNDECLARED_SCRATCH

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The module's name holds the kernel, not the bare function: pickle by that name.
        module = sys.modules.get(self.fn.__module__)
        if (
            module is not None
            and module.__name__ != "__main__"
            and not hasattr(module, _BY_VALUE)
            and getattr(module, self.name, None) is self
        ):
            return _load, (module.__name__, self.name)
        return super().__reduce_ex__(protocol)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute on arrays, or describe the computation on nodes."""
        try:
            bound = self._bind(args, kwargs)
        except TypeError as error:
            if not any(isinstance(a, Node) for a in (*args, *kwargs.values())):
                raise
            trace.report(str(error), trace.user_line())
            return self._stand_in({f"_{i}": a for i, a in enumerate((*args, *kwargs.values()))})
        if any(isinstance(a, Node) for a in bound.values()):
            return self._describe(bound)
        return self._compute_whole(bound)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            names = [n for n in self.signature.parameters if n != "place"]
            raise TypeError(f"{self.name}() {error}; it takes {', '.join(names)}") from None
        bound.apply_defaults()
        missing = [
            n for n in self.signature.parameters if n not in bound.arguments and n != "place"
        ]
        if missing:
            raise TypeError(f"{self.name}() needs {', '.join(missing)}")
        return {n: v for n, v in bound.arguments.items() if n != "place"}

    # -- on nodes ---------------------------------------------------------------------------

    def _describe(self, bound: dict[str, Any]) -> Node:
        where = trace.user_line()
        try:
            return self._node(bound, where)
        except (ValueError, TypeError, OverflowError, UsageError) as error:
            text = str(error)
            told = text.startswith((f"{self.name}:", f"{self.name}("))
            trace.report(text if told else f"{self.name}: {text}", where)
            return self._stand_in(bound)

    def _node(self, bound: dict[str, Any], where: str) -> Node:
        images = {n: a for n, a in bound.items() if isinstance(a, Image)}
        tables = [n for n, a in bound.items() if isinstance(a, Table)]
        if tables:
            raise TypeError(f"{tables[0]} is a table; kernels take images and values")
        context: dict[str, Any] = {
            n: a.type if isinstance(a, Node) else a for n, a in bound.items()
        }
        if self.role == "sweep" and len(images) != 1:
            raise TypeError(f"it folds slabs of one image, and was given {len(images)} images")
        if not images and self.role != "map":
            raise TypeError("it works on images, and was given values alone")
        if not images:
            return self._value_node(bound, context, where)
        self._refuse_arrays(bound)
        first = rules.leading({n: a.type for n, a in images.items()})
        self._validate(first.grid, context)
        call = Call(
            self,
            bound,
            rules.resolve_depth(self.depth, first.grid, context),
            rules.resolve_number(self.scratch, context),
            rules.resolve_number(self.cost, context),
            where,
        )
        if self.role == "reduce":
            if self.returns == "table":
                return Table(TableType(), call)
            return Value(self._value_type(context), call)
        return Image(self._image_type(first, context), call)

    def _refuse_arrays(self, bound: Mapping[str, Any]) -> None:
        # An array would be stored inside the pipeline, and not be cut into blocks with the images.
        for name, array in bound.items():
            if isinstance(array, np.ndarray) and array.ndim > 0 and not self._is_literal(name):
                raise TypeError(
                    f"{name} is an array of shape {array.shape}; a pipeline gets its images when "
                    "it is run: make it a parameter of the pipeline, annotated with lp.Image"
                )

    def _value_node(self, bound: dict[str, Any], context: dict[str, Any], where: str) -> Node:
        if self.check is not None:
            rules.call_rule(self.check, context)
        type_ = self._value_type(context)
        return Value(type_, Call(self, bound, no_depth(0), 0.0, 0.0, where))

    def _value_type(self, context: Mapping[str, Any]) -> ValueType:
        value = self.value
        if isinstance(value, ValueType):
            return value
        result: ValueType = rules.call_rule(value, context)
        return result

    def _image_dtype(self, first: ImageType, context: Mapping[str, Any]) -> np.dtype[Any]:
        return rules.resolve_dtype(self.dtype, first, context)

    def _image_type(self, first: ImageType, context: Mapping[str, Any]) -> ImageType:
        dtype = self._image_dtype(first, context)
        grid = rules.call_rule(self.grid, context) if self.grid is not None else first.grid
        kind: ImageKind
        if callable(self.kind):
            kind = rules.call_rule(self.kind, context)
        elif self.kind == "same":
            kind = first.kind
        else:
            kind = self.kind or ("mask" if dtype == np.bool_ else "image")
        return ImageType(grid, dtype, kind)

    def _stand_in(self, bound: Mapping[str, Any]) -> Node:
        # A problem was noted: go on with a plausible node, to find the next problem too.
        if self.role == "reduce":
            return Table(TableType(), None) if self.returns == "table" else Value(ValueType(), None)
        types = {n: a.type for n, a in bound.items() if isinstance(a, Image)}
        if not types:
            return Value(ValueType(), None)
        return Image(max(types.values(), key=lambda t: t.grid.rank), None)

    def _validate(self, grid: Grid, context: dict[str, Any]) -> None:
        context["grid"] = grid
        if self.check is not None:
            rules.call_rule(self.check, context)

    # -- on arrays --------------------------------------------------------------------------

    def _compute_whole(self, bound: dict[str, Any]) -> Any:
        arrays = {
            n: ImageType(Grid.of(a.shape), a.dtype)
            for n, a in bound.items()
            if hasattr(a, "dtype")
            and not isinstance(a, type)
            and getattr(a, "ndim", 0) > 0
            and not self._is_literal(n)
        }
        first = next(iter(bound.values()), None)
        if not arrays and isinstance(first, (list, tuple)):
            raise TypeError(
                f"{self.name}() got a {type(first).__name__}, and kernels work on arrays; give "
                "np.asarray(...) of it"
            )
        bound = {n: a.part(0) if isinstance(a, PerBlock) else a for n, a in bound.items()}
        context: dict[str, Any] = {**bound, **arrays}
        if not arrays:
            return self.run(bound, None)
        grid = rules.leading(arrays).grid
        self._validate(grid, context)
        rules.resolve_depth(self.depth, grid, context)  # a depth rule may refuse a parameter
        return self.whole(bound, self._whole_place(grid, context))

    def _whole_place(self, grid: Grid, context: Mapping[str, Any]) -> Place:
        if self.role == "resample" and self.grid is not None:
            made: Grid = rules.call_rule(self.grid, context)
            return Place(grid.region, made.region, grid)
        return Place.whole(grid)

    def _is_literal(self, name: str) -> bool:
        # An array given by keyword only is a small parameter (a footprint), never an image.
        return self.signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY

    def run(self, args: Mapping[str, Any], place: Place | None) -> Any:
        """Call the function on arrays, as a worker does for one block."""
        if self.takes_place:
            return self.fn(**args, place=place)
        return self.fn(**args)

    def refuse_values(self, context: Mapping[str, Any]) -> None:
        """Raise where images do not go with values, now that these are known.

        Parameters
        ----------
        context
            Types of images, values and everything else by the names of the parameters.
        """

    def whole(self, args: Mapping[str, Any], place: Place) -> Any:
        """Compute the answer for an image that is a single block."""
        result = self.run(args, place)
        return self.finish(result, args, place.grid) if self.combine else result

    def finish(self, partial: Any, args: Mapping[str, Any], grid: Grid) -> Any:
        """Turn the fold of all partials into the value, table or image.

        `finalize` may name any of the kernel's parameters besides its images, and ``grid``.
        """
        if self.finalize is None:
            return partial
        names = list(inspect.signature(self.finalize).parameters)[1:]
        context = {**args, "grid": grid}
        return self.finalize(partial, **{n: context[n] for n in names})
