"""The same bytes, however many workers there are and whatever befell them."""

from __future__ import annotations

import pytest

MEMORY = ("--memory", "3GiB")
WAYS = {
    "threads": (),
    "one worker": ("--workers", "1", "--threads", "1"),
    "two workers": ("--workers", "2", "--threads", "1"),
    "four workers": ("--workers", "4", "--threads", "1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_workers_gives_what_one_process_does(world, golden, way):
    want, _ = golden("objects", "--serial", *MEMORY)
    done = world.run("objects", *WAYS[way], *MEMORY)
    assert done.returncode == 0, done.stderr
    assert world.published() == want


def test_blocks_that_are_tried_again_give_the_same(world, golden):
    want, _ = golden("objects", "--serial", *MEMORY)
    done = world.run("objects", *WAYS["two workers"], *MEMORY, LEPTON_TEST_KILL_WORKER=3)
    assert done.returncode == 0, done.stderr
    assert len(world.started()) > 3
    assert world.published() == want
