"""Memory is measured over all processes of a run, from outside."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from lepton_pipe.report.memory import PeakMemory, resident_bytes
from tests.command import wait_for

MIB = 2**20


def child(mib: int) -> subprocess.Popen[bytes]:
    """Start a process that holds memory until it is ended."""
    code = f"import time; held = bytes(b'x') * ({mib} * 2**20); time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code])


def test_the_peak_counts_children_that_began_later_and_ended_before_the_end():
    with PeakMemory() as peak:
        before = wait_for(lambda: peak.peak_bytes)
        process = child(300)
        try:
            wait_for(lambda: peak.peak_bytes - before >= 300 * MIB)
        finally:
            process.kill()
            process.wait()
        time.sleep(0.3)
    assert peak.peak_bytes - before < 400 * MIB


def test_a_process_that_has_ended_counts_nothing():
    process = child(1)
    gone = psutil.Process(process.pid)
    process.kill()
    process.wait()
    assert resident_bytes([gone]) == 0
    assert resident_bytes([gone, psutil.Process()]) > 10 * MIB
