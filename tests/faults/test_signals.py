"""Stop a run by signals: it says so, publishes nothing, and the next one goes on."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from signal import SIGINT, SIGTERM

import pytest

from tests.command import PATIENCE

WAYS = {
    "serial": ("--serial", "--memory", "700MiB"),
    "threads": ("--memory", "700MiB"),
    "dask": ("--workers", "1", "--threads", "2", "--memory", "1GiB"),
}
CASES = [
    ("serial", [SIGINT], 130),
    ("serial", [SIGINT, SIGINT], 130),
    ("threads", [SIGTERM], 143),
    ("threads", [SIGINT, SIGINT], 130),
    ("dask", [SIGTERM], 143),
    ("dask", [SIGINT, SIGINT], 130),
]


def send(process, number):
    """Send a signal as a terminal does, to all processes of the run, or as others do, to one."""
    with suppress(ProcessLookupError):
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


@pytest.mark.parametrize(("way", "signals", "status"), CASES)
def test_a_run_that_is_stopped_goes_on(world, golden, way, signals, status):
    words = WAYS[way]
    want, started = golden("objects", *words)
    world.fresh = True
    process = world.begin("objects", *words, LEPTON_TEST_SECONDS=1)
    world.wait_for_blocks(4, process)
    for number in signals:
        send(process, number)
        time.sleep(0.1)
    done = world.end(process)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("lepton-pipe: ") == 1
    assert world.published() is None
    assert len(world.started()) < len(started) + 4
    world.assert_recovers("objects", *words, golden=want, redone=4)


def test_a_second_ctrl_c_waits_for_no_block(world):
    process = world.begin("objects", *WAYS["dask"], LEPTON_TEST_SECONDS=2 * PATIENCE)
    world.wait_for_blocks(2, process)
    send(process, SIGINT)
    time.sleep(1)
    assert process.poll() is None
    send(process, SIGINT)
    done = world.end(process)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert world.published() is None
