"""A pipeline: a function of images and typed parameters that returns named outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lepton_pipe.errors import LeptonError, SpecError, UsageError
from lepton_pipe.spec import trace
from lepton_pipe.spec.canonical import Spec, build_spec
from lepton_pipe.spec.node import Image, Node
from lepton_pipe.spec.parameters import Parameter, read_signature
from lepton_pipe.spec.types import ImageType

_RESERVED = ("scratch", "workers", "inputs", "values", "lepton")


class Definition:
    """A pipeline function with its images and parameters, ready to be bound."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__doc__ = fn.__doc__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn
        self.name = fn.__name__
        self.images, self.parameters = read_signature(fn)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}{inspect.signature(self.fn)}>"

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.fn) or "").partition("\n")[0]

    def split(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort call arguments into images and checked parameters.

        Raises
        ------
        SpecError
            With every argument that is unknown, missing, or of the wrong type.
        """
        problems: list[str] = []
        names = [*self.images, *self.parameters]
        signature = inspect.signature(self.fn).parameters.items()
        positional = [n for n, p in signature if p.kind is not p.KEYWORD_ONLY]
        if len(args) > len(positional):
            problems.append(
                f"takes {len(positional)} arguments without a name, {len(args)} were given"
            )
        problems += [f"{n!r} was given twice" for n in positional[: len(args)] if n in kwargs]
        given = {**dict(zip(positional, args, strict=False)), **kwargs}
        problems += [
            f"there is no image or parameter {n!r}; there are {', '.join(names)}"
            for n in given
            if n not in names
        ]
        problems += [
            f"image {n!r} is missing"
            for n, required in self.images.items()
            if required and given.get(n) is None
        ]
        values: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if name not in given and parameter.required:
                problems.append(f"parameter {name!r} is missing")
                continue
            try:
                values[name] = parameter.check(given[name]) if name in given else parameter.usual()
            except UsageError as error:
                problems.append(str(error))
        if problems:
            raise SpecError(self.name, problems)
        return {n: given[n] for n in self.images if given.get(n) is not None}, values

    def bind(self, images: Mapping[str, ImageType], parameters: Mapping[str, Any]) -> Spec:
        """Trace the function over images of these types and freeze what it describes.

        Raises
        ------
        SpecError
            With every problem that was found, each with the user's own line.
        """
        empty = [
            f"image {n!r} has shape {t.grid.shape}: there are no voxels to compute"
            for n, t in images.items()
            if t.grid.size == 0
        ]
        if empty:
            raise SpecError(self.name, empty)
        nodes = {name: Image(type_, None) for name, type_ in images.items()}
        outputs: dict[str, Node] = {}
        with trace.collecting(self.name) as problems:
            try:
                outputs = self._outputs(self.fn(**nodes, **parameters))
            except Exception as error:
                # With problems noted before, this one may only follow from them.
                known = (LeptonError, ValueError, TypeError, AttributeError)
                if not problems and not isinstance(error, known):
                    raise
                if not problems:
                    where = trace.last_user_line(error)
                    raise SpecError(self.name, [f"{error}\n    {where}"]) from error
        return build_spec(self.name, parameters, nodes, outputs)

    def _outputs(self, result: Any) -> dict[str, Node]:
        if isinstance(result, Node):
            return {self.name: result}
        if not isinstance(result, Mapping) or not result:
            what = "an empty dict" if isinstance(result, Mapping) else type(result).__name__
            raise UsageError(
                f"the pipeline returned {what}; return one image, value or "
                "table, or a dict of them by name"
            )
        for name, node in result.items():
            if not isinstance(node, Node):
                raise UsageError(
                    f"output {name!r} is {type(node).__name__}, not an image, value or table"
                )
            if name in _RESERVED:
                raise UsageError(
                    f"output name {name!r} is taken: a run uses it in its own directory; choose "
                    "another"
                )
            if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
                raise UsageError(
                    f"output name {name!r} cannot be a file name: use letters, digits, _ and -"
                )
        return dict(result)


__all__ = ["Definition", "Parameter"]
