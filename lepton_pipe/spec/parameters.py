"""The typed parameters of a pipeline, read from its signature and docstring."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

from lepton_pipe.errors import UsageError
from lepton_pipe.spec.node import Image


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline: name, annotation, default (or `required`) and help text."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        """The annotation as a user would write it."""
        if isinstance(self.annotation, type):
            return self.annotation.__name__
        return str(self.annotation).replace("typing.", "")

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for on the command line.

        A sequence is written with commas (``1,2,2``).

        Raises
        ------
        UsageError
            When the text is no value of the parameter's type.
        """
        wants = _alternatives(self.annotation)
        if str in wants or text in [w for w in wants if isinstance(w, str)]:
            return self.check(text)
        if text.lower() in ("true", "false", "yes", "no") and bool in wants:
            return text.lower() in ("true", "yes")
        if text.lower() == "none":
            return self.check(None)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        return self.check(value)

    def check(self, value: Any) -> Any:
        """Return `value`, as the annotated type where that loses nothing; else raise UsageError."""
        if self.annotation is inspect.Parameter.empty:
            return value
        for wanted in _alternatives(self.annotation):
            fits, result = _fit(value, wanted)
            if fits:
                return result
        raise UsageError(f"{self.name} must be {self.type_name}, not {value!r}")


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, and the values of a Literal, one by one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [a for part in get_args(annotation) for a in _alternatives(part)]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [annotation]


def _fit(value: Any, wanted: Any) -> tuple[bool, Any]:
    if wanted is Any or wanted is inspect.Parameter.empty:
        return True, value
    if wanted is type(None):
        return value is None, None
    if wanted is bool:
        return isinstance(value, bool), value
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if wanted is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number, float(value) if number else value
    if wanted is str:
        return isinstance(value, str), value
    origin = get_origin(wanted) or wanted
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        return _fit_sequence(tuple(value), get_args(wanted))
    if isinstance(origin, type):
        return isinstance(value, origin), value
    return (type(value) is type(wanted) and value == wanted), value


def _fit_sequence(value: tuple[Any, ...], members: tuple[Any, ...]) -> tuple[bool, Any]:
    if members and members[-1] is Ellipsis:
        members = members[:1] * len(value)
    if members and len(members) != len(value):
        return False, value
    fitted = []
    for entry, member in zip(value, members or (Any,) * len(value), strict=True):
        options = [r for f, r in (_fit(entry, a) for a in _alternatives(member)) if f]
        if not options:
            return False, value
        fitted.append(options[0])
    return True, tuple(fitted)


def read_signature(fn: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Parameter]]:
    """Return the names of a pipeline's images, and its other parameters.

    Raises
    ------
    UsageError
        When a parameter without annotation or default could be either.
    """
    hints = get_type_hints(fn)
    described = {
        p.arg_name: " ".join((p.description or "").split())
        for p in docstring_parser.parse(fn.__doc__ or "").params
    }
    images: list[str] = []
    parameters: dict[str, Parameter] = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"pipeline {fn.__name__}: *{name} is not allowed; name every image and parameter"
            )
        annotation = hints.get(name, parameter.annotation)
        if annotation is Image:
            images.append(name)
        elif annotation is parameter.empty and parameter.default is parameter.empty:
            raise UsageError(
                f"pipeline {fn.__name__}: parameter {name} has no type; annotate it, "
                f"{name}: lp.Image for an image, or {name}: float"
            )
        else:
            if annotation is parameter.empty and parameter.default is not None:
                annotation = type(parameter.default)
            parameters[name] = Parameter(
                name, annotation, parameter.default, described.get(name, "")
            )
    if not images:
        raise UsageError(
            f"pipeline {fn.__name__} takes no image; annotate one parameter with lp.Image"
        )
    return tuple(images), parameters
