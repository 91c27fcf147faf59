"""Every line of the README that can be run is run; every list in it is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from skimage import data

from lepton_pipe import kernels
from lepton_pipe.arguments import parse
from lepton_pipe.errors import ExitStatus
from lepton_pipe.pipelines.convert import convert
from tests.command import PATIENCE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAIN_JOB, TESTS = (
    "python3 -m venv .venv && .venv/bin/pip install --quiet . && .venv/bin/lepton-pipe demo",
    "python3 -m venv .venv-test && .venv-test/bin/pip install --quiet -e '.[test]' "
    "&& .venv-test/bin/python -m pytest",
)


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def table_rows(first_heading: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is this."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


SHELL_LINES = [
    line for block in fenced("sh") for line in block.splitlines() if line not in (MAIN_JOB, TESTS)
]
FILES = {code.split("\n")[0].lstrip("# "): code for code in fenced("python") if code[0] == "#"}
SNIPPETS = [code for code in fenced("python") if code[0] != "#"]
SWEPT = next(line for line in SHELL_LINES if "out=sweep.zarr" in line)
EXPLAINED = next(line for line in SHELL_LINES if "--explain" in line)


Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a shell line in a folder with the images that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    for name, code in FILES.items():
        (folder / name).write_text(code)
    (folder / "planes").mkdir()
    for i in range(3):
        tifffile.imwrite(folder / f"planes/p{i}.tif", data.moon()[:64, :64])
    tifffile.imwrite(folder / "photo.tif", data.coins())
    tifffile.imwrite(folder / "moon.tif", data.moon())
    report = convert.plan(raw=data.coins(), out=folder / "cells", serial=True).run()
    (folder / "cells.ome.zarr").symlink_to(report.path("image"))
    make_volume(folder / "brain.zarr")
    commands = folder / "bin"
    commands.mkdir()
    for name, module in (("lepton-pipe", "-m lepton_pipe.cli"), ("python", "")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        command.chmod(0o755)
    path = {"PATH": f"{commands}:{os.environ['PATH']}"}

    def run_line(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line],
            cwd=folder,
            env=os.environ | path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run_line


def make_volume(path: Path) -> None:
    """Make a volume with chunks that hold nothing: enough to plan with."""
    axes = ["z", "y", "x"]
    zarr.create_array(
        path, shape=(256, 1024, 1024), chunks=(64, 256, 256), dtype="uint16", dimension_names=axes
    )
    for z, y, x in np.ndindex(4, 4, 4):
        chunk = path / f"c/{z}/{y}/{x}"
        chunk.parent.mkdir(parents=True, exist_ok=True)
        chunk.write_bytes(b"-")


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, on a machine of two cores that has learned nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("lepton_pipe.run.machine.cores", lambda: 2)


def shape_of(text: str) -> list[str]:
    """Return a text's words with its numbers, paths and rulers taken out."""
    text = re.sub(r"\S*/coins\.zarr", "PATH", text)
    text = re.sub(r"─+", "-", text)
    text = re.sub(r"\d+(\.\d+)?( [KMG]i)?", "N", text)
    text = re.sub(r"about (a second|N s)", "about TIME", text)
    text = re.sub(r"[-+]N s", "N s", text)
    return text.split()


def test_two_commands_are_those_of_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in (MAIN_JOB, TESTS):
        assert command in README.splitlines()
        assert command in script


def test_there_is_something_to_run() -> None:
    assert list(FILES) == ["coins.py", "contrast.py"]
    assert len(SNIPPETS) == 7
    assert len(SHELL_LINES) == 13


def test_own_pipeline_has_fifteen_lines() -> None:
    lines = [line for line in FILES["coins.py"].splitlines()[1:] if line.strip()]
    assert len(lines) == 15


def test_own_pipeline_prints_what_is_pasted(
    fresh_machine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code = compile(FILES["coins.py"], "coins.py", "exec")
    exec(code, {"__name__": "__main__"})  # noqa: S102  the README's own code
    printed = capsys.readouterr().out
    assert shape_of(fenced("text")[0]) == shape_of(printed), f"paste this:\n{printed}"


def test_what_is_pasted_of_an_explained_plan_is_what_it_says(
    fresh_machine: None, tmp_path: Path
) -> None:
    make_volume(tmp_path / "brain.zarr")
    _, command, *words = EXPLAINED.split()
    printed = parse(command, words).plan().explain()
    (pasted,) = [text for text in fenced("text") if text.startswith("why")]
    for part in pasted.split("...\n"):
        words = " ".join(shape_of(part))
        assert words in " ".join(shape_of(printed)), f"paste from this:\n{printed}"


def test_the_place_for_the_benchmarks_is_there_or_filled() -> None:
    section = README[README.index("\n## Speed") : README.index("\n## Kernels")]
    assert "<!-- benchmark table -->" in section or "| smooth" in section


@pytest.mark.parametrize("line", SHELL_LINES)
def test_shell_line(run: Run, line: str) -> None:
    done = run(line)
    assert done.returncode == 0, done.stderr
    if "contrast.py" in line:
        assert done.stdout == fenced("text")[1]


def test_check_finds_the_wrong_depth(run: Run) -> None:
    line = "sed 's/depth=lambda.*/depth=2)/' contrast.py > wrong.py"
    done = run(f"{line} && lepton-pipe check wrong.py raw=moon.tif")
    assert done.returncode == ExitStatus.FAILED
    assert fenced("text")[2] in done.stdout


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.split()[1])
def test_snippet(run: Run, code: str) -> None:
    if "pandas" in code:
        pytest.importorskip("pandas")
    made = run(f"(test -d coins.zarr || python coins.py) && (test -d sweep.zarr || {SWEPT})")
    assert made.returncode == 0, made.stderr
    done = run(f"python - <<'END'\n{code}\nEND")
    assert done.returncode == 0, done.stderr
    assert done.stdout, "a snippet shows something"


def test_every_flag_exists(run: Run) -> None:
    known = run("lepton-pipe run nuclei --help").stdout
    flags = [re.search(r"--[a-z-]+", row[0]).group() for row in table_rows("flag")]  # type: ignore[union-attr]
    assert len(flags) == len(set(flags))
    for flag in flags:
        assert re.search(rf"^ +{flag}\b", known, re.MULTILINE), flag
    common = known[known.index("what an input") :] + "  --json"
    assert set(flags) == set(re.findall(r"^ *(--[a-z-]+)", common, re.MULTILINE)) | {"--json"}
    assert "--part" in run("lepton-pipe check nuclei --help").stdout


def test_exit_statuses_are_complete() -> None:
    numbers = [int(n) for row in table_rows("exit status") for n in row[0].split(",")]
    assert numbers == [int(status) for status in ExitStatus]


def test_every_kernel_is_listed() -> None:
    section = README[README.index("\n## Kernels") : README.index("\n## Where to go next")]
    listed = [n for line in section.splitlines() if line[:2] == "| " for n in words_of(line)]
    assert sorted(listed) == sorted(kernels.__all__)


def words_of(line: str) -> list[str]:
    return re.findall(r"`(\w+)`", line)


def test_links_lead_somewhere() -> None:
    for place in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / place).exists(), place
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in [h.lower().replace(" ", "-") for h in headings], anchor
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).stat().st_size < 400_000
