"""Workers that outlive the driver and write late: the next run's bytes are its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.command import environment

SERIAL = ("--serial", "--memory", "700MiB")
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None,
        memory_limit="2GiB", local_directory=sys.argv[1],
    )
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
    cluster.close()
"""


@pytest.fixture
def scheduler(world, tmp_path_factory):
    """The address of a cluster of others, in which blocks end when the test says so."""
    folder = tmp_path_factory.mktemp("cluster")
    script = folder / "cluster.py"
    script.write_text(CLUSTER)
    gate = str(world.blocks / "gate")
    env = environment(LEPTON_TEST_BLOCKS=str(world.blocks), LEPTON_TEST_GATE_counted=gate)
    with subprocess.Popen(
        [sys.executable, script, folder],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()


@pytest.mark.parametrize(
    ("pipeline", "plus", "when"),
    [
        ("simple", 1, "during"),
        ("simple", 7, "during"),
        ("simple", 1, "after"),
        ("level", 7, "during"),
        ("level", 1, "after"),
    ],
)
def test_what_is_written_late_is_nowhere(world, golden, scheduler, pipeline, plus, when):
    want, _ = golden(pipeline, *SERIAL)
    first = world.begin(pipeline, "--scheduler", scheduler, "--plus", plus)
    world.wait_for_blocks(2, first)
    first.kill()
    assert world.end(first).returncode == -signal.SIGKILL
    second = world.begin(pipeline, *SERIAL, LEPTON_TEST_SECONDS=0.2)
    if when == "during":
        world.wait_for_blocks(3, second)
        (world.blocks / "gate").touch()
    done = world.end(second)
    assert done.returncode == 0, done.stderr
    (world.blocks / "gate").touch()
    time.sleep(1)  # for what comes late
    world.assert_golden(want)
