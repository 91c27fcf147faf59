"""Find pipelines: those that ship with lepton_pipe, by name, and a user's own, by file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from lepton_pipe.api import Pipeline
from lepton_pipe.errors import UsageError
from lepton_pipe.spec import mark_by_value


def shipped_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines that ship with lepton_pipe, by name."""
    found: dict[str, Pipeline] = {}
    shipped = importlib.import_module("lepton_pipe.pipelines")
    for info in pkgutil.iter_modules(shipped.__path__):
        found.update(_pipelines_of(importlib.import_module(f"{shipped.__name__}.{info.name}")))
    return dict(sorted(found.items()))


def find_pipeline(name: str) -> Pipeline:
    """Return a shipped pipeline by name, or one of a file: ``file.py`` or ``file.py:name``.

    The file is the user's own code and is run.

    Raises
    ------
    UsageError
        When there is no such pipeline or file, or the file has several and none was named.
    """
    path, _, wanted = name.partition(":")
    if path.endswith(".py") or "/" in path:
        return _from_file(Path(path), wanted)
    known = shipped_pipelines()
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else "."
    raise UsageError(
        f"there is no pipeline {name!r}{meant} There are {', '.join(known)}; a pipeline of your "
        "own is given by its file, such as mine.py or mine.py:name"
    )


def _from_file(path: Path, wanted: str) -> Pipeline:
    if not path.is_file():
        raise UsageError(f"there is no file {path} to read a pipeline from; check the path")
    found = _pipelines_of(_load(path.resolve()))
    if wanted in found:
        return found[wanted]
    names = ", ".join(found) or "none"
    if wanted:
        raise UsageError(f"{path} has no pipeline {wanted!r}; it has {names}")
    if len(found) != 1:
        raise UsageError(
            f"{path} has {len(found)} pipelines ({names}); "
            + (
                f"name one: {path}:{next(iter(found))}"
                if found
                else "decorate one with @lp.pipeline"
            )
        )
    return next(iter(found.values()))


def _load(path: Path) -> ModuleType:
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # As for a script, so that the file can import what lies beside it; workers inherit the path.
    sys.path.insert(0, str(path.parent))
    mark_by_value(name)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(_load_problem(path, error)) from error
    return module


def _load_problem(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: {error.msg}; correct the file"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = f":{frames[-1].lineno}" if frames else ""
    return (
        f"while reading {path}{line}: {type(error).__name__}: {error}\n  The file is run to find "
        "the pipeline in it; what should only happen in a script belongs under\n  if __name__ == "
        '"__main__":'
    )


def _pipelines_of(module: ModuleType) -> dict[str, Pipeline]:
    return {
        value.name: value
        for value in vars(module).values()
        if isinstance(value, Pipeline)
        and value.fn.__module__ == module.__name__
        and not value.swept
    }
