"""One writer per output: who comes second is refused at once, and the dead hold nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from lepton_pipe.errors import LockedError, RefusedError
from lepton_pipe.ledger.holder import Holder, myself
from lepton_pipe.ledger.lock import OutputLock, holder, lock_path, refuse_locked
from tests.command import PATIENCE, environment, names

HOLD = """
import sys, time
from pathlib import Path
from lepton_pipe.ledger.lock import OutputLock
with OutputLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

# Each takes part when it is told to; who wins keeps the lock until all the others were refused.
RACE = """
import fcntl, sys
from pathlib import Path
from lepton_pipe.errors import LockedError
from lepton_pipe.ledger.lock import OutputLock

def absent(*_):
    raise OSError(95, "Operation not supported")

flock = fcntl.flock
print("ready", flush=True)
while True:
    fcntl.flock = absent if "absent" in sys.stdin.readline() else flock
    lock = OutputLock(Path(sys.argv[1]))
    try:
        lock.acquire()
        print("won", flush=True)
    except LockedError:
        print("refused", flush=True)
    sys.stdin.readline()
    lock.release()
    print("over", flush=True)
"""


def start(script, *words, **env):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        env=environment(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def held(tmp_path):
    """An output that another process holds, and that process."""
    out = tmp_path / "o"
    with start(HOLD, out) as process:
        assert process.stdout.readline() == "held\n"
        yield out, process
        process.kill()


@pytest.fixture(params=["flock", "names"])
def either(request, monkeypatch):
    """A file system with locks, and one without."""
    if request.param == "names":
        monkeypatch.setattr(fcntl, "flock", unsupported)
    return request.param


def unsupported(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_who_has_it_is_known_and_nothing_is_left(tmp_path, either):
    out = tmp_path / "o"
    assert holder(out) is None
    with OutputLock(out):
        found = holder(out)
        assert (found.pid, found.host) == (os.getpid(), socket.gethostname())
        assert found.command == shlex.join(sys.argv)
        assert names(tmp_path) == {".o.lepton.lock"}
        assert stat.S_IMODE(lock_path(out).stat().st_mode) == 0o600
    assert holder(out) is None
    assert names(tmp_path) == set()


def test_a_second_writer_of_the_same_process_is_refused(tmp_path, either):
    with OutputLock(tmp_path / "o"):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            OutputLock(tmp_path / "o").acquire()
        with OutputLock(tmp_path / "other"):
            pass
    with OutputLock(tmp_path / "o"):
        assert names(tmp_path) == {".o.lepton.lock"}


def test_a_second_run_is_refused_at_once_and_told_by_whom_and_what_to_do(held):
    out, process = held
    started = time.monotonic()
    with pytest.raises(LockedError) as refused:
        OutputLock(out).acquire()
    assert time.monotonic() - started < 5
    assert refused.value.exit_status == 4
    told = str(refused.value)
    for word in (
        str(out),
        f"process {process.pid} on {socket.gethostname()} since 20",
        "-c",
        f"kill {process.pid}",
        "lepton-pipe status",
        "choose another out=",
    ):
        assert word in told
    with pytest.raises(LockedError, match=f"process {process.pid} on"):
        refuse_locked(out)


def test_the_lock_of_a_killed_process_is_taken_over(held):
    out, process = held
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock_path(out).is_file()
    assert holder(out) is None
    refuse_locked(out)
    with OutputLock(out):
        assert holder(out).pid == os.getpid()
    assert not lock_path(out).exists()


def test_a_stopped_process_still_holds(held):
    out, process = held
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError, match=f"process {process.pid} on"):
        OutputLock(out).acquire()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_kill_at_any_step_leaves_a_lock_that_can_be_taken(tmp_path, step):
    out = tmp_path / "o"
    with start(HOLD, out, LEPTON_FAILPOINT=f"lock:{step}") as process:
        process.communicate("")
    assert process.returncode == -signal.SIGKILL
    assert holder(out) is None
    with OutputLock(out):
        pass
    assert names(tmp_path) == set()


def test_of_twenty_one_wins_each_time(tmp_path):
    out = tmp_path / "o"
    racers = [start(RACE, out) for _ in range(20)]
    try:
        assert {told(r) for r in racers} == {"ready"}
        for number, flock in enumerate(["present", "absent"] * 6):
            if number % 4 > 1:
                lock_path(out).write_bytes(a_dead_process())
            tell(racers, flock)
            assert sorted(map(told, racers)) == ["refused"] * 19 + ["won"], (number, flock)
            tell(racers, "release")
            assert {told(r) for r in racers} == {"over"}
            assert names(tmp_path) == set()
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def tell(racers, word):
    for racer in racers:
        racer.stdin.write(f"{word}\n")
        racer.stdin.flush()


def told(racer):
    return racer.stdout.readline().strip()


def a_dead_process(**changed):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    now = time.time()
    dead = Holder(process.pid, socket.gethostname(), "2026-01-01T00:00:00+00:00", "gone", now)
    return json.dumps({**dead._asdict(), **changed}).encode()


def test_a_lock_file_that_was_replaced_is_not_removed(tmp_path):
    out = tmp_path / "o"
    with OutputLock(out):
        lock_path(out).unlink()
        second = OutputLock(out)
        second.acquire()
    assert lock_path(out).is_file()
    second.release()
    assert names(tmp_path) == set()


def test_who_locks_a_file_that_was_removed_meanwhile_tries_again(tmp_path, monkeypatch):
    out = tmp_path / "o"
    first = OutputLock(out)
    first.acquire()
    flock = fcntl.flock

    def after_the_first_has_ended(*words):
        first.release()
        flock(*words)

    monkeypatch.setattr(fcntl, "flock", after_the_first_has_ended)
    with OutputLock(out):
        assert lock_path(out).is_file()
        with pytest.raises(LockedError):
            OutputLock(out).acquire()


def test_a_forked_process_does_not_hold_the_lock_of_its_dead_parent(tmp_path):
    out = tmp_path / "o"
    script = HOLD.replace("sys.stdin.read()", "import os; os.fork() or time.sleep(600)")
    with start(script, out) as process:
        assert process.stdout.readline() == "held\n"
        process.wait(PATIENCE)
    # The parent has ended in the normal way; now one that is killed.
    script = script.replace("time.sleep(600)", "(print(os.getpid(), flush=True), time.sleep(600))")
    script = script.replace("    import os", "    import os, signal")
    script += "    os.kill(os.getpid(), signal.SIGKILL)\n"
    with start(script, out) as process:
        assert process.stdout.readline() == "held\n"
        child = int(process.stdout.readline())
        process.wait(PATIENCE)
        try:
            assert holder(out) is None
            OutputLock(out).acquire()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_file_is_refused_and_left_alone(tmp_path, what):
    out, path = tmp_path / "o", tmp_path / ".o.lepton.lock"
    if what == "link":
        (tmp_path / "theirs").write_text("precious")
        path.symlink_to(tmp_path / "theirs")
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = names(tmp_path)
    with pytest.raises(RefusedError, match=r"\.o\.lepton\.lock is the place of a lock file"):
        OutputLock(out).acquire()
    assert holder(out) is None
    assert names(tmp_path) == before
    if what == "link":
        assert (tmp_path / "theirs").read_text() == "precious"


@pytest.mark.parametrize(
    "said",
    [b"", b"[]", b"{", b'{"pid": 1}', b"\xff\x00", b'{"pid": "x"}', b"[" * 4000],
    ids=range(7),
)
def test_a_damaged_name_holds_nobody_up_and_is_no_traceback(tmp_path, said):
    out = tmp_path / "o"
    lock_path(out).write_bytes(said)
    assert holder(out) is None
    with OutputLock(out):
        lock_path(out).write_bytes(said)
        assert holder(out) == Holder()
        with pytest.raises(LockedError, match="whose name cannot be read"):
            OutputLock(out).acquire()


def test_a_name_cannot_play_tricks_with_the_terminal_nor_tell_passwords(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["lepton-pipe", "raw=https://me:pass@host/a?sig=abc", "\x1b[2J"]
    )
    with OutputLock(tmp_path / "o"):
        found = str(holder(tmp_path / "o"))
    assert "raw=https://host/a" in found
    for hidden in ("pass", "abc", "\x1b"):
        assert hidden not in found


def test_a_full_disk_does_not_keep_a_lock_from_being_taken(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with OutputLock(tmp_path / "o"), pytest.raises(LockedError):
        OutputLock(tmp_path / "o").acquire()
    assert names(tmp_path) == set()


class TestWithoutLocks:
    """File systems without ``flock``: the file is the lock."""

    @pytest.fixture(autouse=True)
    def no_locks(self, monkeypatch):
        monkeypatch.setattr(fcntl, "flock", unsupported)

    def test_a_dead_process_of_this_host_is_taken_over(self, tmp_path):
        lock_path(tmp_path / "o").write_bytes(a_dead_process())
        assert holder(tmp_path / "o") is None
        with OutputLock(tmp_path / "o"):
            assert holder(tmp_path / "o").pid == os.getpid()
        assert names(tmp_path) == set()

    def test_a_process_with_the_number_of_a_dead_one_does_not_stand_for_it(self, tmp_path):
        lock_path(tmp_path / "o").write_bytes(a_dead_process(pid=os.getpid(), born=1e9))
        with OutputLock(tmp_path / "o"):
            pass

    def test_a_lock_that_is_taken_meanwhile_is_not_taken_over(self, tmp_path, monkeypatch):
        path = lock_path(tmp_path / "o")
        path.write_bytes(a_dead_process())
        link = os.link

        def raced(source, target):
            path.write_bytes(said)  # by another, between our first look and our claim
            link(source, target)

        said = myself()
        monkeypatch.setattr(os, "link", raced)
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            OutputLock(tmp_path / "o").acquire()
        assert path.read_bytes() == said
        assert names(tmp_path) == {path.name}

    def test_while_another_looks_nothing_is_replaced(self, tmp_path):
        path, claim = lock_path(tmp_path / "o"), tmp_path / ".o.lepton.lock.00000000"
        path.write_bytes(dead := a_dead_process())
        claim.write_bytes(myself())
        with pytest.raises(LockedError):
            OutputLock(tmp_path / "o").acquire()
        assert path.read_bytes() == dead
        assert names(tmp_path) == {path.name, claim.name}

    def test_the_claim_of_a_dead_process_holds_nobody_up(self, tmp_path):
        (tmp_path / ".o.lepton.lock.00000000").write_bytes(a_dead_process())
        with OutputLock(tmp_path / "o"):
            assert holder(tmp_path / "o").pid == os.getpid()
        assert names(tmp_path) == set()

    def test_a_claim_of_another_host_is_named_with_the_remedy(self, tmp_path):
        claim = tmp_path / ".o.lepton.lock.00000000"
        lock_path(tmp_path / "o").write_bytes(a_dead_process())
        claim.write_bytes(a_dead_process(host="elsewhere"))
        with pytest.raises(LockedError, match=rf"on elsewhere .* remove .* and .*{claim.name}"):
            OutputLock(tmp_path / "o").acquire()

    def test_another_host_is_believed_and_the_remedy_named(self, tmp_path):
        path = lock_path(tmp_path / "o")
        path.write_bytes(a_dead_process(host="elsewhere"))
        before = path.read_bytes()
        with pytest.raises(LockedError, match=r"on elsewhere .* remove .*\.o\.lepton\.lock"):
            OutputLock(tmp_path / "o").acquire()
        assert path.read_bytes() == before

    def test_without_hard_links_either_it_is_refused(self, tmp_path, monkeypatch):
        def no_links(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        with pytest.raises(RefusedError, match="neither locks nor hard links"):
            OutputLock(tmp_path / "o").acquire()
        assert names(tmp_path) == set()
