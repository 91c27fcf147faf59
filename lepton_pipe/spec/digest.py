"""The version of a kernel's code: a digest of its source and of what it calls.

Comments, blank lines, docstrings and decorators do not count. Functions, classes and constants of
the user's own (and ours) that the code refers to do, however deep; installed libraries do not:
their versions are recorded beside the result.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sysconfig
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from lepton_pipe.spec.kernel import Kernel

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(
    Path(sysconfig.get_path(k)).resolve() for k in ("stdlib", "platstdlib", "purelib", "platlib")
)
_Seen = dict[int, object]  # holds what was seen, so that no id is used twice


def code_digest(kernel: Kernel) -> str:
    """Return the version of a kernel: its explicit one, or ``sha256:`` and the digest."""
    if kernel.version is not None:
        return f"version:{kernel.version}"
    sha = hashlib.sha256()
    for part in _parts(kernel, {}):
        sha.update(part.encode() + b"\0")
    return f"sha256:{sha.hexdigest()[:32]}"


def _parts(thing: Any, seen: _Seen) -> Iterator[str]:
    """Yield texts that change when `thing` does, the same in every process."""
    if isinstance(thing, (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)):
        yield repr(thing)
        return
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, np.ndarray):
        yield f"{thing.dtype.str}{thing.shape}{hashlib.sha256(thing.tobytes()).hexdigest()}"
    elif isinstance(thing, Kernel):
        yield from _kernel_parts(thing, seen)
    elif isinstance(thing, np.ufunc):
        yield f"numpy.{thing.__name__}"
    elif isinstance(thing, (list, tuple, set, frozenset, Mapping)):
        yield from _container_parts(thing, seen)
    else:
        yield from _code_parts(thing, seen)


def _kernel_parts(kernel: Kernel, seen: _Seen) -> Iterator[str]:
    if kernel.version is not None:
        yield f"version:{kernel.version}"
        return
    # A larger depth can change the result, where the first was too small.
    rules = (kernel.depth, kernel.needs, kernel.grid, kernel.sweep)
    for part in (kernel.fn, kernel.combine, kernel.finalize, *rules):
        yield from _parts(part, seen)


def _container_parts(thing: Any, seen: _Seen) -> Iterator[str]:
    yield f"{type(thing).__name__}({len(thing)})"
    if isinstance(thing, (set, frozenset)):
        yield from sorted("\0".join(_parts(entry, dict(seen))) for entry in thing)
        return
    for entry in thing.items() if isinstance(thing, Mapping) else thing:
        yield from _parts(entry, seen)


def _code_parts(thing: Any, seen: _Seen) -> Iterator[str]:
    if isinstance(thing, functools.partial):
        yield from _parts([thing.func, thing.args, thing.keywords], seen)
    elif isinstance(thing, MethodType):
        yield from _parts([thing.__func__, thing.__self__], seen)
    elif isinstance(thing, FunctionType) and _is_own(thing.__code__.co_filename):
        yield from _function_parts(thing, seen)
    elif isinstance(thing, type) and _is_own(_file_of(thing)):
        yield _source(thing)
        yield from _parts(thing.__bases__, seen)
        for name, member in vars(thing).items():
            if isinstance(member, (FunctionType, staticmethod, classmethod, property)):
                yield name
                yield from _parts(_function_of(member), seen)
    elif hasattr(thing, "__qualname__"):
        yield f"{getattr(thing, '__module__', '')}.{thing.__qualname__}"
        if hasattr(thing, "__wrapped__"):
            yield from _parts(thing.__wrapped__, seen)
    elif _is_own(_file_of(type(thing))):
        yield from _parts([type(thing), _state(thing)], seen)
    elif not isinstance(thing, ModuleType):  # what a library's object holds may differ each time
        yield from _parts(type(thing), seen)


def _state(thing: Any) -> dict[str, Any]:
    slots = [s for c in type(thing).__mro__ for s in getattr(c, "__slots__", ())]
    return {n: getattr(thing, n, None) for n in (*slots, *getattr(thing, "__dict__", ()))}


def _function_of(member: Any) -> Any:
    return member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def _file_of(thing: Any) -> str:
    try:
        return inspect.getfile(thing)
    except (OSError, TypeError):  # built in, or made at a prompt
        return ""


def _is_own(file: str) -> bool:
    if not file or file.startswith("<frozen "):
        return False
    path = Path(file).resolve()
    if _PACKAGE in path.parents:
        return True
    return not any(root in path.parents for root in _INSTALLED)


def _function_parts(fn: FunctionType, seen: _Seen) -> Iterator[str]:
    yield fn.__qualname__
    yield _source(fn)
    yield from _parts([fn.__defaults__, fn.__kwdefaults__], seen)
    for cell in fn.__closure__ or ():
        yield from _parts(_contents(cell), seen)
    names = sorted(_global_names(fn.__code__))
    for name in names:
        if name not in fn.__globals__:
            continue
        thing = fn.__globals__[name]
        yield name
        yield from _parts(thing, seen)
        if isinstance(thing, ModuleType) and _is_own(_file_of(thing)):
            for member in names:  # helpers.smooth names both helpers and smooth
                yield from _parts(getattr(thing, member, None), seen)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet: a function that is defined later
        return None


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _source(thing: Callable[..., Any] | type) -> str:
    if getattr(thing, "__name__", "") == "<lambda>":
        # Its source is the whole statement it stands in, a decorator with others perhaps.
        return _compiled(thing.__code__)  # type: ignore[union-attr]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, SyntaxError, TypeError):  # typed at a prompt, or a lambda in an expression
        code = getattr(thing, "__code__", None)
        return _compiled(code) if code is not None else thing.__qualname__
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree, annotate_fields=False)


def _compiled(code: CodeType) -> str:
    constants = [
        _compiled(c)
        if isinstance(c, CodeType)
        else repr(sorted(c, key=repr) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return f"{code.co_code.hex()}{constants}{code.co_names!r}"
