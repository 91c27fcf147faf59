"""Input that changes between a kill and the run that goes on, known by its bytes."""

from __future__ import annotations

import os
import signal

import pytest
import zarr

from tests.faults.world import World
from tests.run.test_digest import replace, touch_all

WORDS = ("--serial", "--memory", "700MiB")


@pytest.fixture
def killed(image_folder, tmp_path):
    """Kill a run in the middle; its image is its own, and stored as it is."""
    worlds = []

    def at_block(number, *words):
        (tmp_path / "image").mkdir()
        (tmp_path / "work").mkdir()
        image = zarr.open_array(str(image_folder / "raw.zarr"))
        raw = str(tmp_path / "image/raw.zarr")
        zarr.create_array(raw, data=image[:], chunks=image.chunks, compressors=None)
        world = World(tmp_path / "image", tmp_path / "work")
        worlds.append(world)
        done = world.run("objects", *WORDS, *words, LEPTON_TEST_KILL_DRIVER=number)
        assert done.returncode == -signal.SIGKILL
        return world

    yield at_block
    for world in worlds:
        world.stop()


def undisturbed(world, tmp_path, *words):
    """Return what a run publishes that begins now."""
    (tmp_path / "golden").mkdir()
    other = World(world.image.parent, tmp_path / "golden")
    done = other.run("objects", *WORDS, *words)
    assert done.returncode == 0, done.stderr
    return other.published()


def test_bytes_that_were_replaced_under_the_same_size_and_time(killed, tmp_path):
    world = killed(7, "--digest")
    replace(world.image / "c/0/0/0")
    golden = undisturbed(world, tmp_path, "--digest")
    world.assert_recovers("objects", *WORDS, "--digest", golden=golden)
    started = world.started()
    assert started.count("counted 0_0_0") == 2
    assert len(started) < 2 * len(set(started))


def test_other_times_change_nothing(killed, tmp_path):
    world = killed(7, "--digest")
    touch_all(world.image)
    golden = undisturbed(world, tmp_path, "--digest")
    world.assert_recovers("objects", *WORDS, "--digest", golden=golden, redone=1)


def test_who_goes_on_in_another_way_is_told(killed, tmp_path):
    world = killed(7, "--digest")
    golden = undisturbed(world, tmp_path)
    done = world.run("objects", *WORDS)
    assert done.returncode == 0, done.stderr
    assert "raw is known by size and time now, was by its bytes (digest)" in done.stderr
    world.assert_golden(golden)
    assert len(world.started()) == 7 + len(set(world.started()))
    assert not os.path.lexists(world.folder / ".o.lepton")
