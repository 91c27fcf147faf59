"""Pickle what workers are sent, the user's code among it, so that errors there name its lines."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

import cloudpickle

from lepton_pipe.spec.canonical import Spec


def sent(thing: Any) -> bytes:
    """Return what a worker unpickles to the same thing; functions of scripts travel as code."""
    with BytesIO() as file:
        _Pickler(file).dump(thing)
        return file.getvalue()


def why_not_sent(spec: Spec) -> str:
    """Return which kernel of a pipeline no other process can be sent, and why; empty for none."""
    with Path(os.devnull).open("wb") as nowhere:  # it may hold a network, of which no copy is made
        for step in spec.steps:
            try:
                _Pickler(nowhere).dump(step.kernel)
            except Exception as error:  # noqa: BLE001  what a kernel holds may raise anything
                return f"{step.id} ({type(error).__name__}: {error}), {step.where}"
    return ""


def _code(code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    """Return how code is made anew, and the file it is from.

    cloudpickle leaves the file out, in newer versions, and a traceback would show no line of it.
    """
    make, arguments, *_ = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _made, (code.co_filename, make, *arguments)


def _made(file: str, make: Callable[..., CodeType], *arguments: Any) -> CodeType:
    return make(*arguments).replace(co_filename=file)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(
        {CodeType: _code}, cloudpickle.Pickler.dispatch_table
    )
