"""The typed parameters of a pipeline, read from its signature and docstring."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import numpy as np

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

    def usual(self) -> Any:
        """Return the default, as the annotated type where it fits."""
        try:
            return self.check(self.default)
        except UsageError:
            return self.default

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for on the command line.

        A sequence is written with commas (``1,2,2``; one value alone will do), None as ``none``.
        A text is taken for a number, where the parameter may be either.

        Raises
        ------
        UsageError
            When the text is no value of the parameter's type.
        """
        wants = _alternatives(self.annotation)
        if text in [w for w in wants if isinstance(w, str)]:
            return text
        if text.lower() in ("true", "false", "yes", "no") and bool in wants:
            return text.lower() in ("true", "yes")
        others = [w for w in wants if w is not str]
        for value in _readings(text):
            fits, result = _fit_any(value, others)
            if fits:
                return result
        if str in wants:
            return text
        raise self._refusal(text)

    def parse_several(self, text: str) -> list[Any]:
        """Return the values that `text` stands for on the command line, with commas between them.

        A value that has commas itself stands in brackets: ``(1,2,2),(2,4,4)``. Where what is
        between the commas are no values, `text` is a single one.

        Raises
        ------
        UsageError
            When the text stands for no values of the parameter's type.
        """
        try:
            return [self.parse(part) for part in _between_commas(text)]
        except UsageError:
            with suppress(UsageError):
                return [self.parse(text)]
            raise

    def check(self, value: Any) -> Any:
        """Return `value`, as the annotated type where that loses nothing; else raise UsageError."""
        if self.annotation is inspect.Parameter.empty:
            return value
        fits, result = _fit_any(value, _alternatives(self.annotation))
        if fits:
            return result
        raise self._refusal(value)

    def _refusal(self, value: Any) -> UsageError:
        return UsageError(f"{self.name} must be {self._wanted}, not {value!r}")

    @property
    def _wanted(self) -> str:
        """What values there are, in words: those of a Literal one by one."""
        if "Literal[" not in self.type_name:
            return self.type_name
        *others, last = map(_in_words, _alternatives(self.annotation))
        return f"{', '.join(others)} or {last}" if others else last


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, and the values of a Literal, one by one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [a for part in get_args(annotation) for a in _alternatives(part)]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [annotation]


def _in_words(wanted: Any) -> str:
    if wanted is type(None):
        return "None"
    return wanted.__name__ if type(wanted) is type else str(wanted)


def _readings(text: str) -> Iterator[Any]:
    """Yield what a text on the command line can mean, the likeliest first."""
    try:
        value = None if text.lower() == "none" else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = _FLOATS.get(text.lower().lstrip("+-"), text)
        if isinstance(value, float) and text.startswith("-"):
            value = -value
    yield value
    if "," in text:
        yield tuple(part.strip() for part in text.split(",") if part.strip())
    yield (value,)


def _between_commas(text: str) -> list[str]:
    """Cut a text at its commas, but for those in brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


_FLOATS = {"inf": float("inf"), "nan": float("nan")}


def _fit_any(value: Any, options: Iterable[Any]) -> tuple[bool, Any]:
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        value = value.item()
    for wanted in options:
        fits, result = _fit(value, wanted)
        if fits:
            return True, result
    return False, value


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
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (tuple, list)):
            return False, value
        members = get_args(wanted)
        return _fit_sequence(tuple(value), members if origin is tuple else (*members, ...))
    if isinstance(origin, type):
        return isinstance(value, origin), value
    return (type(value) is type(wanted) and value == wanted), value


def _fit_sequence(value: tuple[Any, ...], members: tuple[Any, ...]) -> tuple[bool, Any]:
    if members and members[-1] is Ellipsis:
        members = (members[0] if len(members) > 1 else Any,) * len(value)
    if members and len(members) != len(value):
        return False, value
    fitted = []
    for entry, member in zip(value, members or (Any,) * len(value), strict=True):
        fits, result = _fit_any(entry, _alternatives(member))
        if not fits:
            return False, value
        fitted.append(result)
    return True, tuple(fitted)


def _is_image(annotation: Any) -> bool:
    """Tell an image parameter, ``lp.Image`` or ``lp.Image | None``, from any other."""
    return [a for a in _alternatives(annotation) if a is not type(None)] == [Image]


def read_signature(fn: Callable[..., Any]) -> tuple[dict[str, bool], dict[str, Parameter]]:
    """Return a pipeline's images, by name whether each is required, and its other parameters.

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
    images: dict[str, bool] = {}
    parameters: dict[str, Parameter] = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"pipeline {fn.__name__}: *{name} is not allowed; name every image and parameter"
            )
        annotation = hints.get(name, parameter.annotation)
        if _is_image(annotation):
            images[name] = parameter.default is parameter.empty
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
    return images, parameters
