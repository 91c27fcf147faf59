"""Records in memory stay within their budget, and leave it in the order in which they are read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.cache import neighbours
from lepton_pipe.cache.record import OVERHEAD_BYTES
from lepton_pipe.cache.records import RecordStore
from lepton_pipe.cache.uses import AxisUse, Held, Prefix, Use
from lepton_pipe.geometry import Blocks

RUN, GROUP = "/run/", "/run/a"
NEEDS_LINUX = pytest.mark.skipif(not neighbours.AVAILABLE, reason="needs Linux")


class Disk:
    """A disk of so many bytes that notes in which order files are written."""

    def __init__(self, room=10**9):
        self.room, self.files, self.written = room, {}, []

    def write(self, file, group, pieces):
        data = b"".join(pieces)
        if sum(map(len, self.files.values())) + len(data) > self.room:
            raise OSError(28, "full")
        self.files[file] = data
        self.written.append(file)

    def remove(self, file):
        self.files.pop(file, None)


def in_turn(length, stage=1):
    """Blocks that read one chunk each, in the order of the chunks."""
    places = tuple(range(length))
    return Use(stage, Blocks((length,), (1,), (0,)), (AxisUse(0, places, places),))


def held(budget, *uses, stage=0, costs=None):
    return Held(RUN, stage, budget, {GROUP: uses}, costs or {})


def data(number, size=1000):
    return (bytes([number % 256]) * (size - OVERHEAD_BYTES),)


def put(store, number, size=1000, **more):
    store.put(f"{GROUP}/{number}", GROUP, (number,), data(number, size), **more)


def find(store, disk, number):
    file = f"{GROUP}/{number}"
    return store.get(file) or disk.files.get(file)


def quiet(store):
    """Wait for what is spilled in the background."""
    spiller = store._spiller
    if spiller is not None:
        spiller.join()


def test_what_is_read_farthest_from_now_is_spilled():
    store, disk = RecordStore(Disk()), None
    disk = store._files
    store.retain(held(4000, in_turn(10)))
    for number in range(10):
        put(store, number)
        quiet(store)
    inside = [n for n in range(10) if store.get(f"{GROUP}/{n}") is not None]
    assert inside == [0, 1, 2]  # the last eighth of the budget is kept free
    assert all(find(store, disk, n) == b"".join(data(n)) for n in range(10))
    # None was written twice, nor one that stayed.
    assert sorted(disk.written) == [f"{GROUP}/{n}" for n in range(3, 10)]


def test_where_nobody_knows_what_is_read_next_the_oldest_goes():
    store = RecordStore(Disk())
    store.retain(Held(RUN, 0, 3000, {GROUP: ()}))
    put(store, 0)
    put(store, 1)
    assert store.get(f"{GROUP}/0") is not None  # now 1 is the one that was not used for longest
    put(store, 2)
    quiet(store)
    assert store.get(f"{GROUP}/1") is None
    assert store.get(f"{GROUP}/0") is not None


def test_of_two_that_are_read_at_the_same_time_the_dearer_one_stays():
    store, other = RecordStore(Disk()), "/run/b"
    uses = {GROUP: (in_turn(1),), other: (in_turn(1),)}
    store.retain(Held(RUN, 0, 2200, uses, {GROUP: 9.0, other: 1.0}))
    put(store, 0)
    store.put(f"{other}/0", other, (0,), data(0))
    quiet(store)
    assert store.get(f"{GROUP}/0") is not None
    assert store.get(f"{other}/0") is None


def test_what_no_block_reads_any_more_is_freed():
    store = RecordStore(Disk())
    store.retain(held(10_000, in_turn(3)))
    for number in range(3):
        put(store, number)
    store.retain(held(10_000, in_turn(3), stage=1))
    store.ended(1, 1)
    assert store.held_bytes == 3000  # block 0 may still be running
    store.ended(1, 0)
    assert store.held_bytes == 1000
    store.ended(0, 2)  # of another stage, run again
    assert store.held_bytes == 1000
    store.retain(Held(RUN, 2, 10_000))
    assert store.held_bytes == 0
    assert store._files.files == {}


def test_the_file_of_what_no_block_reads_any_more_goes_unless_it_was_wanted():
    store = RecordStore(Disk())
    store.retain(held(0, in_turn(3), stage=1))
    put(store, 0)
    put(store, 1, on_disk=True)
    store._files.files[f"{GROUP}/1"] = b"stored"
    store.ended(1, 0)
    store.ended(1, 1)
    assert list(store._files.files) == [f"{GROUP}/1"]


def test_records_of_another_run_are_left_alone():
    store = RecordStore(Disk())
    store.retain(held(10_000, in_turn(3)))
    put(store, 0)
    store.retain(Held("/other/", 0, 10_000, {"/other/a": (in_turn(3),)}))
    store.put("/other/a/0", "/other/a", (0,), data(1))
    assert find(store, store._files, 0) is not None
    store.clear(RUN)
    assert store.get(f"{GROUP}/0") is None
    assert store.get("/other/a/0") is not None


def test_a_file_of_an_earlier_run_does_not_pass_for_a_record():
    store = RecordStore(Disk(room=0))
    store._files.files[f"{GROUP}/0"] = b"old"
    store.retain(held(0, in_turn(1)))
    put(store, 0)  # no room in memory, none on disk: it is dropped
    assert find(store, store._files, 0) is None
    assert store.take()["packed"].dropped == 1


def test_a_record_whose_spilling_fails_stays_while_there_is_room():
    store = RecordStore(Disk(room=0))
    store.retain(held(4000, in_turn(10)))
    for number in range(4):
        put(store, number)
        quiet(store)
    assert [n for n in range(4) if store.get(f"{GROUP}/{n}")] == [0, 1, 2, 3]
    put(store, 5)  # beyond that what is read last is dropped, and that is this one
    put(store, 2)
    assert [n for n in range(10) if store.get(f"{GROUP}/{n}")] == [0, 1, 2, 3]
    store.retain(held(2000, in_turn(10), stage=1))
    assert [n for n in range(10) if store.get(f"{GROUP}/{n}")] == [0, 1]


def test_what_is_on_disk_already_is_not_written_again():
    store = RecordStore(Disk())
    store._files.files.update({f"{GROUP}/{n}": b"".join(data(n)) for n in range(9)})
    store.retain(held(4000, in_turn(9)))
    for number in range(9):
        put(store, number, on_disk=True)
    quiet(store)
    assert store._files.written == []
    assert all(find(store, store._files, n) for n in range(9))


def test_a_stamp_changes_with_the_record_and_not_with_its_tier():
    store = RecordStore(Disk())
    store.retain(held(2000, in_turn(9)))
    put(store, 0)
    before = store.stamp(f"{GROUP}/0")
    store.retain(held(0, in_turn(9), stage=1))
    assert store.get(f"{GROUP}/0") is None
    assert store.stamp(f"{GROUP}/0") == before is not None
    put(store, 0)
    assert store.stamp(f"{GROUP}/0") != before
    assert store.stamp("unknown") is None


@pytest.mark.parametrize("alone", [True, pytest.param(False, marks=NEEDS_LINUX)])
@given(
    puts=st.lists(st.tuples(st.integers(0, 12), st.integers(700, 2500)), max_size=40),
    budget=st.integers(0, 8000),
    room=st.integers(0, 8000),
)
def test_never_over_budget_and_never_lost_while_the_disk_has_room(
    tmp_path_factory, alone, puts, budget, room
):
    store, last = RecordStore(Disk(room)), {}
    store.join(None if alone else tmp_path_factory.mktemp("shared"))
    store.retain(held(budget, in_turn(13)))
    for number, size in puts:
        put(store, number, size)
        last[number] = b"".join(data(number, size))
        assert store.held_bytes <= budget
    quiet(store)
    dropped = store.take()["packed"].dropped
    found = {n: find(store, store._files, n) for n in last}
    assert all(f in (None, last[n]) for n, f in found.items())
    missing = sum(f is None for f in found.values())
    assert missing <= dropped
    store.clear(RUN)
    assert store.held_bytes == 0


@pytest.mark.parametrize("alone", [True, pytest.param(False, marks=NEEDS_LINUX)])
def test_threads_that_put_and_read_at_the_same_time(tmp_path, alone):
    store, budget = RecordStore(Disk()), 20_000
    store.join(None if alone else tmp_path)
    store.retain(held(budget, in_turn(200)))
    most, over = [0], threading.Event()

    def watch():
        while not over.is_set():
            most[0] = max(most[0], store.held_bytes)

    def work(number):
        put(store, number)
        return [n for n in range(number) if find(store, store._files, n) not in (None, data(n)[0])]

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        wrong = list(pool.map(work, range(200)))
    over.set()
    watcher.join()
    quiet(store)
    assert not any(wrong)
    assert 0 < most[0] <= budget
    assert all(find(store, store._files, n) == data(n)[0] for n in range(200))


@given(st.permutations(range(12)))
def test_a_prefix_grows_as_far_as_there_is_no_gap(order):
    prefix, ended = Prefix(), set()
    for block in order:
        prefix.add(block)
        ended.add(block)
        assert prefix.length == next(n for n in range(13) if n not in ended)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), ()])
def test_the_first_and_last_block_that_read_a_chunk_in_their_order(order):
    # Four blocks of which each looks one chunk further, to both sides.
    first, last = (0, 0, 1, 2), (1, 2, 3, 3)
    use = Use(1, Blocks((4, 2), (1, 1), order), (AxisUse(1, first, last), None))
    blocks = Blocks((4, 2), (1, 1), order)
    for chunk in range(4):
        numbers = [
            blocks.index((y, x)) for y in range(first[chunk], last[chunk] + 1) for x in (0, 1)
        ]
        assert use.span((7, chunk)) == (min(numbers), max(numbers))
        for now in range(len(blocks) + 1):
            later = [n for n in numbers if n >= now]
            assert use.next((7, chunk), now) == (min(later) if later else None)


def test_less_room_for_a_while_spills_what_is_read_last_and_forgets_no_block_that_has_ended():
    disk = Disk()
    store = RecordStore(disk)
    store.retain(held(10_000, in_turn(8)))
    for number in range(8):
        put(store, number)
    store.retain(held(8000, in_turn(8), stage=1))
    store.ended(1, 0)
    assert store.held_bytes == 7000
    store.retain(held(4000, in_turn(8), stage=1))  # blocks of another stage run meanwhile
    assert store.held_bytes <= 4000
    assert sorted(disk.written) == [f"{GROUP}/{n}" for n in (5, 6, 7)]
    store.retain(held(8000, in_turn(8), stage=1))
    for number in range(1, 8):
        assert find(store, disk, number) == data(number)[0]
        store.ended(1, number)
    assert store.held_bytes == 0


@NEEDS_LINUX
def test_what_another_process_keeps_is_found_until_it_goes_to_the_disk(tmp_path):
    """Two stores with one folder are what two processes have."""
    disk = Disk()
    here, there = RecordStore(disk), RecordStore(disk)
    for store in (here, there):
        store.join(tmp_path)
        store.retain(held(20_000, in_turn(9)))
    put(there, 1, size=5000)
    file = f"{GROUP}/1"
    assert here.get(file) == there.get(file) == b"".join(data(1, 5000))
    assert here.stamp(file) == there.stamp(file) is not None
    assert here.held_bytes == 0
    here.retain(held(0, in_turn(9), stage=1))  # room that others have is not this one's
    assert here.get(file) == b"".join(data(1, 5000))
    there.retain(held(0, in_turn(9), stage=1))
    assert here.get(file) is there.get(file) is here.stamp(file) is None
    assert disk.files[file] == b"".join(data(1, 5000))
    taken = here.take()["packed"]
    assert (taken.hits, taken.misses) == (2, 1)


@NEEDS_LINUX
@pytest.mark.parametrize("room", [0, 20_000], ids=["on disk", "in memory"])
def test_what_another_process_has_made_again_takes_the_place_of_what_is_here(tmp_path, room):
    disk = Disk()
    here, there = RecordStore(disk), RecordStore(disk)
    file, old, new = f"{GROUP}/1", data(1, 5000), data(2, 5000)
    for store, budget in ((here, 20_000), (there, room)):
        store.join(tmp_path)
        store.retain(held(budget, in_turn(9)))
    here.put(file, GROUP, (1,), old)
    before = here.stamp(file)
    there.put(file, GROUP, (1,), new)
    assert (here.get(file) or disk.files[file]) == b"".join(new)
    assert here.pieces(file) is None
    assert here.stamp(file) != before or not room
    here.retain(held(0, in_turn(9), stage=1))  # what is here has to go
    assert here.held_bytes == 0
    assert (here.get(file) or disk.files[file]) == b"".join(new)


@NEEDS_LINUX
def test_where_nothing_can_be_shared_records_go_to_the_disk(tmp_path, monkeypatch):
    disk = Disk()
    store = RecordStore(disk)
    store.join(tmp_path / "gone")
    store.retain(held(20_000, in_turn(9)))
    put(store, 1)
    assert disk.written == [f"{GROUP}/1"]
    assert store.held_bytes == 0
