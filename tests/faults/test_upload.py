"""Disturb runs whose result goes to a URL: nothing is there, or all of it, and they go on."""

from __future__ import annotations

import hashlib
import os
import signal

import pytest

from tests.command import names, wait_for
from tests.faults.world import World
from tests.object_store import object_store

KEY = "deep/o.zarr/"
WORDS = ("--serial", "--memory", "700MiB")


class RemoteWorld(World):
    """A place at a URL; staged in the folder."""

    def __init__(self, image_folder, folder, store):
        super().__init__(image_folder, folder)
        self.store, self.out = store, f"s3://bucket/{KEY.rstrip('/')}"

    def begin(self, pipeline, *words, staging=None, **more):
        """Begin a run that uses the store."""
        staged = ("--staging", staging or self.folder)
        return super().begin(pipeline, *words, *staged, **more, **self.store.environment())

    def published(self):
        """Return the sha256 of every object of the result; None where there is no result."""
        found = self.store.bytes(KEY)
        if "lepton.json" not in found:
            return None
        own = {n for n in found if n != "lepton.json" and not n.startswith(".lepton/")}
        return {n: hashlib.sha256(found[n]).hexdigest() for n in sorted(own)}

    def assert_golden(self, golden):
        """Assert that the result is whole, and nothing is left beside it or in the folder."""
        assert self.published() == golden
        assert {k for k in self.store.objects if not k.startswith(KEY)} == set()
        assert f"{KEY}.lepton/upload.json" not in self.store.objects
        assert names(self.folder) == {"blocks"}


@pytest.fixture
def world(image_folder, tmp_path):
    """A place at a URL of a store of its own."""
    with object_store() as store:
        made = RemoteWorld(image_folder, tmp_path, store)
        yield made
        made.stop()


@pytest.mark.parametrize("words", [WORDS, ("--workers", "1", "--memory", "1GiB")])
def test_the_driver_is_killed_while_it_computes(world, golden, words):
    want, _ = golden("objects", *WORDS)
    killed = world.run("objects", *words, LEPTON_TEST_KILL_DRIVER=4)
    assert killed.returncode == -signal.SIGKILL
    assert world.store.names(KEY) == set()
    world.assert_recovers("objects", *words, golden=want, redone=4)


def test_the_driver_is_killed_while_it_uploads(world, golden):
    want, _ = golden("objects", *WORDS)
    killed = world.run("objects", *WORDS, LEPTON_FAILPOINT="object:9")
    assert killed.returncode == -signal.SIGKILL
    world.assert_recovers("objects", *WORDS, golden=want, redone=0)


def test_rights_that_end_while_it_uploads(world, golden):
    want, _ = golden("objects", *WORDS)
    world.store.fault = lambda method, key, n: 403 if "/c/" in key and method == "PUT" else None
    failed = world.run("objects", *WORDS)
    assert failed.returncode == 2, failed.stderr
    assert "could not be written (PermissionError" in failed.stderr
    assert "type the same command again to go on" in failed.stderr
    assert f"lepton-pipe clean {world.out} --staging {world.folder}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "very-secret" not in failed.stderr
    world.store.fault = lambda *_: None
    world.assert_recovers("objects", *WORDS, golden=want, redone=0)


def test_it_is_told_to_stop_while_it_uploads(world, golden):
    want, _ = golden("objects", *WORDS)
    world.store.fault = lambda method, key, n: 0.5 if "/c/" in key and method == "PUT" else None
    process = world.begin("objects", *WORDS)
    wait_for(lambda: any("/c/" in key for _, key in list(world.store.requests)))
    os.kill(process.pid, signal.SIGTERM)
    ended = world.end(process)
    assert ended.returncode == 143, ended.stderr
    world.store.fault = lambda *_: None
    world.assert_recovers("objects", *WORDS, golden=want, redone=0)


def test_a_second_run_from_another_place_is_refused(world, golden, tmp_path_factory):
    want, _ = golden("objects", *WORDS)
    other = tmp_path_factory.mktemp("other")
    gate = world.blocks / "gate"
    process = world.begin("objects", *WORDS, LEPTON_TEST_GATE_counted=gate)
    world.wait_for_blocks(1, process)
    refused = world.run("objects", *WORDS, staging=other)
    assert refused.returncode == 4, refused.stderr
    assert f"is being written by process {process.pid}" in refused.stderr
    assert names(other) == set()
    gate.touch()
    done = world.end(process)
    assert done.returncode == 0, done.stderr
    world.assert_golden(want)
