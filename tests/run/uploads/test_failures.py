"""Stores and networks that fail while a result is sent: no other bytes than those made arrive."""

from __future__ import annotations

import threading

import pytest

from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.run import upload
from lepton_pipe.run.remote_look import status_of
from lepton_pipe.run.remote_staging import RemoteStaging
from lepton_pipe.store.output import output_at
from tests.run.uploads.sending import KEY, URL, assert_nothing_half, assert_published, run, send


@pytest.mark.parametrize("fault", [500, 503, "reset", "lost"])
def test_requests_that_fail_once_are_repeated(store, golden, folder, fault, stage):
    stage()
    store.fault = lambda method, key, n: (
        fault if n == 1 and method in ("PUT", "DELETE", "HEAD") else None
    )
    send()
    store.fault = lambda *_: None
    assert_published(store, golden, folder)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("etags", [True, False])
def test_what_arrives_is_compared_in_every_way_that_a_store_offers(
    store, golden, folder, checksums, etags, stage
):
    stage()
    store.checksums, store.plain_etags = checksums, etags
    store.fault = lambda method, key, n: (
        "flip" if method == "PUT" and key.startswith(KEY) and n < 3 else None
    )
    send()
    assert_published(store, golden, folder)


def test_a_store_that_keeps_other_bytes_is_told(store, golden, folder, stage):
    stage()
    store.checksums, broken = False, KEY + "mask/0/c/0/0/0"
    store.fault = lambda method, key, n: "flip" if (method, key) == ("PUT", broken) else None
    with pytest.raises(RunError, match=r"mask/0/c/0/0/0 could not be written .*tried 8 times"):
        send()
    assert_nothing_half(store, golden)
    store.fault = lambda *_: None
    send()
    assert_published(store, golden, folder)


@pytest.mark.parametrize("at", ["chunk", "metadata", "record"])
def test_a_network_that_is_down_ends_the_run_and_keeps_what_is_done(store, golden, folder, at):
    part = {"chunk": "/c/", "metadata": "objects/0/zarr.json", "record": "lepton.json"}[at]
    store.fault = lambda method, key, n: "reset" if method == "PUT" and part in key else None
    with pytest.raises(RunError, match=part):
        run()
    found = status_of(output_at(URL))
    assert found.state == "stopped"
    assert not found.published
    if at == "metadata":
        assert not any(k.endswith("zarr.json") for k in store.objects)
    assert all(s.done == s.blocks for s in found.stages)
    store.fault = lambda *_: None
    run()
    assert_published(store, golden, folder)


def test_a_staged_file_that_is_damaged_is_not_published_and_is_made_again(
    store, golden, folder, monkeypatch
):
    publish = RemoteStaging.publish

    def damaged(staging):
        chunk = staging.path / "mask/0/c/0/0/0"
        data = bytearray(chunk.read_bytes())
        data[7] ^= 1
        chunk.write_bytes(data)
        with Ledger.open(staging.path / ".lepton/ledger.sqlite") as ledger:
            ledger.mark_durable()  # so that the next run would not read it again by itself
        publish(staging)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStaging, "publish", damaged)
        with pytest.raises(DamagedError, match="mask/0/c/0/0/0 is not what was written"):
            run()
    assert "lepton.json" not in store.names(KEY)
    run()
    assert_published(store, golden, folder)


def test_what_is_in_memory_at_a_time_is_bounded():
    budget, most, now, lock = upload._Budget(100), [0], [0], threading.Lock()

    def use(size):
        with budget.taken(size):
            with lock:
                now[0] += size
                most[0] = max(most[0], now[0])
            threading.Event().wait(0.002)
            with lock:
                now[0] -= size

    threads = [threading.Thread(target=use, args=(n % 100 + 1,)) for n in range(0, 400, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 50 < most[0] <= 100
