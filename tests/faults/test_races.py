"""Two runs of one output, begun at the same instant: one wins, the other is refused at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from tests.command import environment, names
from tests.faults.world import USER
from tests.run.five import fingerprints

# Begins a run when it is told to, with all that takes long to load already loaded.
RACER = """
import json, os, sys, time
from lepton_pipe import cli
from lepton_pipe.run import driver, executors
print("ready", flush=True)
for line in sys.stdin:
    begin, words = json.loads(line)
    while time.time() < begin:
        pass
    if os.fork() == 0:
        sys.exit(cli.main(words))
    _, status, used = os.wait4(-1, 0)
    seconds = used.ru_utime + used.ru_stime
    print(json.dumps([os.waitstatus_to_exitcode(status), seconds]), flush=True)
"""
RACES = 20


class Racer:
    """A process that begins runs when it is told to."""

    def __init__(self, folder, number):
        self.said = (folder / f"stderr-{number}").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", RACER],
            cwd=folder,
            env=environment(LEPTON_TEST_BLOCKS=str(folder / "blocks"), LEPTON_TEST_SECONDS="0.05"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )
        assert self.read() == "ready"

    def read(self):
        """Return the next line that is no report of a run."""
        return next(s for s in map(str.strip, self.process.stdout) if s[:1] in ("[", "r"))

    def begin(self, at, words):
        self.said.seek(0)
        self.said.truncate()
        self.process.stdin.write(json.dumps([at, words]) + "\n")
        self.process.stdin.flush()

    def end(self):
        """Return status, seconds of a core and message of the run."""
        status, seconds = json.loads(self.read())
        self.said.seek(0)
        return status, seconds, self.said.read()


@pytest.fixture
def racers(world):
    two = [Racer(world.folder, number) for number in range(2)]
    yield two
    for racer in two:
        racer.process.kill()
        racer.process.wait()
        racer.said.close()


def test_one_of_two_wins_and_the_other_names_it(racers, world, golden):
    serial = ("--serial", "--memory", "700MiB")
    want, _ = golden("simple", *serial)
    for race in range(RACES):
        out = world.folder / str(race) / "o"
        words = ["run", f"{USER}:simple", f"raw={world.image}", f"out={out}", *serial]
        for racer in racers:
            racer.begin(time.time() + 0.05, words)
        (won, _, _), (lost, seconds, said) = sorted(racer.end() for racer in racers)
        assert (won, lost) == (0, 4), said
        assert seconds < 5
        assert "Traceback" not in said
        assert re.search(r"process \d+ on|exists already", said), said
        assert fingerprints(out) == want
        assert names(out.parent) == {"o"}
