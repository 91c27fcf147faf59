"""The version of a kernel's code: a digest of its source and of what it calls.

Comments, blank lines, docstrings and decorators do not count. Functions and constants of the
user's own (and ours) that the code refers to do, however deep; installed libraries do not: their
versions are recorded beside the result.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from lepton_pipe.spec.kernel import Kernel

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(
    Path(sysconfig.get_path(k)).resolve() for k in ("stdlib", "platstdlib", "purelib", "platlib")
)


def code_digest(kernel: Kernel) -> str:
    """Return the version of a kernel: its explicit one, or ``sha256:`` and the digest."""
    if kernel.version is not None:
        return f"version:{kernel.version}"
    sha = hashlib.sha256()
    for part in _parts(kernel, set()):
        sha.update(part.encode() + b"\0")
    return f"sha256:{sha.hexdigest()[:32]}"


def _parts(thing: Any, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Kernel):
        if thing.version is not None:
            yield f"version:{thing.version}"
            return
        for part in (thing.fn, thing.combine, thing.finalize):
            yield from _parts(part, seen)
    elif isinstance(thing, np.ufunc):
        yield f"numpy.{thing.__name__}"
    elif isinstance(thing, FunctionType):
        if _is_own(thing):
            yield from _function_parts(thing, seen)
        else:
            yield f"{thing.__module__}.{thing.__qualname__}"
    elif isinstance(thing, (bool, int, float, complex, str, bytes, type(None), tuple, frozenset)):
        yield repr(thing)
    elif isinstance(thing, np.ndarray):
        yield f"{thing.dtype.str}{thing.shape}{hashlib.sha256(thing.tobytes()).hexdigest()}"
    elif hasattr(thing, "__qualname__"):
        yield f"{getattr(thing, '__module__', '')}.{thing.__qualname__}"


def _is_own(fn: FunctionType) -> bool:
    path = Path(fn.__code__.co_filename).resolve()
    if _PACKAGE in path.parents:
        return True
    return not any(root in path.parents for root in _INSTALLED)


def _function_parts(fn: FunctionType, seen: set[int]) -> Iterator[str]:
    yield fn.__qualname__
    yield _source(fn)
    yield repr(fn.__defaults__) + repr(fn.__kwdefaults__)
    for cell in fn.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)
    for name in sorted(_global_names(fn.__code__)):
        if name in fn.__globals__:
            yield name
            yield from _parts(fn.__globals__[name], seen)


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _source(fn: Callable[..., Any]) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    except (OSError, SyntaxError):  # typed at a prompt, or a lambda inside an expression
        code = fn.__code__
        constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
        return f"{code.co_code.hex()}{constants!r}{code.co_names!r}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree, annotate_fields=False)
