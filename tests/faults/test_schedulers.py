"""The scheduler of a cluster of others goes: the run says so, and what is done is kept."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.faults.test_late_workers import scheduler  # noqa: F401
from tests.faults.test_workers import WORDS

STANDS_STILL = ("--stall", 10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_scheduler_that_has_gone_ends_the_run(world, golden, scheduler, number):  # noqa: F811
    want, _ = golden("objects", *WORDS)
    (world.blocks / "gate").touch()
    process = world.begin("objects", "--scheduler", scheduler, *STANDS_STILL, LEPTON_TEST_SECONDS=1)
    world.wait_for_blocks(2, process)
    port = int(scheduler.rpartition(":")[2])
    (pid,) = {
        c.pid for c in psutil.net_connections() if c.laddr.port == port and c.status == "LISTEN"
    }
    os.kill(pid, number)
    try:
        failed = world.end(process)
    finally:
        os.kill(pid, signal.SIGCONT) if psutil.pid_exists(pid) else None
    assert failed.returncode == 2, failed.stderr
    message = failed.stderr[failed.stderr.index("lepton-pipe: ") :]
    assert "the scheduler" in message
    assert "Traceback" not in failed.stderr, failed.stderr
    world.assert_recovers("objects", *WORDS, golden=want)
