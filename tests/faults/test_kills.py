"""Kill the driver or a worker at every block: only what was in flight is done again."""

from __future__ import annotations

import signal

import pytest

WAYS = {
    "serial": ("--serial", "--memory", "700MiB"),
    "threads": ("--memory", "700MiB"),
    "dask": ("--workers", "1", "--threads", "2", "--memory", "1GiB"),
}


@pytest.mark.parametrize(
    ("way", "number"),
    [*(("serial", n) for n in range(1, 10)), *(("threads", n) for n in (1, 4, 9))],
)
def test_the_driver_is_killed_at_every_block(world, golden, way, number):
    words = WAYS[way]
    want, started = golden("objects", *words)
    assert len(started) >= 9
    killed = world.run("objects", *words, LEPTON_TEST_KILL_DRIVER=number)
    assert killed.returncode == -signal.SIGKILL
    assert len(world.started()) >= number
    world.assert_recovers("objects", *words, golden=want, redone=1 if way == "serial" else 4)


@pytest.mark.parametrize("number", [2, 5])
def test_the_driver_of_a_cluster_is_killed(world, golden, number):
    words = WAYS["dask"]
    want, _ = golden("objects", *words)
    killed = world.run("objects", *words, LEPTON_TEST_KILL_DRIVER=number, LEPTON_TEST_SECONDS=0.1)
    assert killed.returncode == -signal.SIGKILL
    world.assert_recovers("objects", *words, golden=want, redone=4)


@pytest.mark.parametrize(
    ("pipeline", "number"),
    [*(("simple", n) for n in (1, 2, 3)), *(("objects", n) for n in (1, 5, 9))],
)
def test_a_worker_is_killed_at_every_block(world, golden, pipeline, number):
    words = WAYS["dask"]
    want, started = golden(pipeline, *words)
    assert len(started) == {"simple": 3, "objects": 9}[pipeline]
    done = world.run(pipeline, *words, LEPTON_TEST_KILL_WORKER=number)
    assert done.returncode == 0, done.stderr
    world.assert_golden(want)
    # What a worker has returned goes with it until it is folded, so all may be run again, once.
    assert len(started) < len(world.started()) <= 2 * len(started)


def test_another_parameter_does_nothing_stale(world, golden):
    words = WAYS["serial"]
    world.run("objects", *words, "--plus", "7", LEPTON_TEST_KILL_DRIVER=6)
    want, _ = golden("objects", *words)
    world.assert_recovers("objects", *words, golden=want, redone=9)


def test_another_parameter_and_back_does_nothing_stale(world, golden):
    words = WAYS["serial"]
    want, _ = golden("objects", *words)
    world.run("objects", *words, LEPTON_TEST_KILL_DRIVER=8)
    world.run("objects", *words, "--plus", "7", LEPTON_TEST_KILL_DRIVER=12)
    world.assert_recovers("objects", *words, golden=want, redone=20)
