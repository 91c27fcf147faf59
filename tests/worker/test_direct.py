"""Images that are read straight to a GPU have the voxels that they have by way of the host."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import lepton_pipe as lp
from lepton_pipe.device import device_count
from lepton_pipe.device.lanes import Lane
from lepton_pipe.errors import DamagedError, DeviceLostError, RefusedError
from lepton_pipe.geometry import Region
from lepton_pipe.kernels import astype, gaussian, mean, project
from lepton_pipe.store import open_source
from lepton_pipe.store.chunked import touched
from lepton_pipe.worker.direct import is_direct, read_direct
from tests.fake_device import fake_cupy
from tests.fake_kvikio import fake_kvikio
from tests.fake_memory import DEVICE

SHAPE, CHUNKS = (11, 23, 30), (4, 8, 16)
PLAIN = {
    "chunks": {},
    "one chunk": {"chunks": SHAPE},
    "planes": {"chunks": (3, 23, 30)},
    "shards": {"shards": (8, 16, 32)},
    "bytes": {"dtype": "uint8"},
    "masks": {"dtype": "bool"},
    "floats": {"dtype": "float64", "shards": (4, 24, 32)},
    "version 2": {"zarr_format": 2},
}


def stored(path, *, dtype="uint16", missing=(), compressors=None, **more):
    """Store noise without codecs, and return it."""
    image = np.random.default_rng(5).integers(0, 2 if dtype == "bool" else 200, SHAPE)
    image = image.astype(dtype)
    array = zarr.create_array(
        str(path), shape=SHAPE, dtype=dtype, compressors=compressors, **{"chunks": CHUNKS, **more}
    )
    array[...] = image
    for key in missing:
        (path / key).unlink()
    return image


@pytest.fixture
def gpu():
    with fake_cupy() as traffic, fake_kvikio() as files:
        traffic.files = files
        yield traffic


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for number, more in enumerate(PLAIN.values()):
        stored(folder / f"{number}.zarr", **more)
    # Chunks that were never written: zarr leaves out those of fill values.
    stored(folder / "sparse.zarr", missing=["c/0/0/0", "c/2/1/1"])
    zarr.create_array(
        str(folder / "holes.zarr"),
        shape=SHAPE,
        chunks=CHUNKS,
        shards=(8, 16, 32),
        dtype="int32",
        compressors=None,
        fill_value=7,
    )[5:9, 3:20, 20:] = 3
    names = [*(f"{n}.zarr" for n in range(len(PLAIN))), "sparse.zarr", "holes.zarr"]
    return [open_source(folder / name, sparse=name[0] in "sh") for name in names]


REGION = st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)) for n in SHAPE)).map(
    lambda ends: Region(*zip(*(sorted(e) for e in ends), strict=True))
)


@given(number=st.integers(0, len(PLAIN) + 1), region=REGION.filter(lambda r: r.size))
def test_a_region_read_straight_is_the_one_read_by_the_host(arrays, number, region):
    source = arrays[number]
    assert is_direct(source)
    with fake_cupy() as traffic, fake_kvikio() as files:
        lane = Lane()
        with lane.entered():
            DEVICE.most = DEVICE.used
            made, straight = read_direct(lane, source, region)
            chunk = np.prod(source.chunks) * source.type.dtype.itemsize
            assert DEVICE.most <= made.nbytes + 2 * chunk
            back = lane.bring_back(made)
        np.testing.assert_array_equal(back, source.read(region))
        assert straight == files.read_bytes
        if number < len(PLAIN):
            alone, every = mostly_wanted(source, region), list(touched(region, source.chunks))
            assert straight == chunk * len(alone)
            assert len(traffic.to_device) == len(every) - len(alone)


def mostly_wanted(source, region):
    """Return the chunks of which a region has at least half."""
    wanted = np.zeros(SHAPE, bool)
    wanted[region.slices] = True
    cut = {i: wanted[source.region_of(i).slices] for i in touched(region, source.chunks)}
    return [index for index, part in cut.items() if 2 * part.sum() >= part.size]


@pytest.mark.parametrize(
    "more",
    [
        {"compressors": "auto"},
        {"compressors": [zarr.codecs.Crc32cCodec()]},
        {"compressors": [zarr.codecs.ZstdCodec()]},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]},
        {"zarr_format": 2, "order": "F"},
    ],
    ids=str,
)
def test_what_is_stored_in_another_way_is_not_read_straight(tmp_path, more):
    stored(tmp_path / "raw.zarr", **more)
    assert not is_direct(open_source(tmp_path / "raw.zarr"))


def test_axes_in_another_order_are_not_read_straight(tmp_path):
    stored(tmp_path / "raw.zarr")
    assert not is_direct(open_source(tmp_path / "raw.zarr", axes="xyz"))


def test_our_own_arrays_have_checksums_and_are_not_read_straight(tmp_path):
    image = np.zeros(SHAPE, np.uint16)
    smoothed.plan(raw=image, out=tmp_path / "out.zarr").run()
    assert not is_direct(open_source(tmp_path / "out.zarr" / "smooth"))


def _raise(error):
    def fault(file):
        raise error

    return fault


# -- what goes wrong --------------------------------------------------------------------------


def _read_all(source):
    lane = Lane()
    with lane.entered():
        made, straight = read_direct(lane, source, source.type.grid.region)
        return lane.bring_back(made), straight


def test_what_kvikio_cannot_read_goes_by_the_host(tmp_path, gpu):
    image = stored(tmp_path / "raw.zarr")
    chunk = 2 * np.prod(CHUNKS)
    gpu.files.faults.extend([_raise(RuntimeError("cuFile internal error")), lambda f: None])
    back, straight = _read_all(open_source(tmp_path / "raw.zarr"))
    np.testing.assert_array_equal(back, image)
    assert straight == (3 * 3 * 2 - 1) * chunk
    assert len(gpu.to_device) == 1


def test_a_short_read_is_not_believed(tmp_path, gpu, monkeypatch):
    image = stored(tmp_path / "raw.zarr", shards=(12, 24, 32))
    read = gpu.files.read

    def cut(self, buf, file_offset=0):
        return read(self, buf[:1], 10, file_offset)

    monkeypatch.setattr(gpu.files, "read", cut)
    back, straight = _read_all(open_source(tmp_path / "raw.zarr"))
    np.testing.assert_array_equal(back, image)
    assert straight == 0


def test_a_file_that_was_replaced_before_it_was_read_is_looked_at_anew(tmp_path, gpu, monkeypatch):
    stored(tmp_path / "raw.zarr")
    source, opened = open_source(tmp_path / "raw.zarr"), gpu.files.__init__

    def replaced(self, path):
        new = Path(path).with_suffix(".new")
        new.write_bytes(b"\1" * Path(path).stat().st_size)
        new.replace(path)
        opened(self, path)

    monkeypatch.setattr(gpu.files, "__init__", replaced)
    back, straight = _read_all(source)
    assert straight == 0
    assert (back == 257).all()


@pytest.mark.parametrize("shards", [None, (8, 16, 32)])
def test_damage_is_told_as_ever(tmp_path, gpu, shards):
    stored(tmp_path / "raw.zarr", shards=shards)
    file = tmp_path / "raw.zarr" / "c" / "1" / "0" / "0"
    whole = file.read_bytes()
    source = open_source(tmp_path / "raw.zarr")
    for broken in (b"", whole[:-1], whole[:7], whole + b"more", None):
        file.unlink() if broken is None else file.write_bytes(broken)
        for read in (_read_all, lambda s: s.read(s.type.grid.region)):
            with pytest.raises(DamagedError, match=r"chunk|damaged|c/1/0/0"):
                read(source)
    shutil.rmtree(tmp_path / "raw.zarr")
    with pytest.raises(DamagedError, match="gone"):
        _read_all(source)


def test_a_context_that_is_lost_while_reading_is_told_as_that(tmp_path, gpu):
    stored(tmp_path / "raw.zarr")
    for at in range(1, 40, 5):
        with fake_cupy():
            DEVICE.lose_at = at
            with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
                _read_all(open_source(tmp_path / "raw.zarr"))


# -- whole runs -------------------------------------------------------------------------------


@lp.pipeline
def smoothed(raw: lp.Image):
    """Filter, project along an axis, and reduce."""
    smooth = gaussian(raw, sigma=1.0)
    return {"smooth": astype(smooth, "float32"), "top": project(raw, "z", "max"), "m": mean(raw)}


def run(folder, name, **more):
    plan = smoothed.plan(
        raw=folder / "raw.zarr",
        out=folder / name,
        device="gpu",
        device_memory="64MiB",
        memory="2GiB",
        threads=3,
        levels=1,
        chunks={"z": 4, "y": 16, "x": 16},
        **more,
    )
    return plan, plan.run()


@pytest.mark.parametrize("more", [{}, {"shards": (8, 16, 32)}], ids=["chunks", "shards"])
def test_a_run_publishes_the_same_bytes(tmp_path, gpu, more):
    stored(tmp_path / "raw.zarr", **more)
    usual_plan, usual = run(tmp_path, "usual.zarr")
    assert gpu.files.read_bytes == 0
    assert sum(s.stats.bytes_direct for s in usual.stages) == 0
    gpu.clear()
    DEVICE.most = 0
    plan, direct = run(tmp_path, "direct.zarr", device_direct=True)
    before, need = ([s["device_bytes"] for s in p.to_json()["stages"]] for p in (usual_plan, plan))
    assert [b - a for a, b in zip(before, need, strict=True)] == [4 * np.prod(CHUNKS)] * len(need)
    assert "raw read straight to it" in " ".join(str(plan).split())
    assert plan.to_json()["resources"]["device_direct"] is True
    assert DEVICE.most <= plan.to_json()["device_peak_bytes"]
    assert sum(s.stats.bytes_direct for s in direct.stages) == gpu.files.read_bytes > 0
    assert direct.values == usual.values
    for name in ("smooth", "top"):
        a, b = (_files(tmp_path / out / name) for out in ("usual.zarr", "direct.zarr"))
        assert a == b


def _files(folder):
    found = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    return {n: p.read_bytes() for n, p in found.items() if p.name != "zarr.json"}


def test_what_is_packed_goes_by_the_host_and_the_plan_says_so(tmp_path, gpu):
    stored(tmp_path / "raw.zarr", compressors="auto")
    plan, report = run(tmp_path, "out.zarr", device_direct=True)
    assert "no input read straight to it" in " ".join(str(plan).split())
    assert sum(s.stats.bytes_direct for s in report.stages) == gpu.files.read_bytes == 0


def test_where_something_may_be_missing_images_go_by_the_host(tmp_path, gpu):
    stored(tmp_path / "raw.zarr", missing=["c/1/0/0"])
    for name, asked in (("usual.zarr", False), ("direct.zarr", True)):
        _, report = run(tmp_path, name, device_direct=asked, on_error="fill")
        assert gpu.files.read_bytes == 0
        assert len(report.quarantine) == 1
    assert _files(tmp_path / "usual.zarr" / "top") == _files(tmp_path / "direct.zarr" / "top")


def test_it_is_refused_where_it_cannot_be_had(tmp_path, monkeypatch):
    stored(tmp_path / "raw.zarr")
    with fake_cupy():
        assert device_count() == 1
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(RefusedError, match="kvikio-cu12") as refused:
            run(tmp_path, "out.zarr", device_direct=True)
    for word in ("--device-direct", "is not installed", "leave it out"):
        assert word in str(refused.value)
    with pytest.raises(RefusedError, match="kernels run on the cores"):
        str(smoothed.plan(raw=tmp_path / "raw.zarr", out="o", device="cpu", device_direct=True))
