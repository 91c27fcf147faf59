"""Kill a whole run at every step of publishing: the output is absent, the old one, or the new."""

from __future__ import annotations

import signal

import pytest

from lepton_pipe.failpoints import VARIABLE
from lepton_pipe.run.clean import clean

SERIAL = ("--serial", "--memory", "700MiB")
# Steps that are reached where the system exchanges two folders in one act; `tests/run` has both.
STEPS = (1, 2, 3, 4, 5, 8, 9, 10, 11)
PLACED = 8


@pytest.mark.parametrize("before", ["absent", "previous"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_while_a_run_publishes(world, golden, step, before):
    want, blocks = golden("simple", *SERIAL)
    if before == "previous":
        world.publish_another("simple", *SERIAL)
    killed = world.run("simple", *SERIAL, **{VARIABLE: f"publish:{step}"})
    assert killed.returncode == -signal.SIGKILL
    assert world.published() == (want if step >= PLACED else world.previous)
    again = world.run("simple", *SERIAL)
    if before == "absent" and step >= PLACED:
        assert again.returncode == 4
        assert "exists already" in again.stderr
        clean(world.out)
    else:
        assert again.returncode == 0, again.stderr
    world.assert_golden(want)
    if step < PLACED:
        assert len(world.started()) == len(blocks)  # all were done, and none again
