"""Run CUDA sources on a CPU: g++ compiles them with a header that stands for CUDA.

Each of a block's threads runs to the next ``__syncthreads()`` before any goes on. What this cannot
show: races between them, how a GPU rounds its own functions, time.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("g++")
# Numbers as CUDA has them: multiply-adds only where they are written, integers that wrap.
_WORDS = (
    *(str(COMPILER), "-std=c++17", "-O1", "-fPIC", "-w"),
    *("-ffp-contract=off", "-fwrapv"),
)


class RawModule:
    """CuPy's, for arrays of `tests.fake_device`."""

    def __init__(self, code: str, options: tuple[str, ...] = (), **more: Any) -> None:
        assert not more
        assert all(option.startswith("--") for option in options)
        # A kernel may say that multiply-adds are to be fused where CUDA can; the CPU does not.
        self._code = code

    def get_function(self, name: str) -> Any:
        run = _loaded(self._code, name)
        waits = "__syncthreads" in self._code

        def call(grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
            assert not shared_mem
            assert all(
                0 < g <= limit for g, limit in zip(grid, (2**31, 2**16, 2**16), strict=False)
            )
            assert np.prod(block) <= 1024
            held = [_argument(a) for a in args]
            pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held))
            run(_three(grid), _three(block), pointers, waits)

        return call


def _three(of: Any) -> Any:
    return (ctypes.c_uint * 3)(*of, *(1,) * (3 - len(of)))


def _argument(argument: Any) -> Any:
    if hasattr(argument, "_voxels"):
        return ctypes.c_void_p(argument._voxels.ctypes.data)
    assert isinstance(argument, np.generic), f"{argument!r} has no dtype that CUDA could rely on"
    return (ctypes.c_char * argument.dtype.itemsize).from_buffer_copy(argument.tobytes())


@cache
def _loaded(code: str, name: str) -> Any:
    call = f"""
static void kernel_body(void** args) {{
    called(&{name}, args, arity(&{name}));
}}
extern "C" void run_it(const unsigned* grid, const unsigned* block, void** args, bool waits) {{
    launch(kernel_body, grid, block, args, waits);
}}
"""
    text = f'#include "cpu.h"\n{code}\n{call}'
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    source = _folder() / f"{digest}.cpp"
    source.write_text(text)
    library = source.with_suffix(".so")
    made = subprocess.run(
        [*_WORDS, "-shared", f"-I{_folder()}", str(source), "-o", str(library)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr + code
    run = ctypes.CDLL(str(library)).run_it
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_bool]
    run.restype = None
    return run


@cache
def _folder() -> Path:
    """Return a folder for what is made, with the header compiled: that takes most of the time."""
    folder = Path(tempfile.mkdtemp(prefix="lepton-cuda-"))
    shutil.copy(HERE / "cpu.h", folder)
    header = [*_WORDS, "-x", "c++-header", str(folder / "cpu.h"), "-o", str(folder / "cpu.h.gch")]
    subprocess.run(header, check=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
