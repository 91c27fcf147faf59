"""A pipeline: a function of images and typed parameters that returns named outputs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from lepton_pipe.errors import LeptonError, SpecError, UsageError
from lepton_pipe.spec import trace
from lepton_pipe.spec.canonical import Spec, build_spec
from lepton_pipe.spec.node import Image, Node
from lepton_pipe.spec.outputs import named_outputs
from lepton_pipe.spec.parameters import Parameter, read_signature
from lepton_pipe.spec.types import ImageType
from lepton_pipe.spec.variants import (
    checked_values,
    refuse_too_many,
    variants,
    with_readable_ids,
)


class Definition:
    """A pipeline function with its images and parameters, ready to be bound.

    Attributes
    ----------
    images
        Its images: by name, whether each is required.
    parameters
        Its parameters by name, but for those that are swept over.
    swept
        Values of the parameters that are swept over, by name.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__doc__ = fn.__doc__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn
        self.name = fn.__name__
        self.images, self.parameters = read_signature(fn)
        self.swept: dict[str, tuple[Any, ...]] = {}

    def sweep(self, **values: Iterable[Any]) -> Self:
        """Return a pipeline that does this one for every combination of some parameters' values.

        It is called, planned and run as any other; the outputs of each variant are in a folder
        (called on arrays, in a dict) that is named by its values: ``sigma=1,min_size=20``. What
        variants have in common is computed once.

        Parameters
        ----------
        **values
            The values of each parameter: numbers, texts, or tuples of them.

        Raises
        ------
        SpecError
            When there is no such parameter, a value does not fit or is given twice, or there are
            too many variants.

        Examples
        --------
        >>> nuclei.sweep(sigma=[1, 2, 3]).plan(raw="cells.ome.zarr", out="sweep.zarr").run()
        """
        made = copy.copy(self)
        made.swept = {**self.swept, **checked_values(self.name, self.parameters, values)}
        made.parameters = {n: p for n, p in self.parameters.items() if n not in values}
        refuse_too_many(self.name, made.swept)
        return made

    def described(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function on nodes: once, or for each variant by its name."""
        if not self.swept:
            return self.fn(*args, **kwargs)
        made = {v: self.fn(*args, **kwargs, **chosen) for v, chosen in variants(self.swept).items()}
        return {v: {self.name: m} if isinstance(m, Node) else m for v, m in made.items()}

    def __repr__(self) -> str:
        swept = "".join(f" {n}={list(v)}" for n, v in self.swept.items())
        return f"<pipeline {self.name}{inspect.signature(self.fn)}{swept}>"

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
        positional = [
            n for n, p in signature if p.kind is not p.KEYWORD_ONLY and n not in self.swept
        ]
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
                outputs = named_outputs(self.name, self.described(**nodes, **parameters))
            except Exception as error:
                # With problems noted before, this one may only follow from them.
                known = (LeptonError, ValueError, TypeError, AttributeError)
                if not problems and not isinstance(error, known):
                    raise
                if not problems:
                    where = trace.last_user_line(error)
                    told = f"{error}\n    {where}" if where else str(error)
                    raise SpecError(self.name, [told]) from error
        spec = build_spec(self.name, parameters, nodes, outputs)
        return with_readable_ids(replace(spec, swept=self.swept)) if self.swept else spec


__all__ = ["Definition", "Parameter"]
