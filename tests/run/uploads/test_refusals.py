"""Places at which no result can or may be published, refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr

from lepton_pipe.errors import OutputExistsError, RefusedError, UsageError
from lepton_pipe.run.remote_look import clean_any
from lepton_pipe.store.output import output_at
from tests.command import names
from tests.run.uploads.sending import IMAGE, KEY, URL, assert_published, marked, run


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
