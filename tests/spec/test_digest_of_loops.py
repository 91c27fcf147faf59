"""The version of a kernel's code changes with the compiled loops that it asks for."""

from __future__ import annotations

import pytest

import lepton_pipe as lp
from lepton_pipe import device
from lepton_pipe.device import loops
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.spec import sources
from lepton_pipe.spec.digest import code_digest


@lp.kernel
def by_name(block):
    return chosen(block).double(block)


def chosen(block):
    return loops("first" if block.ndim else "none_such", block)


@lp.kernel
def by_module(block):
    return [device.loops("first", b).double(b) for b in block]


LOOPS = {
    "__init__.py": "def jit(f):\n    return f\n",
    "first.py": '''"""Loops."""
from lepton_pipe.compiled import jit
from lepton_pipe.compiled.second import (
    twice,
)


@jit
def double(x):
    """Double."""
    return twice(x)  # a comment
''',
    "second.py": """
from lepton_pipe.compiled import third

def twice(x):
    return third.add(x, x)
""",
    "third.py": "def add(a, b):\n    return a + b\n",
    "other.py": "def idle(x):\n    return x\n",
}


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Digest a kernel with other modules in the place of `lepton_pipe.compiled`."""
    monkeypatch.setattr(sources, "_folder_of_loops", lambda: tmp_path)

    def digest(kernel, file="", old="", new=""):
        for name, text in LOOPS.items():
            assert name != file or text.count(old) == 1
            (tmp_path / name).write_text(text.replace(old, new) if name == file else text)
        sources._read_loops.cache_clear()
        return code_digest(kernel)

    yield digest
    sources._read_loops.cache_clear()


@pytest.mark.parametrize("kernel", [by_name, by_module])
@pytest.mark.parametrize(
    "change",
    [
        ("first.py", "return twice(x)", "return -twice(x)"),
        ("first.py", "@jit\n", ""),
        ("second.py", "(x, x)", "(x, 2)"),
        ("third.py", "a + b", "b + a"),
        ("__init__.py", "return f", "return f.fast"),
    ],
)
def test_the_digest_changes_with_compiled_loops(compiled, kernel, change):
    assert compiled(kernel) != compiled(kernel, *change)


@pytest.mark.parametrize(
    "change",
    [
        ("first.py", "# a comment", "# no comment"),
        ("first.py", '"""Loops."""', '"""Other loops."""'),
        ("first.py", '"""Double."""', '"""Twice."""'),
        ("other.py", "return x", "return -x"),
    ],
)
def test_the_digest_does_not_change_with_what_is_no_loop_of_it(compiled, change):
    assert compiled(by_name) == compiled(by_name, *change)
    assert compiled(gaussian) == compiled(gaussian, "first.py", "return twice(x)", "return x")


@pytest.mark.parametrize("name", ["separable", "strips", "__init__"])
def test_a_kernel_of_ours_follows_its_compiled_loops(name, tmp_path, monkeypatch):
    base = code_digest(gaussian)
    for file in sources._folder_of_loops().glob("*.py"):
        text = file.read_text("utf-8")
        (tmp_path / file.name).write_text(text + "\nX = 1\n" * (file.stem == name), "utf-8")
    monkeypatch.setattr(sources, "_folder_of_loops", lambda: tmp_path)
    assert code_digest(gaussian) != base
