"""Loops for the CPU, compiled by Numba: the fast forms of kernels.

Nothing here knows of kernels or blocks. Each function is held equal to a simple form by a property,
most of them in ``tests/compiled``: to NumPy, SciPy or scikit-image, as beside the kernel that calls
it, or to exact fractions.
Kernels come here through `lepton_pipe.device.loops`, so that Numba is loaded only by processes
that compute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function for each dtype it meets; release the GIL; keep the result on disk.

    What is kept lies beside the files of this folder, or in the user's cache folder where those
    cannot be written; where neither can, each process compiles for itself.

    Arithmetic is IEEE, operation by operation, so a voxel's result does not depend on where in a
    block it lies.
    """
    return _compiled(function)


def jit_borrowing(function: F) -> F:
    """Compile a function as `jit` does that makes no arrays: it only borrows those it is handed.

    Numba would count references wherever an array is taken from a tuple. That is an atomic
    operation, and where it is done for each row it takes a third of the time.
    """
    return _compiled(function, _nrt=False)


def _compiled(function: F, **options: Any) -> F:
    njit: Any = numba.njit
    try:
        compiled = njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        return cast("F", njit(nogil=True, **options)(function))
    # Numba looks at a function's own file alone, and would go on with old code of another file
    # that was compiled into it.
    compiled._cache._cache_file._source_stamp = _stamp(Path(function.__code__.co_filename).parent)
    return cast("F", compiled)


@functools.cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what differs when a file of a folder of code was changed."""
    files = sorted(folder.glob("*.py"))
    return tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)
