"""What a pipeline returns, by name: one result, a dict of results, or a dict of such dicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lepton_pipe.errors import UsageError
from lepton_pipe.spec.node import Node

# Names that a run uses in its own directory.
_RESERVED = ("scratch", "workers", "inputs", "running", "values", "lepton")
# Folders may also be called as the variants of a sweep are.
_VARIANT = re.compile(r"[A-Za-z_]\w*=[\w.,=+%~-]*")


def named_outputs(pipeline: str, result: Any) -> dict[str, Node]:
    """Return the outputs of a pipeline by name; those of a dict in a dict as ``folder/name``.

    Raises
    ------
    UsageError
        When the pipeline returned something else, or a name cannot be that of a file.
    """
    if isinstance(result, Node):
        return {pipeline: result}
    if not isinstance(result, Mapping) or not result:
        what = "an empty dict" if isinstance(result, Mapping) else _kind(result)
        raise UsageError(
            f"the pipeline returned {what}; return one image, value or table, or a dict of them by "
            "name"
        )
    return dict(_named(result))


def _named(result: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    for name, node in result.items():
        if isinstance(node, Mapping) and node:
            _refuse_name(name, _is_word(name) or bool(_VARIANT.fullmatch(str(name))))
            yield from ((f"{name}/{inner}", n) for inner, n in _named(node))
        elif isinstance(node, Node):
            _refuse_name(name, _is_word(name))
            yield name, node
        else:
            raise UsageError(f"output {name!r} is {_kind(node)}, not an image, value or table")


def _kind(result: Any) -> str:
    return "None" if result is None else type(result).__name__


def _is_word(name: Any) -> bool:
    return isinstance(name, str) and name.replace("-", "_").isidentifier()


def _refuse_name(name: Any, fits: bool) -> None:
    if name in _RESERVED:
        raise UsageError(
            f"output name {name!r} is taken: a run uses it in its own directory; choose another"
        )
    if not fits:
        raise UsageError(
            f"output name {name!r} cannot be a file name: use letters, digits, _ and -"
        )


def nested(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as the pipeline returned them: those of ``folder/name`` in a dict of a dict.

    >>> nested({"a/x": 1, "a/y": 2, "b": 3})
    {'a': {'x': 1, 'y': 2}, 'b': 3}
    """
    found: dict[str, Any] = {}
    for name, result in results.items():
        *folders, last = name.split("/")
        inner = found
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = result
    return found
