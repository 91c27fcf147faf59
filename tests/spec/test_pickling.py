"""Kernels reach workers that have never seen the user's file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.kernels.filters import gaussian
from lepton_pipe.spec import Kernel
from lepton_pipe.spec.operators import ufunc_kernel

ROOT = str(Path(lp.__file__).parents[1])
FILE = """
import numpy as np
import lepton_pipe as lp

GAIN = 3

def helper(x):
    return x * GAIN

def _depth(size):
    return helper(size)

@lp.kernel(depth=_depth)
def boost(block, size=1):
    return helper(block) + smooth(block)

@lp.kernel(version="2")
def smooth(block):
    return block + 1

@lp.pipeline
def mine(raw: lp.Image):
    return boost(raw)
"""


def python(script, *, cwd="/", stdin=b""):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=cwd,
        input=stdin,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


LOAD = (
    "import pickle, sys, numpy as np; k = pickle.loads(sys.stdin.buffer.read());"
    "print(k.run({'block': np.arange(3), 'size': 1}, None).tolist(), k.depth(2))"
)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_kernel_of_a_module_is_pickled_by_name(dumps):
    data = dumps(gaussian)
    assert len(data) < 200
    assert pickle.loads(data) is gaussian  # noqa: S301


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_ufuncs_are_pickled_by_name(dumps):
    assert pickle.loads(dumps(ufunc_kernel(np.add))) is ufunc_kernel(np.add)  # noqa: S301


def test_a_kernel_of_a_file_goes_along_with_all_it_calls(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    script = (
        "import sys, cloudpickle; from lepton_pipe.catalogue import find_pipeline;"
        f"p = find_pipeline({str(tmp_path / 'mine.py')!r}); m = sys.modules[p.fn.__module__];"
        "sys.stdout.buffer.write(cloudpickle.dumps(m.boost))"
    )
    assert python(LOAD, stdin=python(script)) == b"[1, 5, 9] 6\n"


def test_a_kernel_of_a_script_goes_along_with_all_it_calls():
    script = FILE + "\nimport sys, cloudpickle; sys.stdout.buffer.write(cloudpickle.dumps(boost))"
    assert python(LOAD, stdin=python(script)) == b"[1, 5, 9] 6\n"


def test_a_kernel_inside_a_function_goes_along_as_code():
    factor = 4

    @lp.kernel(depth=lambda: factor)
    def local(block):
        return block * factor

    copy = pickle.loads(cloudpickle.dumps(local))  # noqa: S301
    assert isinstance(copy, Kernel)
    assert copy is not local
    assert copy.depth() == 4
    np.testing.assert_array_equal(copy(np.arange(3)), np.arange(3) * 4)
    assert (copy.name, copy.role, copy.__doc__) == (local.name, local.role, local.__doc__)
