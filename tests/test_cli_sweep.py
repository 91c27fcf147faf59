"""``lepton-pipe sweep``: values with commas between, a preview, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lepton_pipe.arguments import parse
from lepton_pipe.errors import UsageError
from lepton_pipe.spec.parameters import Parameter
from tests.command import assert_refused, lepton, names
from tests.run.five import picture


@pytest.fixture
def here(tmp_path):
    np.save(tmp_path / "plane.npy", picture((40, 50), "uint16", 1))
    return tmp_path


def parameter(annotation):
    return Parameter("p", annotation, None, "")


@pytest.mark.parametrize(
    ("annotation", "text", "values"),
    [
        (float, "1,2.5, 3", [1.0, 2.5, 3.0]),
        (float, "2", [2.0]),
        (int | None, "none,3", [None, 3]),
        (bool, "yes,no", [True, False]),
        (str, "a,b", ["a", "b"]),
        (float | tuple[float, ...], "1,2", [1.0, 2.0]),
        (float | tuple[float, ...], "(1,2,2),3", [(1.0, 2.0, 2.0), 3.0]),
        (tuple[int, int], "3,5", [(3, 5)]),
        (tuple[int, int], "(3,5),[5,7]", [(3, 5), (5, 7)]),
        (tuple[int, ...], "3,5", [(3,), (5,)]),
    ],
)
def test_values_have_commas_between(annotation, text, values):
    assert parameter(annotation).parse_several(text) == values


@pytest.mark.parametrize("text", ["1,x", "", "1,,2", "(1,2", "1;2"])
def test_what_are_no_values_is_refused_with_the_one_that_is_none(text):
    with pytest.raises(UsageError, match="p must be float, not '"):
        parameter(float).parse_several(text)


WRONG = {
    "nothing to sweep over": (["--sigma", "1"], ["nothing to sweep", "--sigma 1,2,3"]),
    "no value at all": ([], ["nothing to sweep", "lepton-pipe run"]),
    "not a number": (["--sigma", "1,wide"], ["sigma must be float", "'wide'"]),
    "a value twice": (["--sigma", "1,2,1.0"], ["sigma=1 is given twice"]),
    "too many": (["--sigma", ",".join(map(str, range(200)))], ["200 variants", "at most"]),
    "too many together": (
        ["--sigma", ",".join(map(str, range(20))), "--min-size", ",".join(map(str, range(20)))],
        ["400 variants (20 of sigma x 20 of min_size)"],
    ),
    "unknown flag": (["--sigme", "1,2"], ["--sigme", "did you mean --sigma?"]),
    "one of them negative": (["--sigma=1,-1"], ["sigma", "-1", "gaussian(raw, sigma=sigma)"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_sweep_that_cannot_be_gives_one_message_and_leaves_nothing(here, case):
    words, told = WRONG[case]
    done = lepton("sweep", "nuclei", "raw=plane.npy", "out=o", *words, cwd=here)
    assert_refused(done, 1, *told)
    assert names(here) == {"plane.npy"}


def test_values_of_one_are_not_in_the_names():
    request = parse("sweep", ["nuclei", "raw=a", "out=o", "--sigma", "1,2", "--min-size", "20"])
    assert request.swept == {"sigma": [1.0, 2.0]}
    assert request.parameters == {"min_size": 20}
    assert not request.plan_only
    assert parse("sweep", ["nuclei", "--sigma", "1,2", "--explain"]).plan_only


def test_it_is_planned_run_and_reported(here):
    words = ("nuclei", "raw=plane.npy", "out=o", "--sigma", "1,2", "--min-size", "0,20")
    plan = lepton("sweep", *words, "--plan", cwd=here)
    assert plan.returncode == 0, plan.stderr
    assert "gaussian*2" in plan.stdout
    assert "labels, in 4 folders:" in plan.stdout
    planned = json.loads(lepton("sweep", *words, "--plan", "--json", cwd=here).stdout)
    assert planned["pipeline"]["swept"] == {"sigma": [1.0, 2.0], "min_size": [0, 20]}
    assert names(here) == {"plane.npy"}

    done = lepton("sweep", *words, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "4 folders, in each" in done.stdout
    assert len([line for line in done.stdout.splitlines() if "sigma=" in line]) == 4
    shown = lepton("status", "o", cwd=here)
    assert "complete" in shown.stdout
    more = lepton("sweep", *words, "--update", "--json", cwd=here)
    assert json.loads(more.stdout)["unchanged"] is True


def test_its_help_says_that_flags_take_several(here):
    told = lepton("sweep", "nuclei", "--help", cwd=here).stdout
    assert "--sigma FLOAT,..." in told
    assert "--plan" in told
    assert "sweep" in lepton("--help", cwd=here).stdout
