"""Results at URLs: nothing of them is seen before they are whole, and a killed run goes on."""

from __future__ import annotations

import json
import shutil

import fsspec
import numpy as np
import pytest
import zarr

from lepton_pipe.errors import OutputExistsError
from lepton_pipe.run import upload
from lepton_pipe.run.remote_look import clean_any, status_of, verify_any
from lepton_pipe.store import remote
from lepton_pipe.store.output import output_at
from tests.command import names
from tests.run.uploads.sending import (
    IMAGE,
    KEY,
    URL,
    assert_nothing_half,
    assert_published,
    killed_at,
    marked,
    run,
    send,
)

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
