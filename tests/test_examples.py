"""Every example runs as it stands, in a folder of its own, and proves what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import PATIENCE

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
LAST_LINES = {
    "first_pipeline": "24 coins, and the same labels in memory and in blocks",
    "own_kernel": "DIFFERENT: the result depends on the blocks",
    "own_input": "the same numbers, as OME-Zarr",
    "remote_cluster": "514 galaxies and stars, and the same labels as in memory",
}


# The scripts start clusters as a user does. On a busy machine Dask itself logs complaints as those
# close: nannies about slow workers, workers about a scheduler that left during a heartbeat.
DASK_IS_QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | DASK_IS_QUIET,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_script(script: Path, tmp_path: Path) -> None:
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == LAST_LINES[script.stem]
    assert done.stderr == ""


def test_a_script_runs_twice_and_from_the_command_line(tmp_path: Path) -> None:
    script = EXAMPLES / "first_pipeline.py"
    assert run(script, cwd=tmp_path).returncode == 0
    words = (script, "raw=coins.tif", "out=coins.zarr", "--sigma", "3", "--serial", "--overwrite")
    done = run("-m", "lepton_pipe.cli", "run", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "coins.zarr" / "lepton.json").read_text())
    assert record["pipeline"]["parameters"]["sigma"] == 3.0


def notebook_cells(kind: str) -> list[dict[str, object]]:
    notebook = json.loads((EXAMPLES / "from_notebook.ipynb").read_text())
    return [c for c in notebook["cells"] if c["cell_type"] == kind]


def test_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    source = "\n\n".join("".join(c["source"]) for c in notebook_cells("code"))  # type: ignore[call-overload]
    script = tmp_path / "cells.py"
    script.write_text(source)
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "48 words, the widest 143 pixels wide" in done.stdout


def test_notebook_is_saved_whole_and_small() -> None:
    counts = [c["execution_count"] for c in notebook_cells("code")]
    assert counts == list(range(1, len(counts) + 1)), "run all cells, in order, then save"
    assert (EXAMPLES / "from_notebook.ipynb").stat().st_size < 400_000
    texts = json.dumps(notebook_cells("code"))
    assert "48 words" in texts
    assert "Traceback" not in texts
