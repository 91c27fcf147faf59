"""What is compiled is kept between processes, and never outlives the code it was made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching

from lepton_pipe.compiled import jit
from tests.command import environment

_CALLER = """
from lepton_pipe.compiled import jit
from callee import scaled

@jit
def total(array):
    result = 0.0
    for i in range(array.size):
        result += scaled(array[i])
    return result
"""
_CALLEE = """
from lepton_pipe.compiled import jit

@jit
def scaled(x):
    return x * {factor}
"""
_RUN = """
import numpy as np
from caller import total
value = total(np.ones(4))
print(value, sum(total.stats.cache_hits.values()), sum(total.stats.cache_misses.values()))
"""


def run(folder: Path) -> tuple[float, int, int]:
    """Return a result, and how often it was found compiled and how often not."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    value, hits, misses = done.stdout.split()
    return float(value), int(hits), int(misses)


def test_code_is_compiled_once_and_again_when_what_it_calls_has_changed(tmp_path):
    (tmp_path / "caller.py").write_text(_CALLER)
    (tmp_path / "callee.py").write_text(_CALLEE.format(factor=2))
    assert run(tmp_path) == (8.0, 0, 1)
    assert run(tmp_path) == (8.0, 1, 0)
    (tmp_path / "callee.py").write_text(_CALLEE.format(factor=3))
    assert run(tmp_path) == (12.0, 0, 1)
    assert run(tmp_path) == (12.0, 1, 0)


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @jit
    def double(array):
        for i in range(array.size):
            array[i] *= 2

    array = np.ones(3)
    double(array)
    assert array.tolist() == [2, 2, 2]
    assert not double.stats.cache_path


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_where_the_package_is_read_only_the_users_cache_folder_is_used(tmp_path):
    code, home = tmp_path / "code", tmp_path / "home"
    home.mkdir()
    code.mkdir()
    (code / "caller.py").write_text(_CALLER)
    (code / "callee.py").write_text(_CALLEE.format(factor=2))
    if subprocess.run(["mount", "--bind", code, code], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    env = environment(HOME=str(home), XDG_CACHE_HOME=str(home))
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", code], check=True)
        for hits, misses in ((0, 1), (1, 0)):
            done = subprocess.run(
                [sys.executable, "-c", _RUN], cwd=code, env=env, capture_output=True, text=True
            )
            assert done.stdout.split() == ["8.0", str(hits), str(misses)], done.stderr
    finally:
        subprocess.run(["umount", "-l", str(code)], check=True)
    assert list(home.rglob("*.nbi"))
