"""Whatever happened before, in any order: what is published is right, or it is told what is not.

Histories of one output are made up: runs, kills, changed parameters and inputs, updates, damage,
verifying, repairing, cleaning. Beside them goes a model, which knows what must be published. The
same histories find bugs that are planted.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.command import names
from tests.faults.forked import PLANTED, lepton
from tests.run.five import fingerprints

USER = Path(__file__).with_name("pipelines_of_histories.py")
OPTIONS = ("--serial", "--memory", "700MiB", "--chunks", "y=40,x=40")
BLOCKS = 10
IMAGE = np.random.default_rng(0).integers(0, 900, (8, 160, 160)).astype("u2")
CORNERS = ((0, 0), (120, 80))
REFUSED, KILLED = 4, -9

some_plus = st.sampled_from([1, 2])
some_kill = st.sampled_from([None, None, 1, 4, 7, BLOCKS])
goldens: dict[tuple[int, tuple[int, int]], dict[str, str]] = {}


def write_image(folder, variants):
    """Write the input: two of its chunks have several variants."""
    image = IMAGE.copy()
    for (y, x), variant in zip(CORNERS, variants, strict=True):
        image[:, y : y + 40, x : x + 40] += 50 * variant
    array = zarr.create_array(
        str(folder / "raw.zarr"), shape=image.shape, chunks=(8, 40, 40), dtype="u2"
    )
    array[:] = image


def run(folder, plus, *words, kill=None, bug=None):
    """Run the pipeline, and return how that ended and how many blocks were started."""
    started = folder / "started"
    started.write_text("")
    env = {"LEPTON_TEST_STARTED": str(started), "LEPTON_TEST_KILL": str(kill)}
    where = ("raw=raw.zarr", "out=o", "--plus", plus, *OPTIONS)
    ended = lepton("run", f"{USER}:history", *where, *words, cwd=folder, env=env, bug=bug)
    return ended, len(started.read_text().splitlines())


def golden(plus, variants):
    """Return what an undisturbed run publishes."""
    if (plus, variants) not in goldens:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_image(folder, variants)
            ended, _ = run(folder, plus)
            assert ended.status == 0, ended.said
            goldens[plus, variants] = fingerprints(folder / "o")
    return goldens[plus, variants]


class Histories(RuleBasedStateMachine):
    """The model: what is published and of which input, what of it is damaged.

    And whether a run was stopped and can go on, and whether the input changed since publishing.
    """

    bug: str | None = None

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="lepton-history-"))
        self.variants = (0, 0)
        write_image(self.folder, self.variants)
        self.published: tuple[int, tuple[int, int]] | None = None
        self.damaged: set[str] = set()
        self.stopped = self.changed = False

    def teardown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def out(self):
        return self.folder / "o"

    # -- what a user does ---------------------------------------------------------------------

    @rule(plus=some_plus, kill=some_kill)
    def run(self, plus, kill):
        before = self.state()
        ended, started = run(self.folder, plus, kill=kill, bug=self.bug)
        if self.published is None:
            self.ended(ended, plus, started, before, kill)
            return
        assert (ended.status, started) == (REFUSED, 0), ended.said
        assert self.state() == before

    @rule(plus=some_plus, kill=some_kill)
    def update(self, plus, kill):
        before, as_it_is = self.state(), self.published == (plus, self.variants)
        as_it_is = as_it_is and not self.damaged and not self.stopped
        ended, started = run(self.folder, plus, "--update", kill=kill, bug=self.bug)
        self.ended(ended, plus, started, before, kill)
        assert not (as_it_is and started), ended.said

    @rule(plus=some_plus, kill=some_kill)
    def overwrite(self, plus, kill):
        before = self.state()
        ended, started = run(self.folder, plus, "--overwrite", kill=kill, bug=self.bug)
        self.ended(ended, plus, started, before, kill)

    @rule(where=st.integers(0, 1), variant=st.integers(0, 1))
    def change_input(self, where, variant):
        y, x = CORNERS[where]
        box = (slice(None), slice(y, y + 40), slice(x, x + 40))
        zarr.open_array(str(self.folder / "raw.zarr"))[box] = IMAGE[box] + 50 * variant
        self.changed = True
        self.variants = tuple(variant if i == where else v for i, v in enumerate(self.variants))

    @precondition(lambda self: self.published)
    @rule(where=st.integers(0, 1))
    def change_input_and_update(self, where):
        self.change_input(where, 1 - self.variants[where])
        self.update(self.published[0], None)

    @precondition(lambda self: self.published)
    @rule(number=st.integers(0, 2**16), how=st.sampled_from(["flip", "cut", "remove"]))
    def damage(self, number, how):
        files = [p for p in sorted(self.out.rglob("*")) if p.is_file() and self.is_data(p)]
        if not files:
            return
        file = files[number % len(files)]
        self.damaged.add(file.relative_to(self.out).as_posix())
        if how == "remove":
            file.unlink()
            return
        data = bytearray(file.read_bytes())
        data[number % len(data)] ^= 1 << number % 8
        file.write_bytes(data[: len(data) // 2] if how == "cut" else data)

    def is_data(self, path):
        inside = path.relative_to(self.out)
        known = inside.parts[0] == ".lepton" or inside.name == "lepton.json"
        return not known and inside.as_posix() not in self.damaged

    @precondition(lambda self: self.published)
    @rule()
    def verify(self):
        ended = lepton("verify", "o", cwd=self.folder, env={}, bug=self.bug)
        assert bool(ended.status) == bool(self.damaged), ended.said
        for name in self.damaged:
            assert name in ended.said
        self.look()

    @precondition(lambda self: self.published)
    @rule()
    def repair(self):
        before = self.state()
        started = self.folder / "started"
        started.write_text("")
        env = {"LEPTON_TEST_STARTED": str(started)}
        ended = lepton("verify", "o", "--repair", cwd=self.folder, env=env, bug=self.bug)
        if self.damaged and self.changed:
            assert ended.status == REFUSED, ended.said
            assert self.state() == before
        else:
            assert ended.status == 0, ended.said
            assert self.damaged or not started.read_text()
            self.stopped = self.stopped and not self.damaged
            self.damaged = set()
        self.look()

    @rule()
    def clean(self):
        before = self.state()
        lepton("clean", "o", cwd=self.folder, env={}, bug=self.bug)
        self.stopped = False
        assert names(self.folder) <= {"raw.zarr", "o", "started"}
        assert self.state() == before

    # -- what must hold -----------------------------------------------------------------------

    def state(self):
        return fingerprints(self.out) if self.out.is_dir() else None

    def ended(self, ended, plus, started, before, kill):
        """Look at what a run has left that was free to publish."""
        if ended.status == KILLED:
            assert kill is not None and started == kill
            assert self.state() == before
            self.stopped = True
            return
        assert ended.status == 0, ended.said
        self.published, self.damaged = (plus, self.variants), set()
        self.stopped = self.changed = False
        self.look()
        assert names(self.folder) == {"raw.zarr", "o", "started"}

    def look(self):
        """Compare what is published with what an undisturbed run makes of the same."""
        want, got = golden(*self.published), self.state()
        sound = {n: d for n, d in want.items() if n not in self.damaged}
        assert {n: d for n, d in got.items() if n not in self.damaged} == sound


def play(machine, examples):
    run_state_machine_as_test(
        seed(0)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happened_what_is_published_is_right():
    play(Histories, 12)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug):
    planted = type("Planted", (Histories,), {"bug": bug})
    with pytest.raises(AssertionError):
        play(planted, 12)
