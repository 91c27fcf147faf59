"""Status, verify and clean of a result at a URL, and of an upload that was stopped."""

from __future__ import annotations

import pytest

from lepton_pipe.errors import RefusedError
from lepton_pipe.run.remote_look import clean_any, status_of, verify_any
from lepton_pipe.run.uploaded import arrived_count
from lepton_pipe.store import remote
from lepton_pipe.store.output import output_at
from tests.command import names
from tests.run.uploads.sending import KEY, URL, assert_published, killed_at, run, send


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
