"""Scripts as people write them: without a guard, through a pipe, with kernels of their own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lepton_pipe.store import open_source
from tests.command import environment, lepton, python

SCRIPT = """\
import numpy as np
import lepton_pipe as lp

print("once")
SHIFT = 3

def helper(block):
    return block + SHIFT

@lp.kernel
def shifted(block):
    return helper(block)

@lp.kernel(combine=lambda a, b: max(a, b), finalize=lambda partial: partial * 2)
def twice_the_largest(block):
    return int(block.max())

@lp.pipeline
def mine(raw: lp.Image):
    out = shifted(raw)
    return {"out": out, "top": twice_the_largest(out)}

image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
report = mine.plan(raw=image, out="o", workers=2, threads=1).run()
print(report.values["top"])
"""


def assert_made(folder, printed):
    assert printed.split() == ["once", str(2 * (64 * 64 - 1 + 3))]
    source = open_source(folder / "o" / "out")
    expected = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + 3
    np.testing.assert_array_equal(source.read(source.type.grid.region), expected)


def test_a_script_without_a_guard_runs_once(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    done = python("mine.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_made(tmp_path, done.stdout)


def test_a_script_through_a_pipe_runs(tmp_path):
    done = python("-", cwd=tmp_path, input=SCRIPT)
    assert done.returncode == 0, done.stderr
    assert_made(tmp_path, done.stdout)


def test_a_pipeline_file_may_import_what_lies_beside_it(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "beside.py").write_text("def plus(block, n):\n    return block + n\n")
    (folder / "mine.py").write_text(
        "import lepton_pipe as lp\n"
        "import beside\n\n"
        "@lp.kernel\n"
        "def added(block, n=0):\n"
        "    return beside.plus(block, n)\n\n"
        "@lp.pipeline\n"
        "def mine(raw: lp.Image, *, n: int = 5):\n"
        "    return added(raw, n)\n"
    )
    image = np.arange(300, dtype=np.int32).reshape(15, 20)
    np.save(tmp_path / "raw.npy", image)
    done = lepton("run", "code/mine.py", "raw=raw.npy", "out=o", "--n", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    source = open_source(tmp_path / "o" / "mine")
    np.testing.assert_array_equal(source.read(source.type.grid.region), image + 7)


def test_an_error_in_a_script_shows_the_users_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        SCRIPT.replace("return helper(block)", "return block.no_such_thing")
    )
    done = python("mine.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "return block.no_such_thing" in done.stderr
    assert "KernelError" in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("wrong", ["raise RuntimeError('mine')", "import no_such_module"])
def test_a_pipeline_file_that_fails_is_shown_as_it_failed(tmp_path, wrong):
    (tmp_path / "mine.py").write_text(f"import lepton_pipe as lp\n{wrong}\n")
    done = lepton("plan", "mine.py", "raw=a", "out=o", cwd=tmp_path)
    assert done.returncode == 1
    assert "mine.py" in done.stderr
    assert wrong.split()[-1].strip("')").split("'")[-1] in done.stderr


def test_the_installed_module_runs_with_dash_m(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lepton_pipe.cli", "--version"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("lepton-pipe ")
