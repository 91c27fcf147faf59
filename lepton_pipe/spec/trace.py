"""Collects every problem of a pipeline while it is traced, with the user's own line."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from lepton_pipe.errors import SpecError

_PACKAGE = Path(__file__).resolve().parent.parent
_NUMPY = Path(np.__file__).resolve().parent
_problems: ContextVar[list[str] | None] = ContextVar("lepton_pipe_problems", default=None)


def user_line() -> str:
    """Return ``file.py:12: the line``: the innermost line that is not lepton_pipe's own."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if not _is_ours(path):
            text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            return f"{path.name}:{frame.f_lineno}: {text}" if text else path.name
        frame = frame.f_back
    return ""


def last_user_line(error: BaseException) -> str:
    """Return the innermost line that is not lepton_pipe's own, of those that led to `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not _is_ours(Path(f.filename))]
    if not users:
        return ""
    return f"{Path(users[-1].filename).name}:{users[-1].lineno}: {users[-1].line}"


def _is_ours(path: Path) -> bool:
    # NumPy's operator mixin stands between the user's line and ours; the pipelines that ship
    # inside the package are written as a user would write them.
    inside = _PACKAGE in path.parents or _NUMPY in path.parents
    return inside and _PACKAGE / "pipelines" not in path.parents


def report(problem: str, where: str) -> None:
    """Note a problem found while tracing; outside a trace, raise it as `SpecError` at once."""
    collected = _problems.get()
    text = f"{problem}\n    {where}" if where else problem
    if collected is None:
        raise SpecError("pipeline", [text])
    if text not in collected:
        collected.append(text)


@contextmanager
def collecting(pipeline: str) -> Iterator[list[str]]:
    """Collect problems inside the block, and raise them together as `SpecError` at its end."""
    problems: list[str] = []
    token = _problems.set(problems)
    try:
        yield problems
    finally:
        _problems.reset(token)
    if problems:
        raise SpecError(pipeline, problems)
