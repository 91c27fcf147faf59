"""The version of a kernel's code: a digest of its source and of what it calls.

Comments, blank lines, docstrings and decorators do not count. Functions, classes and constants of
the user's own (and ours) that the code refers to do, however deep, and so do the compiled loops
that it asks for by name; installed libraries do not: their versions are recorded beside the result.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from lepton_pipe.device import loops
from lepton_pipe.spec.kernel import Kernel
from lepton_pipe.spec.sources import Import, loops_texts, names_of_loops, source_of

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(
    Path(sysconfig.get_path(k)).resolve() for k in ("stdlib", "platstdlib", "purelib", "platlib")
)
# An environment may take over what is installed in others, whose paths it does not know.
_OF_INSTALLERS = {"site-packages", "dist-packages"}
_Seen = dict[int, object]  # holds what was seen, so that no id is used twice


def code_digest(kernel: Kernel) -> str:
    """Return the version of a kernel: its explicit one, or ``sha256:`` and the digest."""
    if kernel.version is not None:
        return f"version:{kernel.version}"
    sha = hashlib.sha256()
    for part in _parts(kernel, {}):
        sha.update(part.encode() + b"\0")
    return f"sha256:{sha.hexdigest()[:32]}"


def loops_of(kernel: Kernel) -> frozenset[str]:
    """Return the modules of compiled loops that a kernel can reach, by name.

    None of one that says its version itself: its code is not looked at.
    """
    return names_of_loops(_parts(kernel, {}))


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
    if kernel.absorb:
        yield from _parts(kernel.absorb, seen)


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
        yield source_of(thing).text
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
    except (OSError, TypeError):  # built in, made at a prompt, or a folder without __init__.py
        return next(iter(getattr(thing, "__path__", ())), "")


@functools.cache
def _is_own(file: str) -> bool:
    if not file or file.startswith("<frozen "):
        return False
    path = Path(file).resolve()
    if _PACKAGE in path.parents:
        return True
    installed = any(root in path.parents for root in _INSTALLED)
    return not installed and _OF_INSTALLERS.isdisjoint(path.parts)


def _function_parts(fn: FunctionType, seen: _Seen) -> Iterator[str]:
    yield fn.__qualname__
    yield source_of(fn).text
    yield from _parts([fn.__defaults__, fn.__kwdefaults__], seen)
    for cell in fn.__closure__ or ():
        yield from _parts(_contents(cell), seen)
    named = _named(fn)
    for name in sorted(named):
        yield name
        yield from _parts(named[name], seen)
    if any(thing is loops for thing in named.values()):
        yield from loops_texts(_strings(fn.__code__))


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet: a function that is defined later
        return None


def _named(fn: FunctionType) -> dict[str, Any]:
    """Return what the code of a function names, but for attributes of what is no module."""
    names = sorted(_global_names(fn.__code__))
    named = {n: fn.__globals__[n] for n in names if n in fn.__globals__}
    package = fn.__globals__.get("__package__") or ""
    for statement in source_of(fn).imports:
        named |= _imported(statement, package)
    modules = [(n, t) for n, t in named.items() if isinstance(t, ModuleType)]
    for name, module in modules:  # it grows: package.helpers.smooth names all three
        if not _is_own(_file_of(module)):
            continue
        for member in names:
            if not hasattr(module, member):
                continue
            thing = named[f"{name}.{member}"] = getattr(module, member)
            if isinstance(thing, ModuleType) and all(thing is not m for _, m in modules):
                modules.append((f"{name}.{member}", thing))
    return named


def _imported(statement: Import, package: str) -> dict[str, Any]:
    """Return what an import in the body of a function gives, if it is of the user's own.

    What cannot be imported is left out: the kernel may know what to do without it.
    """
    try:
        name = importlib.util.resolve_name(statement.module, package)
        top = name.partition(".")[0]
        if not _is_own_package(top):
            return {}
        module = importlib.import_module(name)
        if not statement.names:
            return {top: sys.modules[top], name: module}
        return {f"{name}.{member}": _member(module, member) for member in statement.names}
    except ImportError:
        return {}


def _is_own_package(name: str) -> bool:
    if name in sys.modules:
        return _is_own(_file_of(sys.modules[name]))
    spec = None if name in sys.stdlib_module_names else importlib.util.find_spec(name)
    if spec is None:
        return False
    folders = spec.submodule_search_locations or ()  # a folder without __init__.py has no origin
    return _is_own(spec.origin or next(iter(folders), ""))


def _member(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        importlib.import_module(f"{module.__name__}.{name}")
    return getattr(module, name)


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _strings(code: CodeType) -> set[str]:
    strings = {c for c in code.co_consts if isinstance(c, str)}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            strings |= _strings(constant)
    return strings
