"""Places that are full, read-only or immutable: refused at once, or one clear error and no loss."""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager

import pytest

from tests.command import lepton, names
from tests.faults.disk import mounted, remounted, root
from tests.faults.world import World

pytestmark = [pytest.mark.root, root]

WAYS = {
    "serial": ("--serial", "--memory", "700MiB"),
    "threads": ("--memory", "700MiB"),
    "dask": ("--workers", "1", "--threads", "2", "--memory", "1GiB"),
}


@pytest.fixture
def small(image_folder, tmp_path):
    """A place for an output in a memory of 64 MiB that can be made smaller and larger."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64m", "tmpfs") as place:
        yield World(image_folder, place, tmp_path / "blocks")


def failed(done, status, words):
    """Assert a status and one clear message with some words, a regular expression."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("lepton-pipe: ") :]
    assert message.count("\n") == 1, message
    assert re.search(words, message), message


def kib(world):
    """Return how much the place holds now."""
    done = subprocess.run(["du", "-sk", world.folder], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


FULL = r"No space left on device.*make room.*type the same command again|database or disk is full"


@pytest.mark.parametrize(
    ("way", "before"), [("serial", "previous"), ("threads", "absent"), ("dask", "absent")]
)
def test_a_disk_that_runs_full(small, golden, way, before):
    words = WAYS[way]
    want, started = golden("objects", *words)
    if before == "previous":
        small.publish_another("objects", *words)
    # More than is asked for beforehand, as if all compressed well, and less than it takes.
    remounted(small.folder, f"size={kib(small) + 1400}k")
    failed(small.run("objects", *words), 2, FULL)
    assert small.published() == small.previous
    assert names(small.folder) <= {"o", ".o.lepton"}
    begun = len(small.started())
    assert begun
    remounted(small.folder, "size=64m")
    small.assert_recovers("objects", *words, golden=want)
    assert len(small.started()) < begun + len(started)  # what was done was kept


def test_a_disk_with_room_for_the_rest_alone_is_not_refused(small, golden):
    words = WAYS["serial"]
    want, _ = golden("objects", *words)
    small.run("objects", *words, LEPTON_TEST_KILL_DRIVER=9)
    remounted(small.folder, f"size={kib(small) + 470}k")
    small.assert_recovers("objects", *words, golden=want)


@pytest.mark.parametrize("before", ["absent", "previous"])
def test_a_disk_that_is_full_already_is_refused(small, golden, before):
    words = WAYS["serial"]
    want, _ = golden("objects", *words)
    if before == "previous":
        small.publish_another("objects", *words)
    remounted(small.folder, f"size={kib(small) + 64}k")
    failed(small.run("objects", *words), 4, "64 KiB free.*make room")
    assert small.started() == []
    assert names(small.folder) == ({"o"} if before == "previous" else set())
    remounted(small.folder, "size=64m")
    small.assert_recovers("objects", *words, golden=want)


@contextmanager
def read_only(place):
    with mounted(place, "--bind", place):
        remounted(place, "bind,ro")
        yield


@contextmanager
def immutable(place):
    done = subprocess.run(["chattr", "+i", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be made immutable here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", place], check=True)


@pytest.mark.parametrize(
    ("way", "before"), [(read_only, "absent"), (read_only, "previous"), (immutable, "previous")]
)
def test_an_output_where_nothing_can_be_written(world, golden, way, before):
    words = WAYS["serial"]
    want, _ = golden("simple", *words)
    if before == "previous":
        world.publish_another("simple", *words)
    place = world.folder / "place"
    place.mkdir()
    inner = World(world.image.parent, place, world.folder / "notes")
    if before == "previous":
        world.out.rename(inner.out)
        inner.previous = world.previous
    with way(place):
        failed(
            inner.run("simple", *words),
            4,
            "cannot write beside the output|protected against writing",
        )
        assert inner.started() == []
    assert inner.published() == inner.previous
    inner.assert_recovers("simple", *words, golden=want)


def test_an_input_that_is_read_only(image_folder, tmp_path, golden):
    words = WAYS["serial"]
    want, _ = golden("simple", *words)
    (tmp_path / "image").mkdir()
    with mounted(tmp_path / "image", "--bind", image_folder):
        remounted(tmp_path / "image", "bind,ro")
        world = World(tmp_path / "image", tmp_path / "w", tmp_path / "blocks")
        world.folder.mkdir()
        world.assert_recovers("simple", *words, golden=want)


def test_a_result_that_is_read_only_can_be_looked_at(world, golden):
    want, _ = golden("simple", *WAYS["serial"])
    world.assert_recovers("simple", *WAYS["serial"], golden=want)
    with read_only(world.out):
        for command in ("verify", "status"):
            done = lepton(command, world.out, cwd=world.blocks)
            assert done.returncode == 0, done.stderr
