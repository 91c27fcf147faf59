"""One run at a time publishes at a URL: the lock object, who holds it and who takes it over."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest

from lepton_pipe.errors import LockedError, RunError
from lepton_pipe.report.progress import Silent
from lepton_pipe.run import remote_lock
from lepton_pipe.run.remote_look import clean_any, status_of
from lepton_pipe.run.remote_staging import RemoteStaging
from lepton_pipe.store.output import output_at
from tests.command import PATIENCE, names, wait_for
from tests.run.uploads.sending import KEY, LOCK, URL, run


def lock_of(store, **changed):
    """Return the lock object as a run on another machine makes it."""
    holder = {"pid": 7, "host": "far", "started": "2026-01-01T00:00:00+00:00"}
    more = {"command": "lepton-pipe run", "born": 1.0, "token": "theirs", "staging": "/there"}
    store.put(LOCK, json.dumps({**holder, **more, **changed}).encode())


def test_a_run_on_another_machine_keeps_us_out_until_it_stops_to_renew_its_lock(store, folder):
    lock_of(store)
    with pytest.raises(LockedError, match=r"being written by process 7 on far since 2026-01-01"):
        run()
    found = status_of(output_at(URL))
    assert (found.state, found.holder.host) == ("running", "far")
    with pytest.raises(LockedError):
        clean_any(output_at(URL))
    store.clock = timedelta(seconds=remote_lock.STALE_SECONDS - 20)
    with pytest.raises(LockedError):
        run()
    store.clock = timedelta(seconds=remote_lock.STALE_SECONDS + 20)
    assert status_of(output_at(URL)).state == "nothing"
    run()
    assert LOCK not in store.objects
    assert names(folder) == set()


def test_a_dead_process_of_this_machine_keeps_nobody_out(store, folder):
    lock_of(
        store, host=__import__("socket").gethostname(), machine=remote_lock._machine(), pid=2**22
    )
    run()
    assert store.names("deep/") == {f"o.zarr/{n}" for n in store.names(KEY)}


def test_two_runs_in_two_folders_do_not_meet(store, folder):
    first = RemoteStaging(output_at(URL, "a"), resume=True, watcher=Silent())
    with pytest.raises(LockedError, match="being written by process"):
        RemoteStaging(output_at(URL, "b"), resume=True, watcher=Silent())
    first.discard()
    RemoteStaging(output_at(URL, "b"), resume=True, watcher=Silent()).discard()
    assert store.objects == {}


class Together:
    """Lets those who settle go on once all have, or have given up: as if the time were enough."""

    def __init__(self, number):
        self.left, self.changed = number, threading.Condition()

    def settle(self):
        """Be counted as one that has settled."""
        with self.changed:
            self.left -= 1
            self.changed.notify_all()

    def wait(self):
        """Wait for the others."""
        with self.changed:
            assert self.changed.wait_for(lambda: not self.left, PATIENCE)


class Settling(threading.Event):
    """What a lock waits with: the first time for others who take it at once."""

    def __init__(self, together):
        super().__init__()
        self._together = together

    def settled(self):
        """Be counted, if that has not happened; tell whether it had not."""
        together, self._together = self._together, None
        if together is not None:
            together.settle()
        return together

    def wait(self, timeout=None):
        """Settle, or wait."""
        if together := self.settled():
            return together.wait()
        return super().wait(timeout)


@pytest.mark.parametrize("conditional", [True, False])
def test_of_many_who_find_a_stale_lock_one_wins(store, folder, conditional):
    store.conditional = conditional
    lock_of(store)
    store.clock = timedelta(seconds=remote_lock.STALE_SECONDS + 20)
    locks = [remote_lock.RemoteLock(output_at(URL, str(n)), str(n)) for n in range(6)]
    won, start, together = [], threading.Barrier(6), Together(6)

    def take(lock):
        lock._stop = Settling(together)
        start.wait()
        try:
            lock.acquire()
        except (LockedError, RunError):
            return
        finally:
            lock._stop.settled()
        won.append(lock)

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].check()
    won[0].release()


def test_a_lock_is_renewed_while_it_is_held(store, folder, monkeypatch):
    monkeypatch.setattr(remote_lock, "RENEWED_SECONDS", 0.02)
    with remote_lock.RemoteLock(output_at(URL), "mine"):
        first = store.objects[LOCK]
        wait_for(lambda: store.objects[LOCK] is not first)
    assert LOCK not in store.objects


def test_who_lost_the_lock_publishes_nothing(store, folder, stage):
    stage()
    store.fault = lambda method, key, n: (
        lock_of(store) if key.endswith("mask/0/zarr.json") else None
    )
    with pytest.raises(RunError, match="has been taken over by process 7 on far"):
        run()
    assert "lepton.json" not in store.names(KEY)
    assert LOCK in store.objects
