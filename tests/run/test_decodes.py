"""Each stage decodes each chunk of what it reads once, or hardly more often: counted, not timed."""

from __future__ import annotations

from collections import Counter
from math import prod

import numpy as np
import pytest
import zarr
from psutil import Process
from scipy.ndimage import gaussian_filter

import lepton_pipe as lp
from lepton_pipe.geometry import Blocks
from lepton_pipe.kernels import gaussian, label, otsu, regionprops
from lepton_pipe.plan.traffic import read_chunks
from lepton_pipe.store import zarr_chunks
from tests.command import names
from tests.run.five import fingerprints

SHAPE, CHUNKS = (64, 256, 256), (16, 64, 64)
MOST = 1.1


@lp.pipeline
def segment(raw: lp.Image):
    """Smooth, threshold, label, measure: two stages and more that read the image."""
    smooth = gaussian(raw, sigma=2)
    labels = label(smooth > otsu(smooth))
    return {"labels": labels, "table": regionprops(labels, raw)}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    noise = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 4)
    blobs = (60_000 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint16)
    path = tmp_path_factory.mktemp("image") / "raw.zarr"
    zarr.create_array(str(path), data=blobs, chunks=CHUNKS)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """How often each chunk of each array was decoded."""
    times: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def counting(of):
        def decode(self, index, *out):
            times[self.where, tuple(index)] += 1
            return of(self, index, *out)

        return decode

    for name in ("chunk", "chunk_into"):
        of = getattr(zarr_chunks.DirectChunks, name)
        monkeypatch.setattr(zarr_chunks.DirectChunks, name, counting(of))
    return times


@pytest.mark.parametrize("keep", ["auto", "memory", "disk"])
@pytest.mark.parametrize("way", [{"serial": True}, {"threads": 2}])
def test_a_stage_decodes_a_chunk_once(tmp_path, image, decoded, way, keep):
    plan = segment.plan(raw=image, out=tmp_path / "o", memory="1GiB", keep=keep, levels=1, **way)
    plan.run(progress=False)
    readings = Counter(
        str(image) if r.array is None else r.array for s in plan.data.stages for r in s.reads
    )
    assert len(plan.data.stages) > 2
    assert readings[str(image)] > 1
    for name, times in readings.items():
        found = {chunk: n for (where, chunk), n in decoded.items() if name in where}
        assert found, name
        assert sum(found.values()) <= MOST * times * len(found), name
    assert len([1 for where, _ in decoded if where == str(image)]) == prod(
        n // c for n, c in zip(SHAPE, CHUNKS, strict=True)
    )


def chunks_of(plan, read):
    """Return the number of chunks of what is read."""
    shape = plan.spec.image_type(read.step).grid.shape
    return len(Blocks(shape, read_chunks(read, plan.arrays, plan.inputs)))


@pytest.mark.parametrize("workers", [2, 3])
def test_several_processes_decode_a_chunk_once_between_them(tmp_path, image, workers):
    tests = Process().memory_info().rss  # of what ran before, which is none of the run's
    ways = {"here": {"serial": True}, "there": {"workers": workers, "threads": 1}}
    for name, way in ways.items():
        plan = segment.plan(raw=image, out=tmp_path / name, memory="2GiB", levels=1, **way)
        report = plan.run(progress=False)
    assert fingerprints(tmp_path / "here") == fingerprints(tmp_path / "there")
    assert report.peak_bytes - tests <= report.planned_bytes
    shared = 0
    for done, stage in zip(report.stages, plan.data.stages, strict=True):
        chunks = sum(chunks_of(plan.data, read) for read in stage.reads)
        decoded = done.stats.tiers["decoded"]
        assert decoded.misses <= MOST * chunks, stage.name
        shared += decoded.hits
    assert shared
    assert names(tmp_path) == {"here", "there"}
