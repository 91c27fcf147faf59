"""What a worker keeps of its tasks: the contract of distributed's spill buffer, with checksums."""

from __future__ import annotations

import random
import time

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait
from distributed.spill import ManualEvictProto, SpillBuffer
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.cache.records import RecordStore
from lepton_pipe.cache.uses import Held
from lepton_pipe.errors import DamagedError
from lepton_pipe.run.tiered import PackedRecords, TieredData
from tests.command import PATIENCE

MIB = 2**20


class NoFiles:
    """A disk that takes no records; data of tasks has files of its own."""

    def write(self, file, group, pieces):
        raise OSError(28, "full")

    def remove(self, file):
        """Have none."""


def memory(budget):
    store = RecordStore(NoFiles())
    store.retain(Held("/run/", 0, budget))
    return store


def array(number, dtype=np.uint32):
    return np.full(100_000, number, dtype)


@pytest.fixture(params=[0, 64 * MIB], ids=["disk", "memory"])
def data(request, tmp_path):
    """The data of a worker that may keep 1 MiB as it is."""
    return TieredData(str(tmp_path), MIB, memory(request.param))


def files(tmp_path):
    return [f for f in (tmp_path / "data").glob("*") if f.is_file()]


def test_it_is_what_dask_asks_for(data):
    evicts: ManualEvictProto = data
    assert isinstance(data, SpillBuffer)
    assert not evicts.fast
    assert evicts.evict() == -1


def test_what_does_not_fit_is_spilled_and_comes_back(data, tmp_path):
    for number in range(10):
        data[f"key{number}", number] = array(number)
    assert len(data) == 10
    assert len(data.fast) == 2
    assert len(data.slow) == 8
    assert data.spilled_total.memory > 3 * MIB
    for number in range(10):
        assert (data[f"key{number}", number] == array(number)).all()
    for number in range(10):
        del data[f"key{number}", number]
    assert data.spilled_total == (0, 0)
    assert files(tmp_path) == []
    assert data.slow.data.d._memory.held_bytes == 0


def test_evict_moves_the_oldest_and_says_how_large_it_was(data):
    data["a"], data["b"] = array(1), array(2)
    assert data.evict() >= array(1).nbytes
    assert list(data.fast) == ["b"]
    assert list(data.slow) == ["a"]
    assert data.evict() > 0
    assert data.evict() == -1


class NotPlain:
    """A value that cannot be pickled."""

    def __sizeof__(self):
        return 100

    def __reduce__(self):
        raise TypeError("not me")


def test_a_value_that_cannot_be_pickled_stays(data):
    data["a"] = NotPlain()
    assert data.evict() == -1
    assert "a" in data.fast
    assert "a" not in data.slow
    data["b"] = array(1)
    assert set(data) == {"a", "b"}


def test_a_large_value_that_cannot_be_pickled_is_refused_and_forgotten(data):
    class Large(NotPlain):
        def __sizeof__(self):
            return 2 * MIB

    with pytest.raises(TypeError, match="pickle"):
        data["a"] = Large()
    assert "a" not in data


def test_where_neither_memory_nor_disk_has_room_the_value_stays_where_it_was(tmp_path):
    data = TieredData(str(tmp_path), MIB, memory(0))
    (tmp_path / "data").rmdir()
    (tmp_path / "data").write_text("no folder")
    for number in range(6):
        data[number] = array(number)
    assert len(data.fast) == 6
    assert data.evict() == -1
    assert all((data[n] == array(n)).all() for n in range(6))


def test_records_of_stages_make_room_for_what_tasks_return(tmp_path):
    store = memory(10_000)
    store.retain(Held("/run/", 1, 10_000, {"/run/a": ()}))
    store.put("/run/a/0", "/run/a", (0,), (bytes(9000),))
    assert store.reserve(5000)
    assert store.held_bytes == 5000
    assert not store.reserve(6000)
    store.release(5000)
    assert store.held_bytes == 0


@pytest.mark.parametrize("budget", [0, MIB], ids=["disk", "memory"])
def test_every_bit_of_what_was_spilled(tmp_path, budget):
    kept = PackedRecords(tmp_path / "data", memory(budget))
    value = bytes(range(256)) * 4
    kept["a"] = [value[:10], value[10:]]
    assert kept["a"] == value
    for number in range(300):
        record, chosen = kept._records["a"], random.Random(number)  # noqa: S311
        sound = record.data if record.file is None else record.file.read_bytes()
        torn = bytearray(sound)
        torn[chosen.randrange(len(torn))] ^= 1 << chosen.randrange(8)
        if record.file is None:
            kept._records["a"] = record._replace(data=bytes(torn))
        else:
            record.file.write_bytes(torn)
        with pytest.raises(DamagedError, match="put aside"):
            kept["a"]
        if record.file is None:
            kept._records["a"] = record
        else:
            record.file.write_bytes(sound)
    assert kept["a"] == value


def test_a_file_that_is_gone_is_told_of(tmp_path):
    kept = PackedRecords(tmp_path / "data", memory(0))
    kept["a"] = b"value"
    files(tmp_path)[0].unlink()
    with pytest.raises(DamagedError, match="put aside"):
        kept["a"]
    del kept["a"]
    assert list(kept) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.binary(max_size=3000)), max_size=30))
def test_packed_records_are_a_mapping(tmp_path_factory, acts):
    store = memory(4000)
    kept, model = PackedRecords(tmp_path_factory.mktemp("d") / "data", store), {}
    for key, value in acts:
        if value is None:
            kept.pop(key)
            model.pop(key, None)
        else:
            kept[key] = model[key] = value
        assert dict(kept) == model
        assert 0 <= store.held_bytes <= 4000
    for key in model:
        del kept[key]
    assert store.held_bytes == 0


@pytest.fixture
def worker(tmp_path):
    """A worker of Dask, in this process, that keeps what it computes in 1 MiB; and a client."""
    settings = {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": 0.5,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.monitor-interval": "20ms",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            memory_limit=1000 * MIB,
            data=(TieredData, {"target": MIB, "memory": memory(0)}),
            local_directory=str(tmp_path),
        ) as cluster,
        Client(cluster) as client,
    ):
        (found,) = cluster.workers.values()
        # Whatever this process holds, the worker takes little.
        found.monitor.get_process_memory = lambda: MIB
        yield found, client


def test_a_worker_of_dask_spills_what_it_has_no_room_for_and_gives_it_back(worker):
    one, client = worker
    futures = client.map(array, range(10))
    wait(futures)
    assert len(one.data.fast) == 2
    assert len(one.data.slow) == 8
    assert all((client.gather(future) == array(n)).all() for n, future in enumerate(futures))
    del futures
    until(lambda: not one.data)
    assert one.data.spilled_total == (0, 0)


def test_a_worker_of_dask_that_is_short_of_memory_evicts_what_can_be(worker):
    one, client = worker
    futures = client.map(array, range(2))
    wait(futures)
    stays = client.submit(NotPlain, pure=False)
    wait(stays)
    assert len(one.data.fast) == 3
    one.monitor.get_process_memory = lambda: 900 * MIB
    until(lambda: len(one.data.slow) == 2)
    assert list(one.data.fast) == [stays.key]
    assert one.status.name == "running"
    one.monitor.get_process_memory = lambda: MIB
    assert (client.gather(futures[1]) == array(1)).all()


def until(comes, seconds=PATIENCE):
    """Wait for something that comes soon."""
    deadline = time.monotonic() + seconds
    while not comes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
