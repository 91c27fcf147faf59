"""The system refuses one call of a run, at one place after another: strace makes it so."""

from __future__ import annotations

import re
import shutil

import pytest

from lepton_pipe.run.clean import clean
from tests.faults.disk import strace
from tests.faults.world import World

pytestmark = strace

SERIAL = ("--serial", "--memory", "700MiB")
# What a run asks of the system that may fail, and how often it is tried to fail it.
CALLS = {
    "openat": 2,
    "write": 4,
    "pwrite64": 3,
    "ftruncate": 1,
    "mkdir": 2,
    "rename": 4,
    "renameat2": 1,
    "unlink": 2,
    "fdatasync": 2,
    "fsync": 3,
    "syncfs": 1,
}
CASES = [(call, nth, of) for call, of in CALLS.items() for nth in range(of)]
REASONS = {
    "EIO": r"Input/output error|disk I/O error|unable to open database file",
    "ENOSPC": r"No space left on device|disk I/O error|disk is full|unable to open database file",
}
# The same calls in the same order each time.
STEADY = {"PYTHONDONTWRITEBYTECODE": 1, "PYTHONHASHSEED": 0}


def traced(log, call, *more):
    """A command that runs another and notes one system call of it."""
    return ("strace", "-f", "-y", "--seccomp-bpf", "-qqq", "-o", log, "-e", f"trace={call}", *more)


def lines(log):
    """Return the calls of each thread in order; the first that is there is the main one."""
    found = {}
    for line in log.read_text(errors="replace").splitlines():
        thread, call = line.split(maxsplit=1)
        if not call.startswith(("+++", "---", "<...")):
            found.setdefault(thread, []).append(call)
    return found


def changes(call):
    """Tell whether a call is one of those that change the output, or what is kept beside it."""
    return re.search(r"/here/\.?o\b", call) and "O_RDONLY" not in call and " ENOENT " not in call


@pytest.fixture(scope="session")
def placed(image_folder, tmp_path_factory):
    """Make a place for an output that replaces another, and a file for the log."""
    first = World(image_folder, tmp_path_factory.mktemp("first"))
    first.publish_another("simple", *SERIAL)

    def place(folder):
        world = World(image_folder, folder / "here", folder / "blocks")
        shutil.copytree(first.out, world.out)
        world.previous = first.previous
        return world, folder / "log"

    return place


@pytest.fixture(scope="session")
def recorded(placed, tmp_path_factory):
    """Of each system call, in its order, the places at which it changes the output."""
    world, log = placed(tmp_path_factory.mktemp("recorded"))
    done = world.run("simple", *SERIAL, under=traced(log, ",".join(CALLS)), **STEADY)
    assert done.returncode == 0, done.stderr
    main = next(iter(lines(log).values()))
    of = {call: [line for line in main if line.startswith(f"{call}(")] for call in CALLS}
    return {
        call: [i for i, line in enumerate(found, 1) if changes(line)] for call, found in of.items()
    }


@pytest.mark.parametrize(("call", "nth", "of"), CASES)
def test_a_call_that_fails(tmp_path, placed, recorded, golden, call, nth, of):
    want, _ = golden("simple", *SERIAL)
    world, log = placed(tmp_path)
    places = recorded[call]
    when = places[round(nth * (len(places) - 1) / max(1, of - 1))]
    error = ("EIO", "ENOSPC")[(nth + of) % 2]
    inject = ("-e", f"inject={call}:error={error}:when={when}")
    done = world.run("simple", *SERIAL, under=traced(log, call, *inject), **STEADY)
    failed = [c for of in lines(log).values() for c in of if "(INJECTED)" in c]
    assert any(changes(c) for c in failed), failed
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        clean(world.out)  # it could do without, but perhaps not remove all
        world.assert_golden(want)
        return
    assert done.returncode in (2, 4), done.stderr
    (message,) = re.findall("^lepton-pipe: .*", done.stderr, re.MULTILINE)
    assert re.search(REASONS[error], message)
    published = world.published()
    assert published == (want if "is published and whole" in message else world.previous)
    world.assert_recovers("simple", *SERIAL, golden=want)


def injected(world, log, call, when, *words, **more):
    """Run with one call that fails, wherever that is; return whether it came to that."""
    inject = ("-e", f"inject={call}:error=EIO:when={when}")
    done = world.run("objects", *words, under=traced(log, call, *inject), **more)
    assert "(INJECTED)" in log.read_text(errors="replace")
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_worker_that_cannot_write(world, golden, tmp_path_factory):
    words = ("--workers", "1", "--threads", "1", "--memory", "1GiB")
    want, _ = golden("objects", *words)
    log = tmp_path_factory.mktemp("log") / "log"
    done = injected(world, log, "rename", 5, *words)
    assert done.returncode in (0, 2), done.stderr
    assert (world.published() == want) == (done.returncode == 0)
    world.assert_recovers("objects", *words, golden=want)


def test_a_hint_that_fails_is_none(world, golden, tmp_path_factory):
    words = ("--serial", "--memory", "2GiB", "--chunks", "z=16,y=160,x=160")
    want, _ = golden("objects", *words)
    log = tmp_path_factory.mktemp("log") / "log"
    assert injected(world, log, "sync_file_range", 1, *words).returncode == 0
    world.assert_golden(want)
