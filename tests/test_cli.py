"""What a user sees who types something that cannot be done, and what scripts get on stdout."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from lepton_pipe.cli import main
from tests.command import LEPTON, PATIENCE, assert_refused, environment, lepton, names


@pytest.fixture
def here(tmp_path):
    """A folder with a plane and a volume."""
    np.save(tmp_path / "plane.npy", np.arange(40 * 50, dtype=np.uint16).reshape(40, 50))
    np.save(tmp_path / "volume.npy", np.zeros((5, 20, 20), np.uint8))
    (tmp_path / "text.tif").write_text("this is no picture\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


WRONG = {
    "missing path": (["nuclei", "raw=gone.tif", "out=o"], 1, ["gone.tif", "does not exist"]),
    "text called tif": (["nuclei", "raw=text.tif", "out=o"], 1, ["text.tif"]),
    "empty folder": (["nuclei", "raw=empty", "out=o"], 1, ["empty"]),
    "no path at all": (["nuclei", "out=o"], 1, ["image 'raw' is missing"]),
    "kernel of 3 axes on a plane": (
        ["three.py", "raw=plane.npy", "out=o"],
        1,
        ["three.py:6", "median(raw, (1, 3, 3))", "2"],
    ),
    "sigma negative": (
        ["nuclei", "raw=plane.npy", "out=o", "--sigma", "-1"],
        1,
        ["sigma", "-1", "gaussian(raw, sigma=sigma)"],
    ),
    "sigma no number": (
        ["nuclei", "raw=plane.npy", "out=o", "--sigma", "wide"],
        1,
        ["sigma must be float", "wide"],
    ),
    "unknown flag": (
        ["nuclei", "raw=plane.npy", "out=o", "--sigme", "3"],
        1,
        ["--sigme", "did you mean --sigma?"],
    ),
    "unknown image": (["nuclei", "rwa=plane.npy", "out=o"], 1, ["'rwa'", "raw"]),
    "unknown pipeline": (["nuclie", "raw=plane.npy", "out=o"], 1, ["did you mean 'nuclei'?"]),
    "unknown axis": (["project", "raw=plane.npy", "out=o", "--axis", "t"], 1, ["'t'"]),
    "wrong axes": (["convert", "raw=plane.npy", "out=o", "--input-axes", "zyx"], 1, ["zyx", "2"]),
    "out is missing": (["nuclei", "raw=plane.npy"], 1, ["out=PATH is missing"]),
    "memory is no size": (
        ["nuclei", "raw=plane.npy", "out=o", "--memory", "much"],
        1,
        ["'much'", "8GiB"],
    ),
    "no workers": (["nuclei", "raw=plane.npy", "out=o", "--workers", "0"], 1, ["workers=0"]),
    "too little memory": (
        ["nuclei", "raw=plane.npy", "out=o", "--memory", "100MiB"],
        4,
        ["100 MiB", "give the run at least"],
    ),
    "no GPU": (["nuclei", "raw=plane.npy", "out=o", "--device", "gpu"], 4, ["GPU"]),
    "a unit that is none": (
        ["nuclei", "raw=plane.npy", "out=o", "--input-unit", "furlong"],
        1,
        ["'furlong'", "OME-Zarr", "micrometer"],
    ),
    "memory of no GPU": (
        ["nuclei", "raw=plane.npy", "out=o", "--device", "cpu", "--device-memory", "1GiB"],
        4,
        ["--device-memory 1GiB", "kernels run on the cores", "leave it out"],
    ),
    "an address for out": (
        ["nuclei", "raw=plane.npy", "out=https://h/o"],
        1,
        ["nothing can be written"],
    ),
    "a scheme that is not opened": (["nuclei", "raw=ftp://h/a.zarr", "out=o"], 1, ["ftp"]),
    "out in a file": (["nuclei", "raw=plane.npy", "out=text.tif/o"], 1, ["is a file"]),
    "a word alone": (["nuclei", "plane.npy", "out=o"], 1, ["'plane.npy'", "raw=PATH"]),
    "a file that is not there": (["mine.py", "raw=plane.npy", "out=o"], 1, ["mine.py"]),
    "a file with a slip": (["slip.py", "raw=plane.npy", "out=o"], 1, ["slip.py:1"]),
    "a file with two": (["two.py", "raw=plane.npy", "out=o"], 1, ["two.py:a"]),
    "a file without any": (["none.py", "raw=plane.npy", "out=o"], 1, ["@lp.pipeline"]),
}

FILES = {
    "three.py": """\
import lepton_pipe as lp
from lepton_pipe.kernels import median

@lp.pipeline
def three(raw: lp.Image):
    return median(raw, (1, 3, 3))
""",
    "slip.py": "def (:\n",
    "two.py": """\
import lepton_pipe as lp

@lp.pipeline
def a(raw: lp.Image):
    return raw

@lp.pipeline
def b(raw: lp.Image):
    return raw
""",
    "none.py": "x = 1\n",
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_gives_one_message_and_leaves_nothing(here, case):
    words, status, told = WRONG[case]
    for name, text in FILES.items():
        (here / name).write_text(text)
    before = names(here)
    assert_refused(lepton("run", *words, cwd=here), status, *told)
    assert names(here) - {"__pycache__"} == before


@pytest.mark.skipif("__import__('importlib.util').util.find_spec('cupy') is not None")
def test_plan_refuses_what_run_refuses(here):
    words = ("nuclei", "raw=plane.npy", "out=o", "--device", "gpu")
    assert_refused(lepton("plan", *words, cwd=here), 4, "GPU")


def test_an_output_that_exists_is_left_alone(here):
    (here / "o").mkdir()
    (here / "o" / "mine.txt").write_text("keep")
    assert_refused(lepton("run", "convert", "raw=plane.npy", "out=o", cwd=here), 4, "--overwrite")
    result = lepton("run", "convert", "raw=plane.npy", "out=o", "--overwrite", cwd=here)
    assert_refused(result, 4, "lepton.json", "not made by lepton_pipe")
    assert (here / "o" / "mine.txt").read_text() == "keep"
    assert names(here / "o") == {"mine.txt"}


def test_an_output_that_would_hurt_its_input_is_refused(here):
    first = lepton("run", "convert", "raw=plane.npy", "out=first", "--serial", cwd=here)
    assert first.returncode == 0, first.stderr
    inside = lepton("run", "convert", "raw=first/image", "out=first/image/o", cwd=here)
    assert_refused(inside, 4, "first/image", "inside each other")
    itself = lepton("run", "convert", "raw=first/image", "out=first", "--overwrite", cwd=here)
    assert_refused(itself, 4, "inside each other")
    link = here / "link"
    link.symlink_to(here / "first")
    linked = lepton("run", "convert", "raw=link/image", "out=first", "--overwrite", cwd=here)
    assert_refused(linked, 4, "inside each other")
    through = lepton("run", "convert", "raw=plane.npy", "out=link", "--overwrite", cwd=here)
    assert_refused(through, 4, "link")
    assert (here / "first" / "image" / "zarr.json").is_file()


def test_nothing_answers_at_the_schedulers_address(here, monkeypatch, capsys):
    monkeypatch.setattr("lepton_pipe.run.cluster.CONNECT_SECONDS", 1)
    monkeypatch.chdir(here)
    before = names(here)
    words = ["run", "convert", "raw=plane.npy", "out=o", "--scheduler", "tcp://127.0.0.1:9"]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(words) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    told = capsys.readouterr().err
    assert "--scheduler tcp://127.0.0.1:9: no Dask scheduler answers" in told
    assert "Traceback" not in told
    assert names(here) == before


@pytest.mark.parametrize("words", [["run", "--help"], ["run", "nuclei", "--help"], ["--help"]])
def test_help_goes_to_stdout(here, words):
    result = lepton(*words, cwd=here)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "usage: lepton-pipe" in result.stdout
    if "nuclei" in words:
        assert "--min-size" in result.stdout
        assert "Objects of fewer voxels are dropped." in " ".join(result.stdout.split())


def test_no_command_and_an_unknown_one_are_usage_errors(here):
    assert lepton(cwd=here).returncode == 1
    assert_refused(lepton("rnu", cwd=here), 1, "'rnu'", "run")


PRINTS = """
import os
import lepton_pipe as lp

@lp.kernel(scratch=8.0)
def talks(image):
    print("from Python")
    os.write(1, b"from below\\n")
    return image

@lp.pipeline
def talking(raw: lp.Image) -> lp.Node:
    return talks(raw)
"""


@pytest.mark.parametrize(
    "words", [("run", "out=o"), ("run", "out=o", "--workers", "1"), ("check",)]
)
def test_what_kernels_print_goes_to_stderr_beside_json(here, words):
    (here / "talking.py").write_text(PRINTS)
    command, *more = words
    done = lepton(command, "talking.py", "raw=plane.npy", *more, "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert "from Python" in done.stderr
    assert "from below" in done.stderr


def test_json_alone_is_on_stdout(here):
    listed = lepton("list", "--json", cwd=here)
    assert "nuclei" in json.loads(listed.stdout)
    words = ("nuclei", "raw=plane.npy", "--json", "--sigma", "1")

    plan = lepton("plan", *words, "out=o", cwd=here)
    planned = json.loads(plan.stdout)
    assert planned["stages"]
    assert planned["pipeline"]["parameters"]["sigma"] == 1.0
    assert not (here / "o").exists()

    run = lepton("run", *words, "out=o", "--serial", cwd=here)
    report = json.loads(run.stdout)
    assert report["outputs"]["labels"]["shape"] == [40, 50]
    assert 0 < report["peak_bytes"] <= report["planned_bytes"]
    assert "gaussian" in run.stderr  # progress

    check = lepton("check", "convert", "raw=plane.npy", "--json", "--part", "24", cwd=here)
    checked = json.loads(check.stdout)
    assert checked["equal"] is True, checked
    assert check.returncode == 0


def test_the_report_for_people_is_on_stdout_and_progress_is_not(here):
    run = lepton("run", "convert", "raw=plane.npy", "out=o", "--serial", cwd=here)
    assert run.returncode == 0, run.stderr
    assert "image 40 x 50 uint16" in run.stdout
    assert "stage" not in run.stdout
    assert "stage" in run.stderr  # the plan


def test_a_reader_that_leaves_early_is_no_error(here):
    with subprocess.Popen(
        [*LEPTON, "list"],
        cwd=here,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0


def test_importing_is_quick():
    slow = ("scipy", "skimage", "zarr", "dask", "distributed", "pyarrow", "tifffile")
    code = f"import lepton_pipe, sys; print([m for m in {slow} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_an_image_given_twice_is_no_guess(tmp_path):
    done = lepton("plan", "convert", "raw=a.tif", "raw=b.tif", "out=o", cwd=tmp_path)
    assert done.returncode == 1
    assert "raw= is given twice" in done.stderr


def test_an_output_inside_a_result_is_refused(tmp_path):
    np.save(tmp_path / "raw.npy", np.zeros((4, 4), np.uint8))
    made = lepton("run", "convert", "raw=raw.npy", "out=o", "--serial", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    inside = lepton("run", "convert", "raw=raw.npy", "out=o/more", "--serial", cwd=tmp_path)
    assert inside.returncode == 4
    assert "inside" in inside.stderr
