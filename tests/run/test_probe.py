"""What kernels of a user's own take is measured in a process of its own."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.plan.rates import rate_key
from lepton_pipe.run import measure
from lepton_pipe.run.measure import Part, measured
from tests.command import python
from tests.run.probing import IMAGE, probed

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the peak")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def scratch_of(kernel, **limits):
    """Return the bytes per voxel that a probe says a kernel needs."""
    spec, found = probed(kernel, **limits)
    assert found.notes == []
    assert list(found.scratch) == [rate_key(spec, spec[kernel.name])]
    return found.scratch[rate_key(spec, spec[kernel.name])]


@lp.kernel(dtype="float64")
def greedy(block):
    """Take eight float64 copies at once."""
    copies = [block.astype(np.float64) + i for i in range(8)]
    return sum(copies) / len(copies)


@lp.kernel
def thrifty(block):
    return block + 1


@lp.kernel
def of_another_library(block):
    """Have eight blocks of memory that NumPy knows nothing of."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    memory = libc.malloc(8 * block.nbytes)
    libc.memset(memory, 1, 8 * block.nbytes)
    libc.free(memory)
    return block + 1


@lp.kernel
def mapped(block):
    """Have eight blocks of memory right from the system."""
    import mmap

    with mmap.mmap(-1, 8 * block.nbytes) as memory:
        memory.write(b"1" * len(memory))
    return block + 1


_loaded = []


@lp.kernel
def loads(block):
    """Load 64 MiB once in each process."""
    if not _loaded:
        _loaded.append(np.ones(2**26, np.uint8))
    return block + 1


def test_what_numpy_takes_is_exact():
    # Eight copies, and one more for the sum; the result itself is counted apart.
    assert 8 * 8 - 1 <= scratch_of(greedy) <= 8 * 8 + 1


def test_a_kernel_that_takes_nothing_is_not_charged_what_the_system_rounds_up():
    assert scratch_of(thrifty) < 0.5


@linux
@pytest.mark.parametrize("kernel", [of_another_library, mapped])
def test_memory_that_numpy_knows_nothing_of_is_seen(kernel):
    # Blocks are of float32. The result, counted apart, is not yet there when the memory is; what is
    # written to the map is bytes of Python besides.
    assert 7 * 4 - 1 <= scratch_of(kernel) <= 16 * 4 + 1


def test_what_is_loaded_once_is_no_scratch():
    assert scratch_of(loads) < 0.5


def test_where_the_system_tells_nothing_what_python_takes_is_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_SELF", tmp_path / "nowhere")
    spec, _ = probed(greedy)
    part = cut(spec)
    ((id_, took),) = measured(part, lambda _id: None)
    assert id_ == "greedy"
    assert 8 * 8 - 1 <= took.bytes_besides / IMAGE.size <= 8 * 8 + 1


def cut(spec):
    return Part(spec, {"raw": IMAGE}, frozenset({"greedy"}))


@pytest.mark.parametrize(("took_each", "runs"), [(0.0, 4), (10.0, 2)])
@linux
def test_a_slow_kernel_runs_no_more_often_than_it_must(took_each, runs, monkeypatch):
    # Nothing is as slow as this: what each run took is told by a clock of our own.
    clock = itertools.count(step=took_each)
    monkeypatch.setattr(measure, "_now", lambda: next(clock))
    spec, _ = probed(greedy)
    begun = []
    ((_, took),) = measured(cut(spec), begun.append)
    assert begun.count("greedy") == runs
    assert 8 * 8 - 1 <= took.bytes_besides / IMAGE.size <= 8 * 8 + 1


def test_kernels_that_are_closures_of_others_are_measured():
    def copies(number):
        add = lambda block, i: block.astype(np.float64) + i  # noqa: E731

        @lp.kernel(dtype="float64")
        def some(block):
            return sum([add(block, i) for i in range(number)])

        return some

    assert scratch_of(copies(9)) > scratch_of(copies(4)) + 4 * 8


@lp.kernel
def sees_threads(block):
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "5"
    return block + 1


def test_libraries_have_the_threads_that_they_have_in_a_worker(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")  # the user's own word counts there, too
    scratch_of(sees_threads)


SCRIPT = """\
import numpy as np
import lepton_pipe as lp

print("once")
OFFSET = 3

@lp.kernel(dtype="float64")
def copies(block):
    return sum([block.astype(np.float64) + i for i in range(OFFSET)])

@lp.pipeline
def mine(raw: lp.Image):
    return copies(raw)

plan = mine.plan(raw=np.zeros((64, 64, 64), np.uint8), out="o")
print(plan.notes, *plan.rates.scratch.values())
"""


@pytest.mark.parametrize("words", [["script.py"], ["-"]])
def test_a_script_without_a_guard_is_not_run_again(tmp_path, words):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python(*words, cwd=tmp_path, input=SCRIPT)
    assert done.returncode == 0, done.stderr
    once, notes, scratch = done.stdout.split()
    assert (once, notes) == ("once", "[]")
    assert 3 * 8 - 1 <= float(scratch) <= 4 * 8


def test_where_every_kernel_is_known_nothing_is_loaded_for_it(tmp_path):
    script = SCRIPT.replace("lp.kernel(", "lp.kernel(scratch=32.0, ").replace(
        "print(plan.notes", "import sys; print('lepton_pipe.run.trial' in sys.modules"
    )
    done = python("-", cwd=tmp_path, input=script)
    assert done.stdout.split() == ["once", "False"], done.stderr
