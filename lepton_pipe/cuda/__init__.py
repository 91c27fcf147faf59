"""CUDA kernels of our own, where CuPy's leave a factor on the table.

Sources are texts, made for the dtypes and parameters at hand and compiled when first used; CuPy
keeps what it compiled on disk. They are reached through `lepton_pipe.device` alone. For each there
is a form in array operations that says what it must give: the tests compile the same sources for
the CPU and compare.

Numbers are NumPy's: integers wrap, NaN spreads, nothing is contracted to a fused multiply-add
where that would change a result.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lepton_pipe import networks

OPTIONS = ("--std=c++17", "--fmad=false")
"""How sources are compiled that must give NumPy's bits."""
THREADS = 256
"""Threads of a block of the GPU."""


@cache
def digest() -> str:
    """Return a digest of all that sources are made from: another means other kernels."""
    state = hashlib.sha256()
    for file in (*sorted(Path(__file__).parent.glob("*.*")), Path(networks.__file__)):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


@lru_cache(maxsize=256)
def compiled(source: str, name: str, options: tuple[str, ...] = OPTIONS) -> Any:
    """Return a function of a source, to be called with a grid, a block and arguments."""
    cupy = importlib.import_module("cupy")
    function = cupy.RawModule(code=source, options=options).get_function(name)

    def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if (note := _own.__dict__.pop("note", None)) is not None:
            note()
        function(grid, block, arguments)

    return launch


_own = threading.local()


@contextmanager
def at_first_launch(note: Callable[[], None]) -> Iterator[None]:
    """Call `note` right before this thread launches a kernel of ours for the first time here."""
    _own.note = note
    try:
        yield
    finally:
        _own.__dict__.pop("note", None)
