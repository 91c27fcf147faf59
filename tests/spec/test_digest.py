"""The version of a kernel's code changes with what it computes, and with nothing else."""

from __future__ import annotations

import importlib
import linecache
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.spec.digest import _is_own, code_digest
from lepton_pipe.spec.operators import ufunc_kernel

MINE = '''
import functools
from dataclasses import dataclass

import digest_helpers
import digest_package.near
import lepton_pipe as lp
import numpy as np

GAIN = 3
TABLE = {"a": 1, "b": [1, 2]}
NAMES = frozenset({"first", "second", "third"})
STEPS = (abs, len)
WEIGHTS = np.array([1.0, 2.0])
SHARP = np.float32(0.5)
UNUSED = 7


@dataclass(frozen=True)
class Window:
    """A window."""

    size: int = 3

    def grow(self, by):
        return self.size + by


WINDOW = Window(4)


def deeper(x):
    return x + 1


def helper(x):
    """Help."""
    return deeper(x) * GAIN


def made(factor):
    def scale(x):
        return x * factor

    return scale


SCALE = made(2)
ADD = functools.partial(max, 10)


def whole(n):
    return n


def combine(a, b):
    return a + b


@lp.kernel(depth=1)
def target(block, size=3, *, how=whole):
    """Do something."""
    # a comment
    if TABLE["a"] and "first" in NAMES and STEPS:
        block = helper(block) + SCALE(block) + WEIGHTS[0] + SHARP
    inner = lambda y: y + 5
    return inner(block) + WINDOW.grow(1) + digest_helpers.remote(block) + ADD(3) + how(1) + lazy(1)


def lazy(x):
    import json

    import digest_package.late as later
    from digest_package import far
    from digest_late import most as least
    from digest_package.far import further

    try:
        from digest_missing import nothing
    except ImportError:
        nothing = json.loads
    return least(x) + further(x) + far.off(x) + later.on(x) + digest_package.near.by(x) + nothing(x)


@lp.kernel(combine=combine)
def count(block):
    return block.sum()


@lp.kernel(version="7")
def named(block):
    return block


@lp.kernel
def calls_kernel(block):
    return target(block) + named(block)
'''
HELPERS = """
def remote(x):
    return local(x) - 1

def local(x):
    return x - 9

def idle(x):
    return x
"""
FILES = {
    "digest_mine.py": MINE,
    "digest_helpers.py": HELPERS,
    "digest_late.py": "def most(x):\n    return x + 100\n",
    "digest_package/near.py": "def by(x):\n    return x + 101\n",
    "digest_package/far.py": """
from .late import on

def off(x):
    return on(x) + 102

def further(x):
    return x + 103

def idle_too(x):
    return x + 104
""",
    "digest_package/late.py": "def on(x):\n    return x + 105\n",
}


class Modules:
    """The modules above, edited and imported anew under the same names and paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, *changes):
        files = dict(FILES)
        for old, new in changes:
            found = [name for name, text in files.items() for _ in range(text.count(old))]
            assert len(found) == 1, f"{old!r} must stand there once"
            files[found[0]] = files[found[0]].replace(old, new)
        for name, text in files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)

    def digest(self, *changes, kernel="target"):
        self.write(*changes)
        forget()
        return code_digest(getattr(importlib.import_module("digest_mine"), kernel))


def forget():
    for name in [n for n in sys.modules if n.startswith("digest_")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    linecache.clearcache()


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits come faster than its time stamps
    yield Modules(tmp_path)
    forget()


MATTERS = {
    "its own body": ("return inner(block) + WINDOW", "return inner(block) - WINDOW"),
    "a lambda in it": ("y + 5", "y + 6"),
    "a default": ("size=3, *", "size=4, *"),
    "a function as default": ("    return n\n", "    return n + 1\n"),
    "a function it calls": ("return deeper(x) * GAIN", "return deeper(x) + GAIN"),
    "a function that calls": ("    return x + 1\n", "    return x + 2\n"),
    "a constant": ("GAIN = 3", "GAIN = 4"),
    "the type of a constant": ("GAIN = 3", "GAIN = 3.0"),
    "an entry of a mapping": ('{"a": 1', '{"a": 2'),
    "an entry of a list in a mapping": ('"b": [1, 2]', '"b": [1, 3]'),
    "a member of a set": ('"third"', '"fourth"'),
    "a function in a tuple": ("(abs, len)", "(abs, max)"),
    "an array": ("np.array([1.0, 2.0])", "np.array([1.0, 2.5])"),
    "a NumPy scalar": ("np.float32(0.5)", "np.float64(0.5)"),
    "a closure": ("SCALE = made(2)", "SCALE = made(3)"),
    "the function of a closure": ("return x * factor", "return x / factor"),
    "a method": ("return self.size + by", "return self.size - by"),
    "the state of an object": ("Window(4)", "Window(5)"),
    "what a partial holds": ("partial(max, 10)", "partial(max, 11)"),
    "a function of another module": ("return local(x) - 1", "return local(x) - 2"),
    "what that calls": ("return x - 9", "return x - 8"),
    "a function imported where it is used": ("x + 100", "x - 100"),
    "a function of a module in a package": ("x + 101", "x - 101"),
    "a function of a module imported where it is used": ("+ 102", "- 102"),
    "a function of a package's module imported where it is used": ("x + 103", "x - 103"),
    "a function under a name given where it is used": ("x + 105", "x - 105"),
    "its depth": ("@lp.kernel(depth=1)", "@lp.kernel(depth=2)"),
}
DOES_NOT_MATTER = {
    "a comment": ("# a comment", "# quite another comment"),
    "its docstring": ('"""Do something."""', '"""Do something\n\n    else.\n    """'),
    "no docstring": ('    """Do something."""\n', ""),
    "the docstring of a helper": ('"""Help."""', '"""Assist."""'),
    "the docstring of a class": ('"""A window."""', '"""A frame."""'),
    "blank lines": ("    inner = lambda", "\n\n    inner = lambda"),
    "spaces and brackets": ("return deeper(x) * GAIN", "return (deeper( x )*GAIN)"),
    "trailing commas": (
        "def target(block, size=3, *, how=whole):",
        "def target(\n    block,\n    size=3,\n    *,\n    how=whole,\n):",
    ),
    "a constant it does not read": ("UNUSED = 7", "UNUSED = 8"),
    "a function of a module it does not call": (
        "def idle(x):\n    return x",
        "def idle(x):\n    return -x",
    ),
    "a function of an imported module it does not call": ("x + 104", "x - 104"),
    "its cost": ("@lp.kernel(depth=1)", "@lp.kernel(depth=1, cost=99, scratch=3)"),
    "what stands before it": ("GAIN = 3", "import math\n\n\nGAIN = 3"),
    "the order of a set": ('{"first", "second", "third"}', '{"third", "first", "second"}'),
}


@pytest.mark.parametrize("what", MATTERS)
def test_the_digest_changes_with(modules, what):
    assert modules.digest() != modules.digest(MATTERS[what])


@pytest.mark.parametrize("what", DOES_NOT_MATTER)
def test_the_digest_does_not_change_with(modules, what):
    assert modules.digest() == modules.digest(DOES_NOT_MATTER[what])


def test_how_partials_are_combined_matters(modules):
    change = ("    return a + b\n", "    return b + a\n")
    assert modules.digest(kernel="count") != modules.digest(change, kernel="count")


def test_a_kernel_that_calls_a_kernel_follows_it(modules):
    base = modules.digest(kernel="calls_kernel")
    assert modules.digest(MATTERS["a constant"], kernel="calls_kernel") != base
    unseen = (
        'version="7")\ndef named(block):\n    return block',
        'version="7")\ndef named(block):\n    return -block',
    )
    assert modules.digest(unseen, kernel="calls_kernel") == base
    assert modules.digest(('"7"', '"8"'), kernel="calls_kernel") != base


def test_an_explicit_version_wins(modules):
    assert modules.digest(kernel="named") == "version:7"
    changed = ("def named(block):\n    return block", "def named(block):\n    return -block")
    assert modules.digest(changed, kernel="named") == "version:7"


def fresh(folder, seed, script):
    root = str(Path(lp.__file__).parents[1])
    path = os.pathsep.join([str(folder), root])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_fresh_processes_agree(modules):
    here = [modules.digest(), modules.digest(kernel="count")]
    # The second of them reads the modules from bytecode that the first one wrote.
    for seed in ("1", "2"):
        script = (
            "import digest_mine as m; from lepton_pipe.spec.digest import code_digest as d;"
            "from lepton_pipe.kernels.filters import gaussian;"
            "print(d(m.target), d(m.count), d(gaussian));"
            "import sys; print('numba' in sys.modules)"
        )
        assert fresh(modules.folder, seed, script) == [*here, code_digest(gaussian), "False"]


def test_code_without_a_file_has_a_digest_too():
    def typed(text):
        made = {"lp": lp}
        exec(text, made)  # noqa: S102
        return code_digest(made["k"])

    base = "@lp.kernel\ndef k(block):\n    return max(block, (lambda: 3)())"
    assert typed(base) == typed(base)
    assert typed(base) != typed(base.replace("max", "min"))
    assert typed(base) != typed(base.replace("3", "4"))


def test_ufuncs_have_their_name():
    assert code_digest(ufunc_kernel(np.add)) == code_digest(ufunc_kernel(np.add))
    assert code_digest(ufunc_kernel(np.add)) != code_digest(ufunc_kernel(np.subtract))


def test_functions_that_call_each_other_end():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    @lp.kernel
    def recursive(block):
        return even(block)

    assert code_digest(recursive) == code_digest(recursive)


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_what_another_environment_has_installed_is_not_followed(folder):
    """An environment may see the packages of others, such as the system's."""
    assert not _is_own(f"/opt/lib/python3/{folder}/numpy/__init__.py")
    assert _is_own("/home/you/project/filters.py")
