"""Flip bits in what a stopped run keeps: each is found, and one plain run more mends it."""

from __future__ import annotations

import random
import signal

import pytest

WORDS = ("--serial", "--memory", "700MiB")


def kept(world, what):
    """Return the files of one kind that a stopped run has kept."""
    (run,) = (world.folder / ".o.lepton").glob("run-*")
    return sorted(p for p in run.glob(what) if p.is_file())


def flip(file, seed):
    """Flip a bit of a file."""
    chosen, torn = random.Random(seed), bytearray(file.read_bytes())  # noqa: S311
    torn[chosen.randrange(len(torn))] ^= 1 << chosen.randrange(8)
    file.write_bytes(torn)


@pytest.fixture
def stopped(world):
    """A run that was killed when its first stage was nearly done."""
    done = world.run("objects", *WORDS, LEPTON_TEST_KILL_DRIVER=9)
    assert done.returncode == -signal.SIGKILL
    return world


def mend(world, want, tries):
    """Run until it ends well, so many times at most; return how many times it failed."""
    for failed in range(tries):
        done = world.run("objects", *WORDS)
        if done.returncode == 0:
            assert world.published() == want
            return failed
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert world.published() is None
    raise AssertionError(done.stderr)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("what", ["light/0/c/**/*", ".lepton/journal/*/*"])
def test_a_flipped_bit_in_what_is_kept_never_shows(stopped, golden, what, seed):
    want, _ = golden("objects", *WORDS)
    files = kept(stopped, what)
    assert files
    flip(files[seed % len(files)], seed)
    assert mend(stopped, want, 1) == 0


@pytest.mark.parametrize("seed", range(2))
def test_a_missing_file_is_made_again(stopped, golden, seed):
    want, _ = golden("objects", *WORDS)
    files = kept(stopped, "light/0/c/**/*")
    files[seed % len(files)].unlink()
    assert mend(stopped, want, 1) == 0
