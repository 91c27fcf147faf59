"""Loops that are compiled by the first run that needs them: known before Numba is loaded.

What Numba keeps of a loop is a file named after its module. Here they are looked for in the folders
where it puts them, see `lepton_pipe.compiled.jit`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lepton_pipe.merge.pyramid import has_loop
from lepton_pipe.plan import Plan
from lepton_pipe.report.plan_text import duration
from lepton_pipe.spec.digest import loops_of

_FOLDER = Path(__file__).resolve().parent.parent / "compiled"
_MEANS = "resample"
# Seconds that a core takes to compile what a run needs of a module, by measurement: of modules that
# take more than a second, and that kernels which name them use for nearly every dtype and size.
# Where one stands for the other, as for few weights or many, they count once.
_SECONDS = {("strips", "wide"): 7, ("labels",): 4, ("regions",): 2, (_MEANS,): 5}


def compile_notes(plan: Plan) -> list[str]:
    """Return a note where loops that a run needs are not compiled yet on this machine.

    The run is longer then than its plan says. A GPU has kernels of its own, and none of these.
    """
    if plan.resources.device == "gpu":
        return []
    missing = {modules: s for modules, s in _SECONDS.items() if not any(map(is_kept, modules))}
    if not missing:
        return []
    seconds, names = 0, dict[str, None]()
    needed = dict(_needed(plan))
    for modules, each in missing.items():
        found = [name for name, loops in needed.items() if not loops.isdisjoint(modules)]
        seconds += each if found else 0
        names |= dict.fromkeys(found)
    if not names:
        return []
    return [
        f"the loops of {', '.join(names)} are not compiled yet on this machine: the first run "
        f"compiles them, and takes some {duration(seconds)} more; they are kept for later ones"
    ]


def _needed(plan: Plan) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield what a plan computes by compiled loops, and the modules that they are in."""
    steps = [plan.spec[s] for stage in plan.stages for s in stage.steps if "@" not in s]
    for kernel in dict.fromkeys(s.kernel for s in steps if s.kernel is not None):
        yield kernel.name, loops_of(kernel) - {_MEANS}
    for stage in plan.stages:
        for write in stage.writes:
            made = plan.arrays[write.array].type
            if write.level and made.kind == "image" and has_loop(made.dtype, write.factors):
                yield "scale levels", frozenset({_MEANS})


def is_kept(module: str) -> bool:
    """Tell whether a loop of a module was compiled here since the code, and Numba's, is there."""
    changed = max(f.stat().st_mtime for f in _sources())
    for folder in _folders():
        for kept in folder.glob(f"{module}.*.{_tag()}*.nbi"):
            with suppress(OSError):  # gone meanwhile
                if kept.stat().st_mtime >= changed:
                    return True
    return False


def _sources() -> Iterator[Path]:
    yield from _FOLDER.glob("*.py")
    numba = importlib.util.find_spec("numba")
    if numba is not None and numba.origin is not None:
        yield Path(numba.origin)


def _folders() -> Iterator[Path]:
    """Yield where Numba keeps what it compiled: where it is told, or else beside the code, or else
    in the user's cache folder.
    """
    own = f"{_FOLDER.name}_{hashlib.sha1(str(_FOLDER).encode(), usedforsecurity=False).hexdigest()}"
    if told := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(told) / own
        return
    yield _FOLDER / "__pycache__"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba" / own


def _tag() -> str:
    return f"py{sys.version_info.major}{sys.version_info.minor}"
