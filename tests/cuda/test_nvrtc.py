"""Every CUDA source compiles with CUDA's own compiler, for several generations of GPUs."""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
from functools import cache

import numpy as np
import pytest

from lepton_pipe.cuda import OPTIONS, labels, regions
from tests.cuda import test_chain, test_smooth
from tests.fake_device import fake_cupy

ARCHITECTURES = ("sm_80", "sm_90")


@cache
def nvrtc():
    """Return NVRTC as its wheel brings it; None where it is not installed or cannot be loaded."""
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvrtc.so") and "alt" not in file.name:
                try:
                    return ctypes.CDLL(str(file.locate()))
                except OSError:
                    continue
    return None


def log_of(library, program):
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, text)
    return text.value.decode()


def compiled_log(source, options, architecture):
    """Compile a source, and return what the compiler says of it."""
    library, program = nvrtc(), ctypes.c_void_p()
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"it.cu", 0, None, None
    )
    assert made == 0
    words = [option.encode() for option in (*options, f"--gpu-architecture={architecture}")]
    failed = library.nvrtcCompileProgram(
        program, len(words), (ctypes.c_char_p * len(words))(*words)
    )
    log = log_of(library, program)
    assert not failed, f"{log}\n{source}"
    size = ctypes.c_size_t()
    assert library.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    assert size.value > 0
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log


SOURCES: dict[str, set[tuple[str, tuple[str, ...]]]] = {}


class Collected:
    """Takes the place of CuPy's module: notes each source, and computes nothing."""

    def __init__(self, code, options):
        SOURCES.setdefault("all", set()).add((code, options))

    def get_function(self, name):
        return lambda grid, block, args: None


def sources(monkeypatch):
    """Return the sources that the other tests of kernels run."""
    SOURCES.clear()
    for module in (test_chain, test_smooth):
        monkeypatch.setattr(module, "to_host", lambda array: array)
    with fake_cupy(kernels=True), np.errstate(all="ignore"):
        sys.modules["cupy"].RawModule = Collected
        for dtype in (*test_chain.DTYPES, *test_chain.FLOATS):
            bodies = [lambda a, u=u: u(a, a) for u in test_chain.TWO]
            bodies = [lambda a, u=u: u(a) for u in test_chain.ONE] + bodies
            image = test_chain.awkward(dtype)
            bodies = [b for b in bodies if _is_of_numpy(b, image)]
            bodies = [b for b in bodies if not test_chain._in_half_floats(b, (image,))]
            test_chain.on_device(bodies, image)
        for shape, dtype, sigmas, _around in test_smooth.CASES:
            image = test_smooth.noise(shape, dtype, 1)
            inner = tuple(slice(0, n) for n in shape)
            weights = [test_smooth.gaussian_weights(s, 4.0) for s in sigmas]
            test_smooth.smoothed(
                image, weights, inner, lambda a: a * np.float32(2) - 1, lambda a: a > 3
            )
    return sorted(SOURCES["all"])


def _is_of_numpy(body, image):
    try:
        body(image)
    except TypeError:
        return False
    return True


def of_objects():
    """Return the sources that label objects and measure them, for some dtypes each."""
    found = {labels.code(np.dtype(t)) for t in ("bool", "uint16", "float64")}
    of_labels = (np.dtype(t) for t in ("int32", "uint8", "int64", "uint64", "int16", "uint32"))
    for of_label, of_value in zip(
        of_labels, (None, "bool", "int16", "uint64", "int8", "int32"), strict=True
    ):
        kind = None if of_value is None else np.dtype(of_value)
        for axes in (1, 5):
            found.add(regions.code(of_label, kind, axes, regions.Digits.of(kind)))
    for of_value in ("float32", "float64"):
        for most in (9, 2000 if of_value == "float64" else 254):
            kind = np.dtype(of_value)
            found.add(regions.code(np.dtype("int32"), kind, 3, regions.Digits.of(kind, 1, most)))
    return found


@pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed, or cannot be loaded")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_sources_compile(architecture, monkeypatch):
    found = sources(monkeypatch)
    assert len(found) > 15
    for source, options in (*found, *((source, OPTIONS) for source in of_objects())):
        assert options == OPTIONS
        compiled_log(source, options, architecture)
