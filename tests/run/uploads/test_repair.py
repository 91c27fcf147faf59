"""A result at a URL is repaired where it is: damaged objects are replaced, and nothing else."""

from __future__ import annotations

import shutil

import fsspec
import pytest

from lepton_pipe.catalogue import find_pipeline
from lepton_pipe.errors import LockedError, RefusedError, RunError
from lepton_pipe.repair import repair
from lepton_pipe.run.remote_lock import RemoteLock
from lepton_pipe.run.remote_look import verify_any
from lepton_pipe.store.output import output_at
from tests.command import lepton, names
from tests.run import stopped
from tests.run.updated import Bench
from tests.run.uploads.sending import KEY, URL

ARRAY = KEY + "objects/0/"


@pytest.fixture(scope="module")
def made(service, tmp_path_factory):
    """Return a bench whose result is at the URL, and the objects there."""
    bench = Bench(tmp_path_factory.mktemp("made"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment().items():
            patch.setenv(name, value)
        bench.plan("objects", URL, staging=bench.folder, times=1.1).run(progress=False)
    return bench, dict(service.objects)


@pytest.fixture
def store(store, made):
    """Give a store that holds the result."""
    store.objects.update(made[1])
    return store


@pytest.fixture
def started(made):
    """Return the blocks that were started since the test began."""
    file = made[0].folder / "started"
    file.write_text("")
    return lambda: file.read_text().splitlines()


def mine(made):
    return find_pipeline(f"{made[0].file}:objects")


def repaired(made, **more):
    said: list[str] = []
    more = {"pipeline": mine(made), **more}
    return repair(URL, say=said.append, progress=False, **more), "\n".join(said)


def flip(store, key):
    data = bytearray(store.objects[key].data)
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def chunks(store):
    return sorted(k for k in store.objects if k.startswith(ARRAY + "c/"))


def same(store, made):
    """Tell whether the store holds what it held when the result was made, and nothing else."""
    return {k: t.data for k, t in store.objects.items()} == {k: t.data for k, t in made[1].items()}


def test_only_what_is_damaged_is_computed_and_sent(store, made, folder, started):
    damaged = chunks(store)[0]
    flip(store, damaged)
    store.requests.clear()
    found, said = repaired(made)
    assert found.whole
    assert f"to repair {URL}, this is run: " in said
    assert f"changed: {damaged.removeprefix(KEY)}" in said
    assert same(store, made)
    assert {k for m, k in store.requests if m == "PUT" and k.startswith(KEY)} == {damaged}
    assert 0 < len(started()) < 17
    assert names(folder) == set()


@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_every_kind_of_object_is_made_again(store, made, folder, how):
    kinds = ["objects/zarr.json", "objects/0/zarr.json", "table.parquet", "values.json"]
    for key in [*(KEY + k for k in kinds), KEY + "lepton.json", *chunks(store)[-2:]]:
        store.objects.pop(key) if how == "gone" else flip(store, key)
    store.put(KEY + "notes.txt", b"whose?")
    found, _ = repaired(made)
    assert (found.whole, found.extra) == (True, ("notes.txt",))
    assert store.objects.pop(KEY + "notes.txt").data == b"whose?"
    assert same(store, made)
    assert names(folder) == set()


def test_all_chunks_at_once(store, made, folder):
    for key in chunks(store):
        del store.objects[key]
    assert repaired(made)[0].whole
    assert same(store, made)


def test_the_record_alone_is_put_back_and_nothing_is_computed(store, made, folder, started):
    del store.objects[KEY + "lepton.json"]
    assert verify_any(output_at(URL)).missing == ("lepton.json",)
    assert repaired(made)[0].whole
    assert same(store, made)
    assert started() == []


def test_what_is_left_alone_is_removed_and_what_is_whole_stays(store, made, folder, started):
    store.put(KEY + "objects/0/c/7/7/7", b"ours")
    assert not repaired(made)[0].leftover
    assert same(store, made)
    store.requests.clear()
    assert repaired(made)[0].whole
    assert {m for m, _ in store.requests} <= {"GET", "HEAD"}
    assert started() == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_repair_that_is_killed_is_done_by_the_next(store, made, folder, number):
    for key in [*chunks(store)[:2], KEY + "objects/0/zarr.json"]:
        flip(store, key)
    pipeline = mine(made)

    def act():
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        repair(URL, pipeline=pipeline, say=lambda _: None, progress=False)

    assert stopped.killed_at(f"mend:{number}", act)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert repaired(made)[0].whole
    assert same(store, made)
    assert names(folder) == set()


def test_a_store_that_refuses_keeps_what_is_whole(store, made, folder):
    for key in chunks(store)[:3]:
        flip(store, key)
    store.fault = lambda method, key, n: 403 if method == "PUT" and "/c/" in key else None
    with pytest.raises(RunError, match="could not be written"):
        repaired(made)
    store.fault = lambda *_: None
    assert len(verify_any(output_at(URL)).changed) == 3
    assert names(folder) == set()
    assert repaired(made)[0].whole
    assert same(store, made)


def test_another_input_is_refused_and_the_result_is_as_it_was(store, made, folder, tmp_path):
    flip(store, chunks(store)[0])
    before = dict(store.objects)
    bench = made[0]
    kept = shutil.copytree(bench.folder / "raw.zarr", tmp_path / "kept")
    try:
        bench.change_chunk((0, 0, 0))
        with pytest.raises(RefusedError, match=f"{URL} cannot be repaired"):
            repaired(made)
    finally:
        shutil.rmtree(bench.folder / "raw.zarr")
        shutil.copytree(kept, bench.folder / "raw.zarr")
    assert store.objects == before


def test_it_is_refused_while_another_process_writes(store, made, folder):
    flip(store, chunks(store)[0])
    other = RemoteLock(output_at(URL, folder / "elsewhere"), "another")
    with other, pytest.raises(LockedError, match="is being written by"):
        repaired(made)
    assert names(folder) == set()


def test_a_file_that_the_url_names_is_not_run_unasked(store, made, folder, started):
    flip(store, chunks(store)[0])
    with pytest.raises(RefusedError, match=r"not run unasked: say --pipeline .*mine.py:objects"):
        repaired(made, pipeline=None)
    assert started() == []
    words = ("verify", URL, "--repair", "--pipeline", f"{made[0].file}:objects")
    done = lepton(*words, "--staging", "s", cwd=folder, **store.environment())
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout
    assert same(store, made)


def test_an_upload_that_was_stopped_is_no_damaged_result(store, made, folder):
    del store.objects[KEY + "lepton.json"]
    store.put(KEY + ".lepton/upload.json", b"{}")
    with pytest.raises(RefusedError, match="no result of lepton_pipe"):
        repaired(made)
