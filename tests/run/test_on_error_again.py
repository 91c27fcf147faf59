"""Faults that are over soon, runs that are stopped with some, and input that is mended."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.kernels import gaussian, label, mean, otsu, regionprops
from lepton_pipe.report.progress import Silent
from lepton_pipe.store.chunked import ChunkedSource
from lepton_pipe.store.zarr_chunks import DirectChunks
from tests.run.faulty import BAD, CHUNKS, MODES, as_it_is, blobs, got, objects_of_all, run, stored
from tests.run.five import fingerprints


@pytest.fixture(scope="module")
def image():
    return blobs()


# -- what is over soon --------------------------------------------------------------------------


class Flaky(ChunkedSource):
    """A source of which some chunks cannot be read for a while."""

    failures: ClassVar = {}
    error: ClassVar = OSError
    tries: ClassVar = Counter()

    def _chunk(self, index):
        self.tries[index] += 1
        if self.tries[index] <= self.failures.get(index, 0):
            raise self.error(5, "the disk is tired")
        return np.full(self.chunks, 1 + sum(index), self.type.dtype)

    def _stamp(self, index):
        return index

    def identity(self):
        return {}


@pytest.fixture
def flaky(image, monkeypatch):
    monkeypatch.setattr("lepton_pipe.worker.faults.PAUSES", (0.001, 0.001))
    Flaky.tries = Counter()
    Flaky.error = OSError
    opened = lp.open_image(image)
    return Flaky("flaky", opened.type, CHUNKS)


@pytest.mark.parametrize("on_error", ["fail", *MODES])
def test_what_cannot_be_read_for_a_moment_is_tried_again(flaky, tmp_path, on_error):
    Flaky.failures = {(0, 0, 0): 2}
    report = run(as_it_is, flaky, tmp_path, on_error)
    assert report.quarantine == []
    assert got(report, "as_it_is")[0, 0, 0] == 2


def test_what_the_system_never_delivers_is_tried_three_times(flaky, tmp_path):
    Flaky.failures = {(0, 0, 0): 10**6}
    report = run(as_it_is, flaky, tmp_path, "skip")
    (found,) = report.quarantine
    assert found.attempts == 3
    assert "the disk is tired" in found.error
    assert (got(report, "as_it_is")[:4, :20, :16] == 0).all()


def test_what_will_not_come_back_is_tried_once(flaky, tmp_path):
    Flaky.failures, Flaky.error = {(0, 0, 0): 10**6}, FileNotFoundError
    with pytest.raises(RunError, match="the disk is tired"):
        run(as_it_is, flaky, tmp_path, "fail")
    assert Flaky.tries[0, 0, 0] == 1


# -- runs that are stopped, and input that is mended --------------------------------------------


class Stop(Silent):
    """Stops a run when a number of blocks have ended."""

    def __init__(self, after):
        self.left = after

    def tick(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def stopped(pipeline, raw, out, after):
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, raw, out, watcher=Stop(after))


@pytest.mark.parametrize("after", [1, 7, 20, 33])
def test_a_run_that_goes_on_ends_with_the_same_list(image, tmp_path, after):
    raw = stored(tmp_path, image)
    golden = run(objects_of_all, raw, tmp_path / "golden", "skip")
    stopped(objects_of_all, raw, tmp_path, after)
    report = run(objects_of_all, raw, tmp_path, "skip")
    assert [q.path for q in report.quarantine] == [q.path for q in golden.quarantine]
    files, wanted = fingerprints(tmp_path / "o"), fingerprints(tmp_path / "golden/o")
    del files["quarantine.json"], wanted["quarantine.json"]
    assert files == wanted


@pytest.mark.parametrize("after", [7, 50, 100])
def test_nothing_of_a_fault_stays_once_it_is_over(image, tmp_path, monkeypatch, after):
    raw = stored(tmp_path, image, [])
    golden = run(all_but_kernels, raw, tmp_path / "golden", "fail")
    with monkeypatch.context() as patched:
        patched.setattr(DirectChunks, "chunk", tired(DirectChunks.chunk))
        patched.setattr(DirectChunks, "chunk_into", tired(DirectChunks.chunk_into))
        stopped(all_but_kernels, raw, tmp_path, after)
    report = run(all_but_kernels, raw, tmp_path, "fail")  # no file has changed
    assert report.values == golden.values
    assert fingerprints(tmp_path / "o") == fingerprints(tmp_path / "golden/o")


def test_an_update_computes_what_lacked_something_and_nothing_else(image, tmp_path, monkeypatch):
    raw = stored(tmp_path, image, [])
    golden = run(as_it_is, raw, tmp_path / "golden", "fail")
    with monkeypatch.context() as patched:
        patched.setattr(DirectChunks, "chunk", tired(DirectChunks.chunk))
        patched.setattr(DirectChunks, "chunk_into", tired(DirectChunks.chunk_into))
        first = run(as_it_is, raw, tmp_path)
    assert len(first.quarantine) == len(BAD)
    counted = Stop(-1)
    report = run(as_it_is, raw, tmp_path, "fail", watcher=counted, update=True)
    assert report.quarantine == []
    assert fingerprints(tmp_path / "o") == fingerprints(tmp_path / "golden/o")
    lacking = {b for q in first.quarantine for b in q.blocks}
    assert -1 - counted.left == len(lacking) < sum(s.stats.blocks for s in golden.stages)


def test_an_update_with_the_fault_still_there_ends_with_the_same_list(image, tmp_path):
    raw = stored(tmp_path, image)
    first = run(objects_of_all, raw, tmp_path)
    before = fingerprints(tmp_path / "o")
    again = run(objects_of_all, raw, tmp_path, update=True)
    assert [(q.path, q.region) for q in again.quarantine] == [
        (q.path, q.region) for q in first.quarantine
    ]
    after = fingerprints(tmp_path / "o")
    del before["quarantine.json"], after["quarantine.json"]
    assert after == before


def tired(read):
    """Return a reading that fails for some chunks."""

    def fails(self, index, *more):
        if "raw.zarr" in self.where and tuple(index) in BAD:
            raise DamagedError("not today")
        return read(self, index, *more)

    return fails


@lp.pipeline
def all_but_kernels(raw: lp.Image):
    """Label what is bright, by a threshold of all."""
    smooth = gaussian(raw, sigma=0.5)
    found = label(smooth > otsu(smooth))
    return {"labels": found, "table": regionprops(found, raw), "mean": mean(raw)}
