"""The text of code, and what it imports, for digests.

Comments, blank lines and docstrings are taken out; nothing is imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

_LOOPS = "lepton_pipe.compiled"
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_sources: WeakKeyDictionary[Callable[..., Any] | type, Source] = WeakKeyDictionary()


class Import(NamedTuple):
    """``from <module> import <names>``, or ``import <module>`` where there are no names.

    `module` has a dot in front for each level of a relative import.
    """

    module: str
    names: tuple[str, ...]


class Source(NamedTuple):
    """The text of some code, and the imports in it, those in bodies of functions too."""

    text: str
    imports: tuple[Import, ...] = ()


def source_of(thing: Callable[..., Any] | type) -> Source:
    """Read a function or class without its decorators; once, since many kernels call the same."""
    if thing not in _sources:
        _sources[thing] = _read(thing)
    return _sources[thing]


def _read(thing: Callable[..., Any] | type) -> Source:
    if getattr(thing, "__name__", "") == "<lambda>":
        # Its source is the whole statement it stands in, a decorator with others perhaps.
        return Source(_compiled(thing.__code__))  # type: ignore[union-attr]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, SyntaxError, TypeError):  # typed at a prompt, or a lambda in an expression
        code = getattr(thing, "__code__", None)
        return Source(_compiled(code) if code is not None else thing.__qualname__)
    for node in _statements(tree):
        if isinstance(node, _DOCUMENTED):
            node.decorator_list = []
    return _stripped(tree)


def _stripped(tree: ast.Module) -> Source:
    """Take docstrings out of `tree`, and note its imports."""
    imports = []
    for node in (tree, *_statements(tree)):
        if isinstance(node, (ast.Module, *_DOCUMENTED)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.Import):
            imports += [Import(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append(Import("." * node.level + (node.module or ""), names))
    return Source(ast.dump(tree, annotate_fields=False), tuple(imports))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements in a statement, however deep: far fewer than `ast.walk` goes over."""
    for block in ("body", "orelse", "handlers", "cases", "finalbody"):
        for inner in getattr(node, block, ()):
            yield inner
            yield from _statements(inner)


def _compiled(code: CodeType) -> str:
    constants = [
        _compiled(c)
        if isinstance(c, CodeType)
        else repr(sorted(c, key=repr) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return f"{code.co_code.hex()}{constants}{code.co_names!r}"


# -- compiled loops -----------------------------------------------------------------------------


def loops_texts(names: Iterable[str]) -> Iterator[str]:
    """Yield the texts of modules of compiled loops, and of those that they import.

    Numba is not loaded: the modules are read as files. Decorators count here, since they say how
    loops are compiled.

    Parameters
    ----------
    names
        As given to `lepton_pipe.device.loops`; those that name no such module are passed over.
    """
    found: dict[str, str] = {}
    waiting = [f"{_LOOPS}.{name}" for name in names]
    while waiting:
        file = _file_of_loops(waiting.pop())
        if file is None or file.name in found:
            continue
        found[file.name], imports = _read_loops(file)
        for module, members in imports:
            waiting += [module, *(f"{module}.{member}" for member in members)]
    for name in sorted(found):
        yield name
        yield found[name]


def names_of_loops(texts: Iterable[str]) -> frozenset[str]:
    """Return the modules of which `loops_texts` has given the text."""
    known = {file.name: file.stem for file in _folder_of_loops().glob("*.py")}
    return frozenset(known[text] for text in texts if text in known)


def _file_of_loops(module: str) -> Path | None:
    package, _, name = module.rpartition(".")
    if module == _LOOPS:
        name = "__init__"
    elif package != _LOOPS or not name.isidentifier():
        return None
    file = _folder_of_loops() / f"{name}.py"
    return file if file.is_file() else None


def _folder_of_loops() -> Path:
    return Path(__file__).resolve().parent.parent / "compiled"


@functools.cache
def _read_loops(file: Path) -> Source:
    return _stripped(ast.parse(file.read_text("utf-8")))
