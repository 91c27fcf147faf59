"""Kill updates and repairs: the old version or the new is there, and the same words mend it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.command import lepton, names

WORDS = ("--serial", "--memory", "700MiB")
UPDATE = ("--plus", "7", "--update")


@pytest.fixture
def old(world, golden):
    """A place with a result, whose blocks are not counted any more."""
    want, _ = golden("objects", *WORDS)
    done = world.run("objects", *WORDS)
    assert done.returncode == 0, done.stderr
    assert world.published() == want
    (world.blocks / "started").unlink()
    return world


@pytest.fixture
def new(golden):
    """What the update publishes, and the blocks that it starts."""
    return golden("objects", *WORDS, "--plus", "7")


def again(world, new):
    """Type the update again."""
    done = world.run("objects", *WORDS, *UPDATE)
    assert done.returncode == 0, done.stderr
    assert world.published() == new[0]
    assert names(world.folder) == {"o", "blocks"}


@pytest.mark.parametrize("number", [4, 8])
def test_an_update_that_was_killed_goes_on(old, new, number):
    before = old.published()
    killed = old.run("objects", *WORDS, *UPDATE, LEPTON_TEST_KILL_DRIVER=number)
    assert killed.returncode == -signal.SIGKILL
    assert old.published() == before
    again(old, new)
    started = old.started()
    assert set(started) == set(new[1])
    assert len(started) <= len(new[1]) + 1


@pytest.mark.parametrize("step", [5, 8])
def test_an_update_that_was_killed_while_it_was_published(old, new, step):
    before = old.published()
    killed = old.run("objects", *WORDS, *UPDATE, LEPTON_FAILPOINT=f"publish:{step}")
    assert killed.returncode == -signal.SIGKILL
    assert old.published() in (before, new[0])
    again(old, new)
    assert len(old.started()) == len(new[1])


def test_half_an_update_is_no_part_of_another(old, new):
    killed = old.run("objects", *WORDS, "--plus", "3", "--update", LEPTON_TEST_KILL_DRIVER=5)
    assert killed.returncode == -signal.SIGKILL
    again(old, new)


@pytest.mark.parametrize("step", [5, 8])
def test_a_repair_that_was_killed_while_it_was_published(old, step):
    before = old.published()
    # Of the same size and checked by nobody until it is read: the ledger alone tells it.
    chunks = sorted(p for p in old.out.glob("light/0/c/**/*") if p.is_file())
    torn = bytearray(chunks[0].read_bytes())
    torn[9] ^= 8
    chunks[0].write_bytes(torn)
    words = ("verify", old.out, "--repair")
    killed = lepton(*words, cwd=old.folder, LEPTON_FAILPOINT=f"publish:{step}")
    assert killed.returncode == -signal.SIGKILL
    done = lepton(*words, cwd=old.folder)
    assert done.returncode == 0, done.stderr
    assert old.published() == before
    # What the kill left is not believed by whoever comes next.
    done = old.run("objects", *WORDS, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert old.published() == before
    assert not os.path.lexists(old.folder / ".o.lepton")
