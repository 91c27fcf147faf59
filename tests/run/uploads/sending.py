"""A pipeline whose result is uploaded, uploads that are broken off, and what a store must hold."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest

import lepton_pipe as lp
from lepton_pipe.errors import RunError
from lepton_pipe.kernels import label
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.remote_staging import RemoteStaging
from lepton_pipe.store.output import output_at
from tests.command import names
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
