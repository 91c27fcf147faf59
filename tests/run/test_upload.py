"""Results at URLs: nothing of them is seen before they are whole, whatever happens meanwhile."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import (
    DamagedError,
    LockedError,
    OutputExistsError,
    RefusedError,
    RunError,
    UsageError,
)
from lepton_pipe.kernels import label
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.report.progress import Silent
from lepton_pipe.run import remote_lock, upload
from lepton_pipe.run.remote_look import clean_any, status_of, verify_any
from lepton_pipe.run.remote_staging import RemoteStaging
from lepton_pipe.run.uploaded import arrived_count
from lepton_pipe.store import remote
from lepton_pipe.store.output import output_at
from tests.command import names
from tests.object_store import object_store
from tests.run import stopped

URL = "s3://bucket/deep/o.zarr"
KEY = "deep/o.zarr/"
LOCK = "deep/.o.zarr.lepton.lock"
IMAGE = np.random.default_rng(0).integers(0, 999, (3, 40, 50)).astype(np.uint16)


@lp.pipeline
def marked(raw: lp.Image, *, above: int = 500):
    """Make a mask, labels, and a value."""
    mask = raw > above
    return {"mask": mask, "objects": label(mask), "above": lp.kernels.mean(raw)}


class _StoppedError(RunError):
    pass


@pytest.fixture(scope="module")
def service():
    with object_store() as store:
        yield store


@pytest.fixture
def store(service, monkeypatch):
    """Give an empty store that this process uses; requests that fail are repeated at once."""
    service.__init__(service.port)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote_lock, "SETTLE_SECONDS", 0.05)
    return service


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give the current folder, an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(out=URL, chunks="y=16,x=16", **more):
    """Run the pipeline."""
    return marked.plan(raw=IMAGE, out=out, serial=True, chunks=chunks, **more).run(progress=False)


def stop_before_upload(**more):
    """Run up to the upload, and keep what is staged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteStaging, "publish", _stop)
        with pytest.raises(_StoppedError):
            run(**more)


def _stop(_staging):
    raise _StoppedError("before the upload")


@pytest.fixture(scope="module")
def prepared(service, tmp_path_factory):
    """Return a folder with what two runs of different plans have staged."""
    service.__init__(service.port)
    folder = tmp_path_factory.mktemp("staged")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment().items():
            patch.setenv(name, value)
        for name in ("usual", "other"):
            (folder / name).mkdir()
        stop_before_upload(staging=folder / "usual")
        stop_before_upload(staging=folder / "other", chunks="y=8,x=8", above=900)
    return folder


@pytest.fixture
def stage(prepared, folder):
    """Put what a run has staged, but not uploaded, into the current folder."""
    return lambda which="usual": shutil.copytree(prepared / which, folder, dirs_exist_ok=True)


def killed_at(step, act):
    """Act in a process that dies at a failpoint; its sockets were ours, so ours are of no use."""
    came = stopped.killed_at(step, act)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return came


def send():
    """Send what is staged."""
    staging = RemoteStaging(output_at(URL), resume=True, watcher=Silent())
    try:
        staging.publish()
    except BaseException:
        staging.keep()
        raise


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Return the files that the run publishes on a disk."""
    out = tmp_path_factory.mktemp("golden") / "o"
    run(out)
    files = (p for p in out.rglob("*") if p.is_file() and ".lepton" not in p.parts)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(files)}


def assert_published(store, golden, folder):
    """Assert that the whole result is there, and nothing else anywhere."""
    found = store.bytes(KEY)
    known = {n for n in found if n.startswith(".lepton/")}
    assert {n.split("/")[1] for n in known} == {"ledger.sqlite", "journal"}
    assert found.keys() - known == golden.keys()
    assert {n: found[n] for n in golden if n != "lepton.json"} == {
        n: d for n, d in golden.items() if n != "lepton.json"
    }
    assert store.names("") - {KEY + n for n in found} == set()
    assert store.parts == {}
    assert names(folder) == set()


def assert_nothing_half(store, golden):
    """Assert that what can be opened now is whole: an image, a table, the result."""
    there = store.names(KEY)
    for name in there:
        if name.endswith("zarr.json"):
            below = name.removesuffix("zarr.json")
            assert {n for n in golden if n.startswith(below)} <= there, name
    if "lepton.json" in there:
        assert golden.keys() <= there


# -- undisturbed -------------------------------------------------------------------------------


def test_a_result_is_uploaded_and_what_can_be_opened_is_whole_at_any_moment(store, golden, folder):
    store.fault = lambda *_: assert_nothing_half(store, golden)
    report = run()
    assert_published(store, golden, folder)
    sent = [key for method, key in store.requests if method == "PUT" and key.startswith(KEY)]
    assert len(sent) == len(set(sent))
    assert sent[-1] == KEY + "lepton.json"
    kinds = ["c" if "/c/" in k or ".lepton" in k else "open" for k in sent]
    assert kinds == sorted(kinds)
    assert report.path("mask") == f"{URL}/mask"
    mask = zarr.open_group(report.path("mask"), mode="r")["0"][:]
    np.testing.assert_array_equal(mask, IMAGE > 500)
    assert str(status_of(output_at(URL))) == f"{URL}: complete"
    found = verify_any(output_at(URL))
    assert found.whole
    assert found.files == len(golden)


def test_no_secret_is_kept_or_shown(store, folder, capsys):
    seen = []
    store.fault = lambda *_: seen.extend(t.data for t in store.objects.values())
    plan = marked.plan(raw=IMAGE, out=URL, serial=True)
    text = f"{plan}{json.dumps(plan.to_json())}{plan.run(progress=True)}".encode()
    told = capsys.readouterr()
    for data in (text, told.out.encode(), told.err.encode(), *set(seen)):
        assert b"very-secret" not in data
        assert b"AKIATESTKEY" not in data


def test_the_plan_says_where_it_is_staged(store, folder):
    plan = marked.plan(raw=IMAGE, out=URL, staging="wide", serial=True)
    assert f"the result is made in {folder}/wide, where it takes" in str(plan)
    plan.run(progress=False)
    assert "lepton.json" in store.names(KEY)
    assert names(folder) <= {"wide"}


def test_in_a_store_that_is_not_s3(folder):
    url = "memory://deep/m.zarr"
    try:
        run(url)
        assert verify_any(output_at(url)).whole
        assert str(status_of(output_at(url))) == f"{url}: complete"
        assert "nothing was removed" in str(clean_any(output_at(url)))
        with pytest.raises(OutputExistsError, match="exists already"):
            run(url)
        left = set(fsspec.filesystem("memory").find("/deep"))
        assert all(n.startswith("/deep/m.zarr/") for n in left)
    finally:
        fsspec.filesystem("memory").rm("/deep", recursive=True)
    assert names(folder) == set()


def test_large_files_are_sent_in_parts(store, golden, folder, monkeypatch, stage):
    stage()
    monkeypatch.setattr(upload, "WHOLE_BYTES", 300)
    monkeypatch.setattr(remote, "_PART_BYTES", 150)
    store.fault = lambda method, key, n: 500 if "/c/" in key and n == 2 else None
    with pytest.MonkeyPatch.context() as patch:
        # What a kill amid the parts leaves: they are in nobody's way, but have to be paid for.
        patch.setitem(store.parts, "left", (KEY + "mask/0/c/0/0/0", {1: b"some"}))
        send()
        assert "left" not in store.parts
        store.parts["left"] = ("", {})
    store.parts.clear()
    assert any(method == "POST" for method, _ in store.requests)
    assert_published(store, golden, folder)


# -- killed ------------------------------------------------------------------------------------

STEPS = (
    "remote-lock:1",
    *(f"upload:{n}" for n in range(1, 10)),
    *(f"object:{n}" for n in (1, 7, 30)),
    *(f"commit:{n}" for n in (1, 2, 3)),
)


@pytest.mark.parametrize("step", STEPS)
def test_after_a_kill_at_any_step_the_next_run_goes_on(store, golden, folder, step, stage):
    stage()
    assert killed_at(step, send)
    assert_nothing_half(store, golden)
    if step in ("commit:2", "commit:3"):
        assert status_of(output_at(URL)).state == "complete"
        with pytest.raises(OutputExistsError):
            send()
        clean_any(output_at(URL))
    else:
        assert status_of(output_at(URL)).state == "stopped"
        before = dict(store.objects)
        store.requests.clear()
        send()
        sent = {key for method, key in store.requests if method == "PUT" and "/c/" in key}
        kept = {k for k in before if "/c/" in k}
        # What had arrived without being noted is sent again: requests in flight.
        assert len(sent & kept) <= remote.CONNECTIONS
    assert_published(store, golden, folder)


def test_only_what_is_missing_is_sent_again(store, golden, folder, stage):
    stage()
    assert killed_at("upload:4", send)
    chunks = sorted(k for k in store.objects if "/c/" in k)
    del store.objects[chunks[3]]
    store.put(chunks[5], store.objects[chunks[5]].data[::-1])
    store.put(chunks[7], b"short")
    store.page = 3
    store.requests.clear()
    send()
    sent = {key for method, key in store.requests if method == "PUT" and "/c/" in key}
    assert sent == {chunks[3], chunks[5], chunks[7]}
    assert_published(store, golden, folder)


def test_another_plan_takes_the_place_of_what_was_sent(store, golden, folder, stage):
    stage("other")
    assert killed_at("upload:9", send)
    assert any(k.endswith("zarr.json") for k in store.objects)
    store.fault = lambda *_: assert_nothing_half(store, golden)
    run()
    assert_published(store, golden, folder)


def test_what_an_upload_left_is_removed_where_its_staging_is_lost(store, golden, folder, stage):
    stage("other")
    assert killed_at("upload:9", send)
    for lost in folder.iterdir():
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert "staged in" in str(status_of(output_at(URL)))
    stage()
    send()
    assert_published(store, golden, folder)


# -- failures ----------------------------------------------------------------------------------


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


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_is_never_overwritten(store, golden, folder, overwrite):
    run()
    with pytest.raises(OutputExistsError, match="never overwritten: choose another out="):
        run(overwrite=overwrite)
    assert_published(store, golden, folder)


def test_objects_of_others_are_left_alone(store, folder):
    store.put(KEY + "mine.txt", b"mine")
    with pytest.raises(OutputExistsError, match=r"did not put there \(mine\.txt\)"):
        run()
    assert "nothing was removed" in str(clean_any(output_at(URL)))
    assert store.names("") == {KEY + "mine.txt"}
    assert names(folder) == set()


def test_an_empty_folder_that_a_console_made_is_no_objection(store, folder):
    store.put(KEY, b"")
    run()
    assert "lepton.json" in store.names(KEY)


def test_what_cannot_be_written_to_is_refused_before_anything_runs(store, folder):
    store.fault = lambda method, *_: 403 if method == "PUT" else None
    with pytest.raises(RefusedError, match=r"\.lepton\.lock could not be created \(Permission"):
        run()
    store.fault = lambda *_: 403
    with pytest.raises(RefusedError, match="nothing was computed"):
        run()
    store.fault = lambda *_: None
    with pytest.raises(RefusedError, match="there is no such bucket"):
        run("s3://other/o.zarr")
    assert names(folder) == set()


def test_a_cluster_needs_a_folder_that_it_sees(store, folder):
    with pytest.raises(UsageError, match="name one that all of them see with staging="):
        marked.plan(raw=IMAGE, out=URL, scheduler="tcp://far:8786")


def test_an_input_is_not_published_into(store, folder):
    zarr.create_array("s3://bucket/deep/o.zarr/in", data=IMAGE)
    with pytest.raises(RefusedError, match="lie inside each other"):
        marked.plan(raw=f"{URL}/in", out=URL)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://bucket", "no name"),
        ("s3://bucket/", "no name"),
        ("s3://bucket/a/../b", "no name"),
        ("s3://me:secret@bucket/a", "no password"),
        ("s3://bucket/a?versionId=1", "no password, '?' or '#'"),
        ("http://host/a", "nothing can be written"),
        ("ftp://host/a", "are not opened"),
    ],
)
def test_addresses_that_are_no_place_for_a_result(url, told):
    with pytest.raises(UsageError) as caught:
        output_at(url)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_addresses_that_end_alike_are_staged_apart(folder):
    found = {output_at(u).local.name for u in (URL, "s3://bucket/o.zarr", "memory://o.zarr")}
    assert len(found) == 3
    assert output_at("file:///tmp/o") == Path("/tmp/o")  # noqa: S108
    assert output_at(f"{URL}/") == output_at(URL)


# -- one writer --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("conditional", [True, False])
def test_of_many_who_find_a_stale_lock_one_wins(store, folder, conditional):
    store.conditional = conditional
    lock_of(store)
    store.clock = timedelta(seconds=remote_lock.STALE_SECONDS + 20)
    locks = [remote_lock.RemoteLock(output_at(URL, str(n)), str(n)) for n in range(6)]
    won, start = [], threading.Barrier(6)

    def take(lock):
        start.wait()
        try:
            lock.acquire()
        except (LockedError, RunError):
            return
        won.append(lock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_lock, "SETTLE_SECONDS", 0.5)
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
        for _ in range(500):
            if store.objects[LOCK] is not first:
                break
            threading.Event().wait(0.01)
        assert store.objects[LOCK] is not first
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


# -- status, verify, clean ---------------------------------------------------------------------


def test_status_tells_how_far_an_upload_is(store, folder, stage):
    stage()
    assert killed_at("object:7", send)
    found = str(status_of(output_at(URL)))
    assert f"{URL}: stopped: 1 of 1 block" in found
    assert f"lepton-pipe clean {URL} to give it up" in found
    assert "note: an upload has begun: 7 objects have arrived" in found
    assert arrived_count(folder) == 0


def test_verify_reads_every_object(store, golden, folder):
    run()
    out = output_at(URL)
    store.put(KEY + "extra", b"")
    chunk = next(n for n in golden if "/c/" in n)
    for name in (chunk, "mask/zarr.json"):
        before = store.objects[KEY + name]
        store.put(KEY + name, before.data[:-1] + b"\0")
        assert verify_any(out).changed == (name,)
        del store.objects[KEY + name]
        found = verify_any(out)
        assert (found.missing, found.extra) == ((name,), ("extra",))
        assert not found.whole
        store.objects[KEY + name] = before
    assert verify_any(out).whole
    del store.objects[KEY + ".lepton/ledger.sqlite"]
    with pytest.raises(RefusedError, match="make the result anew"):
        verify_any(out)
    with pytest.raises(RefusedError, match="no result of lepton_pipe"):
        verify_any(output_at("s3://bucket/nothing"))


@pytest.mark.parametrize("part", [1 << 24, 64, 7])
def test_objects_of_another_length_are_told(store, golden, folder, stage, monkeypatch, part):
    stage()
    send()
    monkeypatch.setattr(remote, "_PART_BYTES", part)
    name = next(n for n in golden if "/c/" in n and len(golden[n]) > 64)
    for data in (b"", golden[name][:63], golden[name][:64], golden[name] + b"\0"):
        store.put(KEY + name, data)
        assert verify_any(output_at(URL)).changed == (name,)


@pytest.mark.parametrize("step", ["object:7", "upload:8"])
def test_clean_gives_a_stopped_upload_up(store, folder, step, stage):
    stage()
    assert killed_at(step, send)
    told = str(clean_any(output_at(URL)))
    assert f"objects at {URL}" in told
    assert store.objects == {}
    assert names(folder) == set()
    assert "nothing was removed" in str(clean_any(output_at(URL)))


def test_clean_never_touches_a_result(store, golden, folder):
    run()
    clean_any(output_at(URL))
    assert_published(store, golden, folder)
