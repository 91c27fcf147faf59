"""Workers that die, hang or are stopped: the guilty block is found, the others are not blamed."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

WORDS = ("--workers", "1", "--threads", "2", "--memory", "1GiB")
# The block in the middle, as its kernel sees it.
POISON = "0_58_58"


def poisoned(how, **more):
    """Return what makes the block in the middle do that whenever it is run."""
    return {"LEPTON_TEST_POISON": POISON, "LEPTON_TEST_POISON_BY": how, **more}


def workers_of(process):
    """Return the worker processes of a run."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [p for p in family if "spawn_main" in " ".join(p.cmdline())]


def executions(world):
    """Return how often the guilty block was started, and the innocent ones at the most."""
    starts = world.started()
    others = {s for s in starts if not s.endswith(POISON)}
    return starts.count(f"counted {POISON}"), max(starts.count(s) for s in others)


def told(message, end):
    """Tell whether a message says how a process ended, or nothing of that.

    Dask may lose the status of a worker that ends as another is started.
    """
    return end in message or not ("exit status" in message or "by signal" in message)


@pytest.mark.parametrize(("how", "said"), [("exit", "exit status 7"), ("SIGKILL", "signal 9")])
def test_a_block_that_ends_its_worker_is_named_and_no_other_is_blamed(world, golden, how, said):
    want, _ = golden("objects", *WORDS)
    failed = world.run("objects", *WORDS, **poisoned(how))
    assert failed.returncode == 2, failed.stderr
    message = failed.stderr[failed.stderr.index("lepton-pipe: ") :]
    for word in ("block 4 of ", "[0:16, 64:128, 64:128]", "counted", "the last time alone"):
        assert word in message, message
    assert told(message, said)
    assert "Traceback" not in failed.stderr
    guilty, innocent = executions(world)
    assert guilty == 3
    assert innocent <= 2
    world.assert_recovers("objects", *WORDS, golden=want)


def test_a_block_that_ends_its_worker_is_quarantined_alone(world, golden):
    skipped = world.run("objects", *WORDS, "--on-error", "skip", **poisoned("exit"))
    assert skipped.returncode == 3, skipped.stderr
    guilty, innocent = executions(world)
    assert guilty == 3
    assert innocent <= 2
    quarantine = (world.out / "quarantine.json").read_text()
    assert quarantine.count('"process"') == 1
    assert told(quarantine, "exit status 7")


def test_a_block_that_ends_its_worker_twice_by_chance_is_done_in_the_end(world, golden):
    want, _ = golden("objects", *WORDS)
    done = world.run("objects", *WORDS, **poisoned("exit", LEPTON_TEST_POISON_TIMES=2))
    assert done.returncode == 0, done.stderr
    assert world.published() == want
    assert executions(world)[0] == 3


def test_a_worker_that_is_stopped_is_replaced(world, golden):
    want, _ = golden("objects", *WORDS)
    process = world.begin("objects", *WORDS, "--stall", 10, LEPTON_TEST_SECONDS=1)
    world.wait_for_blocks(2, process)
    (worker,) = workers_of(process)
    os.kill(worker.pid, signal.SIGSTOP)
    done = world.end(process)
    assert done.returncode == 0, done.stderr
    assert world.published() == want
    assert not worker.is_running()


def test_a_kernel_that_never_ends_is_told_of(world, golden):
    want, _ = golden("objects", *WORDS)
    failed = world.run("objects", *WORDS, "--stall", 8, **poisoned("sleep"))
    assert failed.returncode == 2, failed.stderr
    message = failed.stderr[failed.stderr.index("lepton-pipe: ") :]
    for word in ("block 4 of ", "did not end", "nothing moved", "--stall"):
        assert word in message, message
    assert executions(world)[0] == 2
    world.assert_recovers("objects", *WORDS, golden=want)
