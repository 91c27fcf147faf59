"""Kernels of a user's own are measured in a process of their own, whatever they do to it."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian
from lepton_pipe.plan import NOMINAL
from lepton_pipe.plan.rates import rate_key
from lepton_pipe.run import measure, trial
from lepton_pipe.run.measure import Part, measured
from lepton_pipe.run.probe import probe
from lepton_pipe.spec.kernel import UNDECLARED_SCRATCH
from lepton_pipe.store import open_source
from tests.command import LEPTON, PATIENCE, environment, lepton, names, python, wait_for

IMAGE = np.random.default_rng(0).integers(0, 1000, (40, 200, 210)).astype(np.uint16)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the peak")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def probed(kernel, before=lambda raw: gaussian(raw, 1), **limits):
    """Probe a pipeline of one kernel, after one that is known; return it and what was found."""

    @lp.pipeline
    def uses(raw: lp.Image):
        return {"out": kernel(before(raw))}

    sources = {"raw": open_source(IMAGE)}
    bind = partial(uses.bind, parameters={})
    spec = bind({n: s.type for n, s in sources.items()})
    return spec, probe(spec, bind, sources, NOMINAL, **limits)


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


@lp.kernel
def exits(block):
    os._exit(3)


@lp.kernel
def crashes(block):
    ctypes.string_at(0)
    return block


@lp.kernel
def killed(block):
    os.kill(os.getpid(), signal.SIGKILL)
    return block


@lp.kernel
def leaves_quietly(block):
    os._exit(0)


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        (exits, "exit status 3"),
        (crashes, "SIGSEGV"),
        (killed, "SIGKILL"),
        (leaves_quietly, "exit status 0"),
    ],
)
def test_a_kernel_that_ends_its_process_is_told_of(kernel, how):
    _, found = probed(kernel)
    assert found.lost == kernel.name
    assert found.scratch == {}
    (note,) = found.notes
    for word in (
        f"{kernel.name} could not",
        how,
        Path(__file__).name,
        f"{UNDECLARED_SCRATCH:g} bytes",
    ):
        assert word in note


def test_what_was_measured_before_is_kept_when_a_kernel_ends_the_process():
    @lp.pipeline
    def uses(raw: lp.Image):
        return {"out": exits(greedy(raw))}

    sources = {"raw": open_source(IMAGE)}
    bind = partial(uses.bind, parameters={})
    spec = bind({n: s.type for n, s in sources.items()})
    found = probe(spec, bind, sources, NOMINAL)
    assert list(found.scratch) == [rate_key(spec, spec["greedy"])]
    assert found.lost == "exits"


@lp.kernel
def hangs(block):
    time.sleep(3600)
    return block


@lp.kernel
def hangs_in_c(block):
    """Hold the GIL for ever."""
    ctypes.PyDLL(None).pause()
    return block


@pytest.mark.parametrize("kernel", [hangs, hangs_in_c])
def test_a_kernel_that_hangs_is_ended(kernel, monkeypatch, capsys):
    monkeypatch.setattr(trial, "_SILENT_SECONDS", 0.0)
    _, found = probed(kernel, before=lambda raw: raw, seconds=1.0)
    assert found.lost == kernel.name
    assert "not done after 1 s" in found.notes[0]
    assert capsys.readouterr().err.count("measuring what") == 1
    assert psutil.Process().children() == []


@lp.kernel
def eats(block):
    """Take memory until there is no more."""
    eaten = []
    while len(eaten) < 4000:
        eaten.append(np.ones(2**20, np.uint8))
        time.sleep(0.001)
    return block


def test_a_kernel_that_takes_more_than_the_run_may_is_ended():
    _, found = probed(eats, memory=2**28)
    assert found.lost == "eats"
    assert "more than 256 MiB" in found.notes[0]


@lp.kernel
def quits(block):
    sys.exit("no more of this")


def test_a_kernel_that_raises_is_told_of_and_lost_is_nothing():
    _, found = probed(quits)
    assert found.lost == ""
    assert found.notes == [
        "kernels could not be measured on a part of the image: SystemExit: no more of this"
    ]


def test_a_kernel_that_cannot_be_sent_is_told_of():
    lock = threading.Lock()

    @lp.kernel
    def locked(block):
        with lock:
            return block + 1

    _, found = probed(locked)
    assert found.scratch == {}
    assert "lock" in found.notes[0]


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


MINE = """
import os
import sys
import time
from pathlib import Path
import lepton_pipe as lp

@lp.kernel
def dies(block):
    print("on the way out", flush=True)
    os._exit(3)

@lp.kernel
def talks(block):
    print("it goes well")
    os.write(1, b"very well indeed")
    return block + 1

@lp.kernel
def waits(block):
    Path("pid").write_text(str(os.getpid()))
    time.sleep(3600)
    return block

@lp.pipeline
def dying(raw: lp.Image):
    return dies(raw)

@lp.pipeline
def talking(raw: lp.Image):
    return talks(raw)

@lp.pipeline
def waiting(raw: lp.Image):
    return waits(raw)
"""


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    np.save(tmp_path / "raw.npy", IMAGE)
    return tmp_path


def test_a_plan_with_a_kernel_that_ends_its_process_says_so(place):
    done = lepton("plan", "mine.py:dying", "raw=raw.npy", "out=o", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "dies could not be measured" in done.stdout
    assert "exit status 3" in done.stdout
    assert "tasks on 1 x" in done.stdout
    assert "blocks run in worker processes" in done.stdout
    assert "on the way out" in done.stderr


def test_a_plan_that_is_to_run_in_this_process_says_what_comes_of_it(place):
    done = lepton("plan", "mine.py:dying", "raw=raw.npy", "out=o", "--serial", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "on one process" in done.stdout
    assert "with --workers 1 it has a process of its own" in done.stdout


def test_a_run_with_a_kernel_that_ends_its_process_ends_with_our_own_error(place):
    done = lepton("run", "mine.py:dying", "raw=raw.npy", "out=o", cwd=place)
    assert done.returncode == 2
    assert "dies could not be measured" in done.stderr
    last = done.stderr[done.stderr.index("lepton-pipe: ") :]
    assert "ended its worker process 3 times" in last
    assert "mine.py:" in last
    assert "o" not in names(place)


def test_what_a_kernel_prints_while_it_is_measured_is_not_on_stdout(place):
    done = lepton("plan", "mine.py:talking", "raw=raw.npy", "out=o", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"]
    assert "it goes well" in done.stderr
    assert "very well indeed" in done.stderr


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "0<&- >&- 2>&-"])
def test_a_plan_is_made_whatever_becomes_of_the_words_of_its_kernels(place, redirected):
    words = [*LEPTON, "plan", "mine.py:talking", "raw=raw.npy", "out=o", redirected]
    done = subprocess.run(
        ["bash", "-c", " ".join(words)], cwd=place, env=environment(), timeout=PATIENCE
    )
    assert done.returncode == 0
    kept = json.loads((place / "cache" / "lepton_pipe" / "rates.json").read_text())
    assert len(kept["rates"]["scratch"]) == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_command_that_is_stopped_takes_the_kernel_along(place, number, status):
    command = subprocess.Popen(
        [*LEPTON, "plan", "mine.py:waiting", "raw=raw.npy", "out=o"],
        cwd=place,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    there = psutil.Process(int(wait_for(lambda: pid_in(place))))
    os.killpg(command.pid, number)  # as a terminal does
    _, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == status
    assert "Traceback" not in told
    there.wait(PATIENCE)


def pid_in(place):
    file = place / "pid"
    return file.exists() and file.read_text()


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
