"""NamedTuples and dataclasses as plain fields; which of them a pipeline's partials may be."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from lepton_pipe.spec import Spec

Classes = Mapping[str, type]
"""Classes that may be made of stored data, by `name_of`."""


def name_of(cls: type) -> str:
    """Return the name under which instances are stored."""
    return f"{cls.__module__}:{cls.__qualname__}"


def by_name(classes: Iterable[type]) -> dict[str, type]:
    """Return classes by the names under which their instances are stored."""
    return {name_of(c): c for c in classes}


def fields_of(cls: type) -> tuple[str, ...] | None:
    """Return the names of a class's fields; None where they are not all there is to an instance.

    They are of NamedTuples, and of dataclasses that build on no other kind of class.
    """
    if issubclass(cls, tuple):
        names = cls.__dict__.get("_fields")  # a class derived from a NamedTuple may hold more
        return names if isinstance(names, tuple) else None
    if dataclasses.is_dataclass(cls) and cls.__new__ is object.__new__:
        return tuple(f.name for f in dataclasses.fields(cls))
    return None


def values_of(value: Any, fields: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what the fields of an instance hold.

    Raises
    ------
    AttributeError
        When a field is not set, or the instance holds something besides its fields. What a
        `functools.cached_property` keeps does not count: it can be computed again.
    """
    if isinstance(value, tuple):
        return tuple(value)
    for name in getattr(value, "__dict__", {}).keys() - set(fields):
        cached = isinstance(getattr(type(value), name, None), functools.cached_property)
        if not (cached or name.startswith("__")):
            raise AttributeError(f"it holds {name}, which is none of its fields")
    return tuple(getattr(value, name) for name in fields)


def made(cls: type, fields: tuple[str, ...], values: list[Any]) -> Any:
    """Return an instance with these fields. No code of the class runs."""
    if issubclass(cls, tuple):
        return tuple.__new__(cls, values)
    instance = object.__new__(cls)
    for name, value in zip(fields, values, strict=True):
        object.__setattr__(instance, name, value)
    return instance


def known_classes(spec: Spec) -> dict[str, type]:
    """Return the classes that partials of a pipeline may be made of.

    Those are the NamedTuples and dataclasses of lepton_pipe, and those that the code of the
    pipeline's kernels can name: in the modules of the kernels, and in the modules that these
    import or take functions from.
    """
    found = by_name(_own())
    seen: set[int] = set()
    for step in spec.steps:
        if step.kernel is not None:
            for fn in (step.kernel.fn, step.kernel.combine, step.kernel.finalize):
                found |= by_name(_named_by(fn, seen))
    return found


def _own() -> Iterator[type]:
    package = __name__.partition(".")[0]
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            yield from _classes(vars(module).values())


def _named_by(fn: Any, seen: set[int]) -> Iterator[type]:
    fn = fn.func if isinstance(fn, functools.partial) else fn
    if not isinstance(fn, FunctionType):
        return
    yield from _classes(_captured(fn))
    if _is_new(fn.__globals__, seen):
        yield from _classes(fn.__globals__.values())
        for space in list(map(_namespace, fn.__globals__.values())):
            if space is not None and _is_new(space, seen):
                yield from _classes(space.values())


def _namespace(value: Any) -> dict[str, Any] | None:
    if isinstance(value, ModuleType):
        return vars(value)
    return value.__globals__ if isinstance(value, FunctionType) else None


def _captured(fn: FunctionType) -> Iterator[Any]:
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue


def _is_new(space: dict[str, Any], seen: set[int]) -> bool:
    new = id(space) not in seen
    seen.add(id(space))
    return new


def _classes(values: Iterable[Any]) -> Iterator[type]:
    for value in list(values):
        if isinstance(value, type) and fields_of(value) is not None:
            yield value
