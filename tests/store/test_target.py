"""Writing: alignment, interoperability, damage, durability."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models import open_ome_zarr
from yaozarrs import validate_zarr_store

from lepton_pipe.errors import DamagedError, RunError, WriteError
from lepton_pipe.geometry import Blocks, Grid, Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import (
    ArrayTarget,
    Layout,
    create_image,
    create_scratch,
    open_source,
    remove_partials,
    sync_tree,
)
from lepton_pipe.store.source import handles
from tests.store.conftest import pixels

GRID = Grid.of(
    (2, 9, 40, 53),
    "czyx",
    scale=(1, 2.5, 0.5, 0.25),
    unit="micrometer",
    translation=(0, 10, 20, 30),
)


def _image(path, kind, *, shards=None, chunks=(1, 4, 16, 16)):
    half = GRID.coarsen((1, 1, 2, 2))
    levels = [Layout(GRID, chunks, shards), Layout(half, chunks, shards)]
    create_image(path, "made", kind, levels)
    for index, level in enumerate(levels):
        target = ArrayTarget(path, index)
        unit = level.shards or level.chunks
        for region in Blocks(level.grid.shape, unit):
            target.write(region, _values(kind, level)[region.slices])
    return levels


def _values(kind, level):
    return pixels(level.grid.shape, kind.dtype, seed=3)


KINDS = {
    "image": ImageType(GRID, np.dtype("uint16")),
    "labels": ImageType(GRID, np.dtype("int64"), "labels"),
    "float": ImageType(GRID, np.dtype("float32")),
    "mask": ImageType(GRID, np.dtype("bool"), "mask"),
}
SHARDS = [None, (1, 8, 32, 32)]


@pytest.mark.parametrize("shards", SHARDS, ids=["chunks", "shards"])
@pytest.mark.parametrize("name", KINDS)
def test_others_read_what_we_write(tmp_path, name, shards):
    kind = KINDS[name]
    path = tmp_path / "made"
    levels = _image(path, kind, shards=shards)
    whole = _values(kind, levels[0])

    validate_zarr_store(str(path))
    model = open_ome_zarr(zarr.open_group(path, mode="r"))
    assert type(model).__name__ == ("ImageLabel" if name == "labels" else "Image")

    node = next(iter(Reader(parse_url(str(path)))()))
    np.testing.assert_array_equal(node.data[0].compute(), whole)
    assert len(node.data) == 2

    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["0"][:], whole)

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}}
    store = tensorstore.open(spec).result()
    np.testing.assert_array_equal(store.read().result(), whole)
    assert store.domain.labels == GRID.axes


@pytest.mark.parametrize("name", KINDS)
def test_axes_scale_unit_and_kind_come_back(tmp_path, name):
    _image(tmp_path / "made", KINDS[name])
    first = open_source(tmp_path / "made")
    assert first.type == KINDS[name]
    half = open_source(tmp_path / "made", level=1)
    assert half.type.grid == GRID.coarsen((1, 1, 2, 2))
    inside = open_source(tmp_path / "made" / "1")
    assert inside.type == half.type


def test_scratch_brings_its_type_back(tmp_path):
    for name, kind in KINDS.items():
        create_scratch(tmp_path / name, kind, (1, 3, 20, 20))
        assert ArrayTarget(tmp_path / name, None).source().type == kind


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ((0, 0), (4, 16)),
        ((2, 0), (8, 16)),
        ((0, 0), (10, 17)),
        ((0, 0), (12, 16)),
        ((8, 0), (8, 5)),
    ],
)
def test_a_region_that_cuts_a_chunk_is_refused(tmp_path, start, stop):
    kind = ImageType(Grid.of((10, 20)), np.dtype("uint8"))
    create_image(tmp_path / "o", "o", kind, [Layout(kind.grid, (4, 8), (8, 16))])
    region = Region(start, stop)
    with pytest.raises(ValueError, match="whole write units"):
        ArrayTarget(tmp_path / "o").write(region, np.ones(region.shape, "uint8"))
    assert not list((tmp_path / "o/0").rglob("c/*"))


def test_another_dtype_or_shape_is_refused(tmp_path):
    create_scratch(tmp_path / "s", ImageType(Grid.of((8, 8)), np.dtype("uint8")), (4, 4))
    target = ArrayTarget(tmp_path / "s", None)
    region = Region((0, 0), (4, 4))
    with pytest.raises(ValueError, match="uint8"):
        target.write(region, np.zeros((4, 4), "uint16"))
    with pytest.raises(ValueError, match="takes"):
        target.write(region, np.zeros((4, 3), "uint8"))


def test_a_target_that_is_gone_is_an_error(tmp_path):
    create_scratch(tmp_path / "s", ImageType(Grid.of((4, 4)), np.dtype("uint8")), (4, 4))
    target = ArrayTarget(tmp_path / "s", None)
    target.write(Region((0, 0), (4, 4)), np.ones((4, 4), "uint8"))
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(RunError, match="gone"):
        target.write(Region((0, 0), (4, 4)), np.ones((4, 4), "uint8"))
    with pytest.raises(RunError, match="read back"):
        target.source()


def test_an_array_made_anew_at_the_same_place_is_seen(tmp_path):
    for dtype in ("uint8", "float32"):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        create_scratch(tmp_path / "s", ImageType(Grid.of((4, 4)), np.dtype(dtype)), (2, 2))
        target = ArrayTarget(tmp_path / "s", None)
        target.write(Region((0, 0), (4, 4)), np.full((4, 4), 7, dtype))
        assert (target.source().read(Region((0, 0), (4, 4))) == np.full((4, 4), 7, dtype)).all()


@pytest.mark.parametrize("shards", SHARDS, ids=["chunks", "shards"])
def test_chunks_of_fill_values_are_written(tmp_path, shards):
    kind = KINDS["image"]
    create_image(tmp_path / "o", "o", kind, [Layout(GRID, (1, 4, 16, 16), shards)])
    target = ArrayTarget(tmp_path / "o")
    target.write(GRID.region, np.zeros(GRID.shape, kind.dtype))
    unit = shards or (1, 4, 16, 16)
    files = [p for p in (tmp_path / "o/0/c").rglob("*") if p.is_file()]
    assert len(files) == len(Blocks(GRID.shape, unit))
    assert not target.source().read(GRID.region).any()


@pytest.mark.parametrize("shards", SHARDS, ids=["chunks", "shards"])
def test_every_flipped_bit_is_found(tmp_path, shards):
    kind = KINDS["image"]
    _image(tmp_path / "made", kind, shards=shards)
    source = ArrayTarget(tmp_path / "made").source()
    files = sorted(p for p in (tmp_path / "made/0/c").rglob("*") if p.is_file())
    rng = np.random.default_rng(5)
    missed, messages = [], []
    for _ in range(60):
        path = files[rng.integers(len(files))]
        good = path.read_bytes()
        bit = int(rng.integers(len(good) * 8))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            source.read(GRID.region)
            missed.append((path.name, bit))
        except DamagedError as error:
            messages.append(str(error))
        path.write_bytes(good)
    assert missed == []
    assert all("made/0" in m and str(GRID.region) in m for m in messages)
    np.testing.assert_array_equal(
        source.read(GRID.region), _values(kind, Layout(GRID, (1, 4, 16, 16)))
    )


def test_flipped_bits_in_scratch_are_found(tmp_path):
    kind = ImageType(Grid.of((30, 30)), np.dtype("float32"))
    create_scratch(tmp_path / "s", kind, (30, 30))
    target = ArrayTarget(tmp_path / "s", None)
    target.write(kind.grid.region, np.zeros((30, 30), "float32"))
    (chunk,) = (p for p in (tmp_path / "s/c").rglob("*") if p.is_file())
    good = chunk.read_bytes()
    for bit in range(0, len(good) * 8, 3):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        chunk.write_bytes(bad)
        with pytest.raises(DamagedError):
            target.source().read(kind.grid.region)


@pytest.mark.parametrize("shards", SHARDS, ids=["chunks", "shards"])
@pytest.mark.parametrize("harm", ["deleted", "emptied", "cut"])
def test_a_missing_or_torn_chunk_is_damage(tmp_path, shards, harm):
    _image(tmp_path / "made", KINDS["labels"], shards=shards)
    victim = tmp_path / "made/0/c/1/0/0/0"
    data = victim.read_bytes()
    if harm == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(b"" if harm == "emptied" else data[: len(data) // 2])
    strict = ArrayTarget(tmp_path / "made").source()
    with pytest.raises(DamagedError, match="region" if harm == "cut" else "c/1/0/0/0"):
        strict.read(GRID.region)
    untouched = Region((0, 0, 0, 0), (1, *GRID.shape[1:]))
    assert strict.read(untouched).any()
    if harm == "deleted":
        lost = Region((1, 0, 0, 0), (2, 4, 16, 16))
        assert not open_source(tmp_path / "made", sparse=True).read(lost).any()
        with pytest.raises(DamagedError, match=r"c/1/0/0/0 is missing .*--sparse"):
            open_source(tmp_path / "made").read(lost)


def test_a_torn_shard_is_simply_written_again(tmp_path):
    kind = KINDS["image"]
    create_image(tmp_path / "o", "o", kind, [Layout(GRID, (1, 4, 16, 16), (1, 8, 32, 32))])
    target = ArrayTarget(tmp_path / "o")
    whole = pixels(GRID.shape, kind.dtype)
    target.write(GRID.region, whole)
    for shard in (p for p in (tmp_path / "o/0/c").rglob("*") if p.is_file()):
        shard.write_bytes(shard.read_bytes()[:50])
    target.write(GRID.region, whole)
    np.testing.assert_array_equal(target.source().read(GRID.region), whole)


def test_the_same_values_give_the_same_bytes(tmp_path):
    def written(folder):
        _image(folder, KINDS["image"], shards=SHARDS[1])
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}

    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_many_threads_write_their_own_blocks(tmp_path):
    kind = ImageType(Grid.of((64, 70, 30)), np.dtype("uint16"))
    create_image(tmp_path / "o", "o", kind, [Layout(kind.grid, (8, 8, 10), (16, 16, 30))])
    target = pickle.loads(pickle.dumps(ArrayTarget(tmp_path / "o")))  # noqa: S301
    whole = pixels(kind.grid.shape)
    with ThreadPoolExecutor(8) as pool:
        blocks = Blocks(kind.grid.shape, (16, 16, 30))
        list(pool.map(lambda region: target.write(region, whole[region.slices]), blocks))
    np.testing.assert_array_equal(target.source().read(kind.grid.region), whole)


def test_inside_a_running_event_loop(tmp_path):
    """A notebook's main thread is inside one."""
    kind = ImageType(Grid.of((6, 6)), np.dtype("uint8"))

    async def cell():
        create_scratch(tmp_path / "s", kind, (3, 3))
        target = ArrayTarget(tmp_path / "s", None)
        target.write(kind.grid.region, np.full((6, 6), 9, "uint8"))
        return target.source().read(kind.grid.region)

    assert (asyncio.run(cell()) == 9).all()


def test_the_users_zarr_settings_are_left_alone(tmp_path):
    before = json.dumps(zarr.config.config, default=str, sort_keys=True)
    _image(tmp_path / "made", KINDS["image"])
    open_source(tmp_path / "made").read(GRID.region)
    assert json.dumps(zarr.config.config, default=str, sort_keys=True) == before


def test_a_full_disk_is_a_run_error(tmp_path, monkeypatch):
    kind = ImageType(Grid.of((4, 4)), np.dtype("uint8"))
    create_scratch(tmp_path / "s", kind, (4, 4))
    (tmp_path / "s/c").write_text("a file where a folder must be")
    with pytest.raises(WriteError, match=r"cannot write region .*; look at the disk, then type"):
        ArrayTarget(tmp_path / "s", None).write(kind.grid.region, np.ones((4, 4), "uint8"))


def test_sync_tree(tmp_path, monkeypatch):
    _image(tmp_path / "made", KINDS["mask"])
    sync_tree(tmp_path / "made")
    synced = []
    monkeypatch.setattr("lepton_pipe.store.durable.sync_filesystem", lambda folder: False)
    monkeypatch.setattr("lepton_pipe.store.durable.sync_path", synced.append)
    sync_tree(tmp_path / "made")
    assert set(tmp_path.rglob("*")) <= set(synced)
    assert tmp_path in synced


def test_what_a_killed_writer_left_is_removed(tmp_path, monkeypatch):
    def killed(self, target):
        raise KeyboardInterrupt

    kind = ImageType(Grid.of((4, 4)), np.dtype("uint8"))
    create_scratch(tmp_path / "s", kind, (4, 4))
    target = ArrayTarget(tmp_path / "s", None)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            target.write(kind.grid.region, np.ones((4, 4), "uint8"))
    assert remove_partials(tmp_path) == 1
    with pytest.raises(DamagedError, match="missing"):
        target.source().read(kind.grid.region)
    target.write(kind.grid.region, np.ones((4, 4), "uint8"))
    assert target.source().read(kind.grid.region).all()
    assert remove_partials(tmp_path) == 0


@pytest.mark.parametrize("sparse", [True, False])
def test_an_array_that_goes_away_never_reads_as_zeros(tmp_path, sparse):
    _image(tmp_path / "made", KINDS["image"], shards=SHARDS[1])
    source = open_source(tmp_path / "made", sparse=sparse)
    assert source.read(GRID.region).any()
    (tmp_path / "made").rename(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="made/0: the array is gone"):
        source.read(GRID.region)


@pytest.mark.parametrize(("chunks", "shards"), [((4, 4), (6, 8)), ((4,), None), ((0, 4), None)])
def test_layouts_that_do_not_tile_are_refused(tmp_path, chunks, shards):
    kind = ImageType(Grid.of((10, 10)), np.dtype("uint8"))
    with pytest.raises(ValueError, match="multiples"):
        create_image(tmp_path / "o", "o", kind, [Layout(kind.grid, chunks, shards)])
    assert not (tmp_path / "o").exists()


def test_nothing_runs_on_after_an_error(tmp_path, monkeypatch):
    """Chunks beside the one that failed must not be written by a later, unrelated request."""
    kind = ImageType(Grid.of((8, 8)), np.dtype("uint8"))
    for name in "ab":
        create_scratch(tmp_path / name, kind, (1, 1))
    one, other = (ArrayTarget(tmp_path / name, None) for name in "ab")
    calls, replace = [], Path.replace

    def full(self, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(WriteError, match="No space left on device; make room there, then type"):
            one.write(kind.grid.region, np.ones((8, 8), "uint8"))
    written = set((tmp_path / "a").rglob("*"))
    other.write(kind.grid.region, np.ones((8, 8), "uint8"))
    assert set((tmp_path / "a").rglob("*")) == written


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shape_chunk_and_dtype_comes_back(tmp_path_factory, data):
    shape = data.draw(st.lists(st.integers(1, 17), min_size=2, max_size=5), "shape")
    chunks = tuple(data.draw(st.integers(1, 9)) for _ in shape)
    many = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    shards = data.draw(
        st.sampled_from([None, tuple(c * m for c, m in zip(chunks, many, strict=True))])
    )
    dtype = data.draw(st.sampled_from(["u1", "u2", "i4", "u8", "f4", "f8", "?", "f2"]))
    whole = pixels(shape, dtype)
    path = tmp_path_factory.mktemp("any")
    kind = ImageType(Grid.of(shape), whole.dtype)
    create_image(path, "any", kind, [Layout(kind.grid, chunks, shards)])
    target = ArrayTarget(path)
    target.write(kind.grid.region, whole)
    handles.clear()
    np.testing.assert_array_equal(target.source().read(kind.grid.region), whole)
