"""Cut the power of the disk that a run writes to: what was promised to be there is there.

The power is cut in the file system itself, at one instant; what the system had not sent to the
device by then is gone. So that these tests can be believed, the same is done to runs whose syncs do
nothing: those must lose data.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from lepton_pipe.errors import LeptonError
from lepton_pipe.failpoints import VARIABLE
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.run.clean import clean
from lepton_pipe.run.hidden import HiddenFolder
from tests.command import PATIENCE, names
from tests.faults.disk import Disk, root, strace
from tests.faults.world import World
from tests.run.conftest import IN_MEMORY

pytestmark = [pytest.mark.root, root]

SERIAL = ("--serial", "--memory", "700MiB")
THREADS = ("--memory", "700MiB")
SYNCS = "fsync,fdatasync,syncfs,sync,sync_file_range"
# Steps of publishing that are reached on a file system that exchanges two folders in one act.
STEPS = (1, 2, 3, 4, 5, 8, 9, 10, 11)


def without(*calls):
    """A command that runs another in which these system calls do nothing, and say they did."""
    these = ",".join(calls)
    tell = ("-e", "signal=none", "-qqq", "-o", "/dev/null")
    return ("strace", "-f", "--seccomp-bpf", "-e", f"inject={these}:retval=0", *tell)


@pytest.fixture
def disk(tmp_path):
    memory = IN_MEMORY if IN_MEMORY.is_dir() else tmp_path
    made = Disk(memory / f"lepton-{os.getpid()}-{time.monotonic_ns()}.img", tmp_path / "disk")
    yield made
    made.remove()


@pytest.fixture
def world(image_folder, disk, tmp_path):
    """A place for an output on a disk whose power can be cut, and a count that stays."""
    made = World(image_folder, disk.folder, tmp_path / "blocks")
    yield made
    made.stop()


def previous(world, disk):
    """Publish another version, and have it on disk beyond doubt."""
    world.publish_another("simple", *SERIAL)
    os.sync()


def cut(world, disk, *words, **more):
    """Run until it ends, or is killed at a failpoint, and cut the power at that instant."""
    done = world.run("simple", *words, **more)
    disk.cut()
    disk.back()
    return done


@pytest.mark.parametrize("before", ["absent", "previous"])
def test_what_is_said_to_be_published_survives(world, disk, golden, before):
    want, _ = golden("simple", *SERIAL)
    if before == "previous":
        previous(world, disk)
    assert cut(world, disk, *SERIAL).returncode == 0
    assert world.published() == want
    clean(world.out)  # what the run had removed may be there again
    world.assert_golden(want)


@strace
@pytest.mark.parametrize(
    "calls", [SYNCS.split(","), ["syncfs"], ["fsync"]], ids=["all", "data", "folders"]
)
@pytest.mark.parametrize("before", ["absent", "previous"])
def test_without_syncs_it_is_lost(world, disk, golden, calls, before):
    """The mutants: whichever syncs do nothing, the test above must fail."""
    want, _ = golden("simple", *SERIAL)
    if before == "previous":
        previous(world, disk)
    assert cut(world, disk, *SERIAL, under=without(*calls)).returncode == 0
    assert world.published() != want


@pytest.mark.parametrize(
    ("step", "before"), [*((s, "previous") for s in STEPS), *((s, "absent") for s in (4, 5, 8, 9))]
)
def test_at_every_step_of_publishing(world, disk, golden, step, before):
    want, _ = golden("simple", *SERIAL)
    if before == "previous":
        previous(world, disk)
    done = cut(world, disk, *SERIAL, **{VARIABLE: f"publish:{step}"})
    assert done.returncode == -signal.SIGKILL
    if step >= 9:  # it was flushed
        assert world.published() == want
        clean(world.out)
    world.assert_recovers("simple", *SERIAL, golden=want)


def durable(world):
    """Return the ledger of a run that goes on or was stopped, and how many rows are durable."""
    staged = HiddenFolder(world.out).staged()
    try:
        with Ledger.open(staged / KNOWN / LEDGER, readonly=True) as ledger:
            return sum(ledger.counts(s.stage).durable for s in ledger.stages())
    except (LeptonError, TypeError):  # not yet
        return 0


def cut_in_the_middle(world, disk, reached, *words):
    """Cut the power when a run has reached something; then stop it."""
    process = world.begin("objects", *words, LEPTON_TEST_SECONDS=1)
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    disk.cut()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    disk.back()


@pytest.mark.parametrize("words", [SERIAL, THREADS], ids=["serial", "threads"])
def test_blocks_marked_durable_are_not_done_again(world, disk, golden, words):
    want, started = golden("objects", *words)
    cut_in_the_middle(world, disk, lambda: durable(world) >= 3, *words)
    kept, begun = durable(world), world.started()
    assert kept >= 3
    world.assert_recovers("objects", *words, golden=want)
    again = len(world.started()) - len(begun)
    assert again <= len(started) - kept


@pytest.mark.parametrize("number", [1, 2, 4])
def test_before_anything_is_durable(world, disk, golden, number):
    want, _ = golden("objects", *SERIAL)
    cut_in_the_middle(world, disk, lambda: len(world.started()) >= number, *SERIAL)
    assert world.published() is None
    world.assert_recovers("objects", *SERIAL, golden=want)


def test_what_an_earlier_run_left_in_memory_alone(world, disk, golden):
    """It was killed, and nothing of it had come to the disk when the next one went on from it."""
    want, _ = golden("objects", *SERIAL)
    killed = world.run("objects", *SERIAL, LEPTON_TEST_KILL_DRIVER=3)
    assert killed.returncode == -signal.SIGKILL
    cut_in_the_middle(world, disk, lambda: len(world.started()) >= 4, *SERIAL)
    world.assert_recovers("objects", *SERIAL, golden=want)


@pytest.mark.parametrize("step", range(1, 4))
def test_while_staging_is_made(world, disk, golden, step):
    want, _ = golden("simple", *SERIAL)
    cut(world, disk, *SERIAL, **{VARIABLE: f"staging:{step}"})
    assert names(world.folder) <= {".o.lepton", ".o.lepton.lock"}
    world.assert_recovers("simple", *SERIAL, golden=want)
